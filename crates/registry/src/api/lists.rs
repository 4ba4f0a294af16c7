//! What there is: repositories, tags, and what refers to a manifest. All in pages.

use axum::{
    Json,
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use minato_image::manifest::{self, Document, media};
use minato_model::digest::Digest;
use serde_json::{Value, json};

use super::{
    Parameters, Registry, put_headers,
    refusal::{ErrorCode, Refusal},
};
use crate::{library::Library, names::Repository};

const FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");
/// Entries in a page, at most: an answer of some 100 kB.
const PAGE: usize = 1000;

impl Registry {
    /// The repositories that hold something.
    pub(super) async fn catalogue(&self, query: &Parameters) -> Result<Response, Refusal> {
        let names = self.blocking(Library::repositories).await?;
        let page = Page::of(names, query)?;
        let body = json!({ "repositories": page.names });
        Ok(page.answer("/v2/_catalog", &[], body))
    }

    /// A repository's tags.
    pub(super) async fn tags(&self, repository: Repository, query: &Parameters) -> Result<Response, Refusal> {
        let name = repository.clone();
        let tags = self
            .blocking(move |library| {
                let exists = library.repositories.exists(&name)?;
                if exists { library.repositories.tags(&name).map(Some) } else { Ok(None) }
            })
            .await?;
        let tags = tags.ok_or_else(|| {
            Refusal::not_found(ErrorCode::NameUnknown, "the registry has no such repository")
        })?;
        let page = Page::of(tags, query)?;
        let body = json!({ "name": repository.as_str(), "tags": page.names });
        Ok(page.answer(&format!("/v2/{repository}/tags/list"), &[], body))
    }

    /// What says something about a manifest, which need not be there itself.
    pub(super) async fn referrers(
        &self,
        repository: Repository,
        subject: Digest,
        query: &Parameters,
    ) -> Result<Response, Refusal> {
        let (name, about) = (repository.clone(), subject.clone());
        let digests = self.blocking(move |library| library.repositories.referrers(&name, &about)).await?;
        let page = Page::of(digests.into_iter().map(String::from).collect(), query)?;
        let kind = query.first("artifactType").map(str::to_owned);

        let (name, listed, wanted) = (repository.clone(), page.names.clone(), kind.clone());
        let manifests = self
            .blocking(move |library| {
                let mut found = Vec::new();
                for digest in listed.iter().filter_map(|text| text.parse().ok()) {
                    found.extend(describe(library, &name, &digest, wanted.as_deref())?);
                }
                Ok::<_, std::io::Error>(found)
            })
            .await?;
        let body = json!({ "schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": manifests });
        let keep: Vec<_> = kind.iter().map(|kind| ("artifactType", kind.as_str())).collect();
        let mut response = page.answer(&format!("/v2/{repository}/referrers/{subject}"), &keep, body);
        let mut fields = vec![(header::CONTENT_TYPE, media::OCI_INDEX.to_owned())];
        fields.extend(kind.is_some().then(|| (FILTERS, "artifactType".to_owned())));
        for field in fields {
            put_headers(response.headers_mut(), [field]);
        }
        Ok(response)
    }
}

/// A referrer's descriptor (distribution-spec 1.1, "Listing Referrers"), if it is of the kind that is wanted.
fn describe(
    library: &Library,
    repository: &Repository,
    digest: &Digest,
    kind: Option<&str>,
) -> std::io::Result<Option<Value>> {
    let Some((bytes, media_type)) = library.manifest(repository.as_str(), digest)? else { return Ok(None) };
    let Ok(document) = manifest::parse(&bytes, Some(&media_type)) else { return Ok(None) };
    let (artifact_type, annotations) = match document {
        Document::Image(image) => (image.artifact_type.or(Some(image.config.media_type)), image.annotations),
        Document::Index(index) => (index.artifact_type, index.annotations),
    };
    if kind.is_some_and(|kind| artifact_type.as_deref() != Some(kind)) {
        return Ok(None);
    }
    let mut entry = json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() });
    if let Some(fields) = entry.as_object_mut() {
        fields.extend(artifact_type.map(|kind| ("artifactType".to_owned(), json!(kind))));
        fields.extend(annotations.map(|notes| ("annotations".to_owned(), json!(notes))));
    }
    Ok(Some(entry))
}

/// A part of a sorted list: `n` entries after `last`.
struct Page {
    names: Vec<String>,
    size: usize,
    more: bool,
}

impl Page {
    fn of(mut names: Vec<String>, query: &Parameters) -> Result<Self, Refusal> {
        let wanted = match query.first("n") {
            None => PAGE,
            Some(text) => text.parse().map_err(|_| {
                Refusal::bad(ErrorCode::Unsupported, "n must be the number of entries that are wanted")
            })?,
        };
        let size = wanted.min(PAGE);
        if let Some(last) = query.first("last") {
            names.retain(|name| name.as_str() > last);
        }
        let more = size > 0 && names.len() > size;
        names.truncate(size);
        Ok(Self { names, size, more })
    }

    /// The answer, with a link to the next page.
    fn answer(&self, path: &str, keep: &[(&str, &str)], body: Value) -> Response {
        let mut response = Json(body).into_response();
        if let (true, Some(last)) = (self.more, self.names.last()) {
            let mut query = format!("n={}&last={}", self.size, escape(last));
            for (name, value) in keep {
                query.push_str(&format!("&{name}={}", escape(value)));
            }
            if let Ok(link) = HeaderValue::try_from(format!("<{path}?{query}>; rel=\"next\"")) {
                response.headers_mut().insert(header::LINK, link);
            }
        }
        response
    }
}

/// Percent-encodes all but what a query may hold as it is (RFC 3986, "unreserved", and `:` `/`).
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b'/' => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}
