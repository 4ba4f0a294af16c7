//! Blobs on their way in: POST, PATCH, PUT, and what is asked about them.

use std::sync::Arc;

use axum::{
    body::{Body, HttpBody as _},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use minato_image::digest::Hasher;
use minato_model::digest::{Algorithm, Digest};

use super::{
    CONTENT_DIGEST, Parameters, Registry,
    access::{Caller, Wanted},
    empty, place,
    refusal::{ErrorCode, Refusal},
};
use crate::{
    library::Library,
    names::{self, Repository},
    uploads::{Uploads, Writing, receive},
};

const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");

impl Registry {
    /// POST: mounts a blob that is there, takes a whole one, or begins an upload.
    pub(super) async fn begin_upload(
        &self,
        repository: Repository,
        caller: &Caller,
        query: &Parameters,
        body: Body,
    ) -> Result<Response, Refusal> {
        if let Some(text) = query.first("mount") {
            let digest = place::digest(text)?;
            let from = query.first("from");
            // A blob's digest lets nobody read what its token doesn't: then it is uploaded.
            let may = caller.may(from.map_or(Wanted::List, Wanted::Pull));
            if may && self.mount(&repository, &digest, from).await? {
                return Ok(stored(&repository, &digest));
            }
        }
        let whole = query.first("digest").map(place::digest).transpose()?;
        let algorithm = match (&whole, query.first("digest-algorithm")) {
            (Some(digest), _) => digest.algorithm(),
            (None, None | Some("sha256")) => Algorithm::Sha256,
            (None, Some("sha512")) => Algorithm::Sha512,
            (None, Some(_)) => {
                let message = "digests are made with sha256 or sha512";
                return Err(Refusal::bad(ErrorCode::DigestInvalid, message));
            }
        };
        let name = repository.clone();
        let id = self.blocking(move |library| library.uploads.begin(&name, algorithm)).await?;
        match whole {
            // Without the content it is the first half of a POST and a PUT.
            Some(digest) if !body.is_end_stream() || is_of_nothing(&digest) => {
                let taken = self.fill(&repository, &id, &HeaderMap::new(), body).await;
                let writing = match taken {
                    Ok(writing) => writing,
                    Err(refusal) => {
                        // Nobody was told of this upload: none will go on with it.
                        let left = Uploads::take(&self.library, &repository, &id).await?;
                        self.blocking(move |_| left.cancel()).await?;
                        return Err(refusal);
                    }
                };
                self.blocking(move |_| writing.finish(&digest).map(|()| digest))
                    .await
                    .map(|digest| stored(&repository, &digest))
            }
            _ => Ok(under_way(StatusCode::ACCEPTED, &repository, &id, 0)),
        }
    }

    /// PATCH: appends.
    pub(super) async fn continue_upload(
        &self,
        repository: Repository,
        id: names::Upload,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Response, Refusal> {
        let writing = self.fill(&repository, &id, headers, body).await?;
        Ok(under_way(StatusCode::ACCEPTED, &repository, &id, writing.offset()))
    }

    /// PUT: appends, perhaps, and makes the upload a blob.
    pub(super) async fn finish_upload(
        &self,
        repository: Repository,
        id: names::Upload,
        query: &Parameters,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Response, Refusal> {
        let digest = query
            .first("digest")
            .ok_or_else(|| Refusal::bad(ErrorCode::DigestInvalid, "the query must say what the digest is"))?;
        let digest = place::digest(digest)?;
        let writing = self.fill(&repository, &id, headers, body).await?;
        let digest = self.blocking(move |_| writing.finish(&digest).map(|()| digest)).await?;
        Ok(stored(&repository, &digest))
    }

    /// GET: how far an upload is.
    pub(super) async fn upload_status(
        &self,
        repository: Repository,
        id: names::Upload,
    ) -> Result<Response, Refusal> {
        let writing = Uploads::take(&self.library, &repository, &id).await?;
        Ok(under_way(StatusCode::NO_CONTENT, &repository, &id, writing.offset()))
    }

    /// DELETE: ends an upload without a blob.
    pub(super) async fn cancel_upload(
        &self,
        repository: Repository,
        id: names::Upload,
    ) -> Result<Response, Refusal> {
        let writing = Uploads::take(&self.library, &repository, &id).await?;
        self.blocking(move |_| writing.cancel()).await?;
        Ok(empty(StatusCode::NO_CONTENT, []))
    }

    /// Appends a request's body where its headers say that it belongs.
    async fn fill(
        &self,
        repository: &Repository,
        id: &names::Upload,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Writing, Refusal> {
        let _place = self.library.uploads.admit()?;
        let writing = Uploads::take(&self.library, repository, id).await?;
        if body.is_end_stream() && !headers.contains_key(header::CONTENT_RANGE) {
            return Ok(writing);
        }
        let room = room(&self.library, repository, &writing, headers, &body)?;
        let before = writing.offset();
        let writing = receive(writing, body, room.most, self.library.limits.idle).await?;
        match room.exactly {
            Some(length) if writing.offset() - before != length => {
                let message =
                    format!("Content-Range says {length} bytes, {} came", writing.offset() - before);
                Err(Refusal::bad(ErrorCode::SizeInvalid, message))
            }
            _ => Ok(writing),
        }
    }

    async fn mount(
        &self,
        repository: &Repository,
        digest: &Digest,
        from: Option<&str>,
    ) -> Result<bool, Refusal> {
        // What can't be mounted is uploaded: a name that nothing can have is no error here.
        let from = match from.map(str::parse::<Repository>) {
            Some(Err(_)) => return Ok(false),
            Some(Ok(from)) => Some(from),
            None => None,
        };
        let (repository, digest) = (repository.clone(), digest.clone());
        self.blocking(move |library| library.mount(&repository, &digest, from.as_ref())).await
    }
}

fn is_of_nothing(digest: &Digest) -> bool {
    Hasher::new(digest.algorithm()).finish() == *digest
}

/// How much a body may bring.
struct Room {
    most: u64,
    exactly: Option<u64>,
}

fn room(
    library: &Arc<Library>,
    repository: &Repository,
    writing: &Writing,
    headers: &HeaderMap,
    body: &Body,
) -> Result<Room, Refusal> {
    let left = library.limits.blob.saturating_sub(writing.offset());
    let announced = body.size_hint().exact();
    let exactly = match headers.get(header::CONTENT_RANGE) {
        None => None,
        Some(value) => {
            let (first, length) = value.to_str().ok().and_then(content_range).ok_or_else(|| {
                Refusal::bad(ErrorCode::BlobUploadInvalid, "Content-Range must be <first>-<last>")
            })?;
            if first != writing.offset() {
                return Err(out_of_order(repository, writing, first));
            }
            Some(length)
        }
    };
    if let (Some(length), Some(announced)) = (exactly, announced)
        && length != announced
    {
        let message = format!("Content-Range says {length} bytes, Content-Length {announced}");
        return Err(Refusal::bad(ErrorCode::SizeInvalid, message));
    }
    if announced.or(exactly).is_some_and(|length| length > left) {
        let message = format!("a blob may have at most {} bytes", library.limits.blob);
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::SizeInvalid, message));
    }
    Ok(Room { most: exactly.unwrap_or(left).min(left), exactly })
}

fn out_of_order(repository: &Repository, writing: &Writing, first: u64) -> Refusal {
    let message = format!("the next byte is {}, not {first}", writing.offset());
    let mut refusal = Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, ErrorCode::BlobUploadInvalid, message);
    let place =
        [(header::LOCATION, location(repository, writing.id())), (header::RANGE, range(writing.offset()))];
    super::put_headers(&mut refusal.headers, place);
    refusal
}

/// Reads `<first>-<last>` (the specification's form, here also as HTTP writes it: `bytes 0-9/*`): the
/// first byte's place and how many there are.
fn content_range(text: &str) -> Option<(u64, u64)> {
    let text = text.strip_prefix("bytes").map_or(text, |rest| rest.trim_start_matches([' ', '=']));
    let text = text.split('/').next()?;
    let (first, last) = text.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    Some((first, last.checked_sub(first)?.checked_add(1)?))
}

/// What is there, as clients expect it: nothing is `0-0` too (the specification has no form for it).
fn range(offset: u64) -> String {
    format!("0-{}", offset.saturating_sub(1))
}

fn location(repository: &Repository, id: &names::Upload) -> String {
    format!("/v2/{repository}/blobs/uploads/{id}")
}

fn under_way(status: StatusCode, repository: &Repository, id: &names::Upload, offset: u64) -> Response {
    let mut response = empty(
        status,
        [
            (header::LOCATION, location(repository, id)),
            (header::RANGE, range(offset)),
            (UPLOAD_ID, id.to_string()),
        ],
    );
    if status != StatusCode::NO_CONTENT {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    response
}

fn stored(repository: &Repository, digest: &Digest) -> Response {
    empty(
        StatusCode::CREATED,
        [
            (header::LOCATION, format!("/v2/{repository}/blobs/{digest}")),
            (CONTENT_DIGEST, digest.to_string()),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::content_range;

    #[test]
    fn content_ranges() {
        assert_eq!(content_range("0-9"), Some((0, 10)));
        assert_eq!(content_range("bytes 10-10/*"), Some((10, 1)));
        assert_eq!(content_range("bytes=5-9"), Some((5, 5)));
        for wrong in ["", "9-0", "-5", "5-", "a-b", "0-18446744073709551615", "0-99999999999999999999"] {
            assert_eq!(content_range(wrong), None, "{wrong}");
        }
    }
}
