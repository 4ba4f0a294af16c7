//! Errors as the distribution specification writes them: `{"errors":[{"code","message","detail"}]}`.

use std::io;

use axum::{
    Json,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::{
    files,
    manifests::PutError,
    uploads::{FinishError, ReceiveError, UploadError},
};

/// The specification's codes (distribution-spec 1.1, "Error Codes"), and Docker's `UNKNOWN` for what
/// is no fault of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ErrorCode {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    Unauthorized,
    Denied,
    Unsupported,
    TooManyRequests,
    Unknown,
}

impl ErrorCode {
    fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied => "DENIED",
            Self::Unsupported => "UNSUPPORTED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// A request that was not done, and why.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) code: ErrorCode,
    pub(super) message: String,
    pub(super) detail: Value,
    pub(super) headers: HeaderMap,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), detail: Value::Null, headers: HeaderMap::new() }
    }

    pub(super) fn bad(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub(super) fn not_found(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    pub(super) fn no_such_place() -> Self {
        Self::not_found(ErrorCode::Unsupported, "the registry has nothing at this path")
    }

    pub(super) fn method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported, "this can't be done here")
    }

    pub(super) fn blob_unknown() -> Self {
        Self::not_found(ErrorCode::BlobUnknown, "this repository doesn't have the blob")
    }

    pub(super) fn manifest_unknown() -> Self {
        Self::not_found(ErrorCode::ManifestUnknown, "this repository doesn't have the manifest")
    }

    pub(super) fn too_many(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests, message)
            .with(header::RETRY_AFTER, HeaderValue::from_static("5"))
    }

    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        if files::is_full(&error) {
            let message = "the disk that the registry is on is full; make room and push again";
            return Self::new(StatusCode::INSUFFICIENT_STORAGE, ErrorCode::Unknown, message);
        }
        tracing::error!(%error, "the registry's disk failed");
        let message = "the registry can't read or write its disk; its log says why";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Unknown, message)
    }
}

impl From<UploadError> for Refusal {
    fn from(error: UploadError) -> Self {
        let message = error.to_string();
        match error {
            UploadError::Unknown => Self::not_found(ErrorCode::BlobUploadUnknown, message),
            UploadError::Busy => Self::new(StatusCode::CONFLICT, ErrorCode::BlobUploadInvalid, message),
            UploadError::TooMany => Self::too_many(message),
            UploadError::Storage(source) => source.into(),
        }
    }
}

impl From<ReceiveError> for Refusal {
    fn from(error: ReceiveError) -> Self {
        let message = error.to_string();
        match error {
            ReceiveError::Idle(_) => {
                Self::new(StatusCode::REQUEST_TIMEOUT, ErrorCode::BlobUploadInvalid, message)
            }
            ReceiveError::Broken(_) => Self::bad(ErrorCode::BlobUploadInvalid, message),
            ReceiveError::TooLong(_) => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::SizeInvalid, message)
            }
            ReceiveError::Storage(source) => source.into(),
        }
    }
}

impl From<FinishError> for Refusal {
    fn from(error: FinishError) -> Self {
        let message = error.to_string();
        match error {
            FinishError::Digest { .. } => Self::bad(ErrorCode::DigestInvalid, message),
            FinishError::Storage(source) => source.into(),
        }
    }
}

impl From<PutError> for Refusal {
    fn from(error: PutError) -> Self {
        let message = error.to_string();
        match error {
            PutError::Invalid(_) => Self::bad(ErrorCode::ManifestInvalid, message),
            PutError::Digest { .. } => Self::bad(ErrorCode::DigestInvalid, message),
            PutError::Missing(digests) => Self {
                detail: json!({ "missing": digests }),
                ..Self::bad(ErrorCode::ManifestBlobUnknown, message)
            },
            PutError::Storage(source) => source.into(),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut error = json!({ "code": self.code.as_str(), "message": self.message });
        if let (Some(fields), false) = (error.as_object_mut(), self.detail.is_null()) {
            fields.insert("detail".to_owned(), self.detail);
        }
        (self.status, self.headers, Json(json!({ "errors": [error] }))).into_response()
    }
}
