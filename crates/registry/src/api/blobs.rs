//! Blobs on their way out.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::Response,
};
use minato_model::digest::Digest;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

use super::{
    CONTENT_DIGEST, Registry, empty, put_headers,
    refusal::{ErrorCode, Refusal},
};
use crate::names::Repository;

/// Read from the disk at once; the client's pace decides when the next piece is.
const PIECE: usize = 256 << 10;

impl Registry {
    /// GET and HEAD, whole or one range.
    pub(super) async fn blob(
        &self,
        repository: Repository,
        digest: Digest,
        method: &Method,
        headers: &HeaderMap,
    ) -> Result<Response, Refusal> {
        let wanted = digest.clone();
        let opened = self
            .blocking(move |library| {
                let held = library.repositories.has_blob(&repository, &wanted)?;
                if held { library.blob(&wanted) } else { Ok::<_, std::io::Error>(None) }
            })
            .await?;
        let (file, size) = opened.ok_or_else(Refusal::blob_unknown)?;

        let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
        let (status, first, length) = match range.map_or(Range::Whole, |text| Range::parse(text, size)) {
            Range::Whole => (StatusCode::OK, 0, size),
            Range::Part { first, length } => (StatusCode::PARTIAL_CONTENT, first, length),
            Range::Outside => return Err(outside(size)),
        };
        let body = if *method == Method::HEAD {
            Body::empty()
        } else {
            let mut file = tokio::fs::File::from_std(file);
            if first > 0 {
                file.seek(std::io::SeekFrom::Start(first)).await?;
            }
            Body::from_stream(ReaderStream::with_capacity(file.take(length), PIECE))
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let fields = [
            (header::CONTENT_LENGTH, length.to_string()),
            (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
            (header::ACCEPT_RANGES, "bytes".to_owned()),
            (header::ETAG, format!("\"{digest}\"")),
            (CONTENT_DIGEST, digest.to_string()),
        ];
        put_headers(response.headers_mut(), fields);
        if status == StatusCode::PARTIAL_CONTENT {
            let last = first + length - 1;
            put_headers(
                response.headers_mut(),
                [(header::CONTENT_RANGE, format!("bytes {first}-{last}/{size}"))],
            );
        }
        Ok(response)
    }

    /// DELETE.
    pub(super) async fn delete_blob(
        &self,
        repository: Repository,
        digest: Digest,
    ) -> Result<Response, Refusal> {
        let removed = self.blocking(move |library| library.delete_blob(&repository, &digest)).await?;
        if removed { Ok(empty(StatusCode::ACCEPTED, [])) } else { Err(Refusal::blob_unknown()) }
    }
}

fn outside(size: u64) -> Refusal {
    let message = format!("the blob has {size} bytes");
    let refusal = Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, ErrorCode::SizeInvalid, message);
    match HeaderValue::try_from(format!("bytes */{size}")) {
        Ok(value) => refusal.with(header::CONTENT_RANGE, value),
        Err(_) => refusal,
    }
}

/// What of a blob is wanted (RFC 9110, 14.2).
#[derive(Debug, PartialEq, Eq)]
enum Range {
    /// All: also for what isn't understood, and for several ranges at once.
    Whole,
    Part {
        first: u64,
        length: u64,
    },
    Outside,
}

impl Range {
    fn parse(text: &str, size: u64) -> Self {
        let Some((first, last)) = text.strip_prefix("bytes=").and_then(|text| text.split_once('-')) else {
            return Self::Whole;
        };
        let (first, last) = match (first.trim(), last.trim()) {
            ("", last) => match last.parse::<u64>() {
                Ok(0) => return Self::Outside,
                Ok(count) => (size.saturating_sub(count), u64::MAX),
                Err(_) => return Self::Whole,
            },
            (first, "") => match first.parse() {
                Ok(first) => (first, u64::MAX),
                Err(_) => return Self::Whole,
            },
            (first, last) => match (first.parse::<u64>(), last.parse::<u64>()) {
                (Ok(first), Ok(last)) if first <= last => (first, last),
                _ => return Self::Whole,
            },
        };
        if first >= size {
            return Self::Outside;
        }
        Self::Part { first, length: last.min(size - 1) - first + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::Range;

    fn part(first: u64, length: u64) -> Range {
        Range::Part { first, length }
    }

    #[test]
    fn ranges() {
        for (text, range) in [
            ("bytes=0-0", part(0, 1)),
            ("bytes=2-", part(2, 8)),
            ("bytes=-3", part(7, 3)),
            ("bytes=-30", part(0, 10)),
            ("bytes=5-100", part(5, 5)),
            ("bytes=10-", Range::Outside),
            ("bytes=-0", Range::Outside),
            ("bytes=5-4", Range::Whole),
            ("bytes=0-1,4-5", Range::Whole),
            ("bytes=x-", Range::Whole),
            ("lines=0-1", Range::Whole),
        ] {
            assert_eq!(Range::parse(text, 10), range, "{text}");
        }
        assert_eq!(Range::parse("bytes=-1", 0), Range::Outside);
    }
}
