//! Manifests in and out.

use std::time::Duration;

use axum::{
    body::{Body, HttpBody as _},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures_util::StreamExt as _;
use minato_model::digest::Digest;

use super::{
    CONTENT_DIGEST, Parameters, Reference, Registry, empty, put_headers,
    refusal::{ErrorCode, Refusal},
};
use crate::{
    manifests::Put,
    names::{Repository, Tag},
};

const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const TAGGED: HeaderName = HeaderName::from_static("oci-tag");
/// Tags that one PUT sets, at most: each is a synced file.
const TAGS_MAX: usize = 16;

impl Registry {
    /// GET and HEAD by tag or digest.
    pub(super) async fn manifest(
        &self,
        repository: Repository,
        reference: Reference,
        method: &Method,
    ) -> Result<Response, Refusal> {
        let found = self
            .blocking(move |library| {
                let digest = match reference {
                    Reference::Digest(digest) => Some(digest),
                    Reference::Tag(tag) => library.repositories.tag(&repository, &tag)?,
                    Reference::Invalid => None,
                };
                let Some(digest) = digest else { return Ok::<_, std::io::Error>(None) };
                let found = library.manifest(repository.as_str(), &digest)?;
                Ok(found.map(|(bytes, media_type)| (digest, bytes, media_type)))
            })
            .await?;
        let (digest, bytes, media_type) = found.ok_or_else(Refusal::manifest_unknown)?;
        let fields = [
            (header::CONTENT_LENGTH, bytes.len().to_string()),
            (header::CONTENT_TYPE, media_type),
            (header::ETAG, format!("\"{digest}\"")),
            (CONTENT_DIGEST, digest.to_string()),
        ];
        let body = if *method == Method::HEAD { Body::empty() } else { Body::from(bytes) };
        let mut response = body.into_response();
        put_headers(response.headers_mut(), fields);
        Ok(response)
    }

    /// PUT by tag or digest, also with tags in the query.
    pub(super) async fn put_manifest(
        &self,
        repository: Repository,
        reference: Reference,
        query: &Parameters,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Response, Refusal> {
        let (digest, tags) = names(reference, query)?;
        let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = media_type.map(str::to_owned);
        let bytes = read(body, self.library.limits.manifest, self.library.limits.idle).await?;
        let name = repository.clone();
        let asked: Vec<_> = query.all("tag").map(str::to_owned).collect();
        let stored = self
            .blocking(move |library| {
                library.put_manifest(&Put {
                    repository: &repository,
                    digest: digest.as_ref(),
                    tags: &tags,
                    media_type: media_type.as_deref(),
                    bytes: &bytes,
                })
            })
            .await?;
        let fields = [
            (header::LOCATION, format!("/v2/{name}/manifests/{}", stored.digest)),
            (CONTENT_DIGEST, stored.digest.to_string()),
        ];
        let mut response = empty(StatusCode::CREATED, fields);
        if let Some(subject) = stored.subject {
            put_headers(response.headers_mut(), [(SUBJECT, subject.to_string())]);
        }
        for value in asked.iter().filter_map(|tag| HeaderValue::from_str(tag).ok()) {
            response.headers_mut().append(TAGGED, value);
        }
        Ok(response)
    }

    /// DELETE: a tag alone, or by digest the manifest with all its tags.
    pub(super) async fn delete_manifest(
        &self,
        repository: Repository,
        reference: Reference,
    ) -> Result<Response, Refusal> {
        let removed = self
            .blocking(move |library| match reference {
                Reference::Digest(digest) => library.delete_manifest(&repository, &digest),
                Reference::Tag(tag) => library.delete_tag(&repository, &tag),
                Reference::Invalid => Ok(false),
            })
            .await?;
        if removed { Ok(empty(StatusCode::ACCEPTED, [])) } else { Err(Refusal::manifest_unknown()) }
    }
}

/// What a manifest is to be called: its digest, if that was said, and its tags.
fn names(reference: Reference, query: &Parameters) -> Result<(Option<Digest>, Vec<Tag>), Refusal> {
    let invalid =
        |error: crate::names::InvalidName| Refusal::bad(ErrorCode::ManifestInvalid, error.to_string());
    match reference {
        Reference::Tag(tag) => {
            let digest = query.first("digest").map(super::place::digest).transpose()?;
            Ok((digest, vec![tag]))
        }
        Reference::Invalid => Err(invalid(crate::names::InvalidName::Tag)),
        Reference::Digest(digest) => {
            let tags = query.all("tag").map(str::parse).collect::<Result<Vec<_>, _>>().map_err(invalid)?;
            if tags.len() > TAGS_MAX {
                let message = format!("one request sets at most {TAGS_MAX} tags");
                return Err(Refusal::new(StatusCode::URI_TOO_LONG, ErrorCode::ManifestInvalid, message));
            }
            Ok((Some(digest), tags))
        }
    }
}

/// Reads a body of at most `most` bytes.
async fn read(body: Body, most: usize, idle: Duration) -> Result<Vec<u8>, Refusal> {
    let too_large = || {
        let message = format!("a manifest may have at most {most} bytes");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::SizeInvalid, message)
    };
    if body.size_hint().lower() > most as u64 {
        return Err(too_large());
    }
    let mut stream = body.into_data_stream();
    let mut bytes = Vec::new();
    loop {
        let next = tokio::time::timeout(idle, stream.next()).await.map_err(|_| {
            let message = format!("nothing came for {} seconds", idle.as_secs());
            Refusal::new(StatusCode::REQUEST_TIMEOUT, ErrorCode::ManifestInvalid, message)
        })?;
        match next {
            None => return Ok(bytes),
            Some(Err(_)) => return Err(Refusal::bad(ErrorCode::SizeInvalid, "the body broke off")),
            Some(Ok(piece)) if bytes.len() + piece.len() > most => return Err(too_large()),
            Some(Ok(piece)) => bytes.extend_from_slice(&piece),
        }
    }
}
