//! What a request says: its query and its body, checked.

use std::time::Duration;

use axum::{
    extract::{FromRequest, FromRequestParts, Query, Request},
    http::{header, request::Parts},
};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use minato_model::code::{Code, Problem};
use serde::de::DeserializeOwned;

use super::{BODY_MAX, answer::Failed};

/// How long a body may take: far more than the largest one needs on a slow line.
const BODY_WITHIN: Duration = Duration::from_secs(30);

/// A query that fits.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Failed;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failed> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(query)) => Ok(Self(query)),
            Err(rejection) => Err(Failed(Problem::new(Code::InvalidRequest, rejection.body_text()))),
        }
    }
}

/// A body of JSON that fits, of at most [`BODY_MAX`] bytes.
pub(super) struct Sent<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Sent<T> {
    type Rejection = Failed;
    async fn from_request(request: Request, _state: &S) -> Result<Self, Failed> {
        let announced = request.headers().get(header::CONTENT_LENGTH);
        let announced = announced.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| length > BODY_MAX as u64) {
            return Err(too_large());
        }
        let body = Limited::new(request.into_body(), BODY_MAX).collect();
        let Ok(body) = tokio::time::timeout(BODY_WITHIN, body).await else {
            let message = format!("the request's body didn't come within {} s", BODY_WITHIN.as_secs());
            return Err(Failed(Problem::new(Code::ClientTimeout, message)));
        };
        let body = body.map_err(|error| {
            if error.is::<LengthLimitError>() {
                return too_large();
            }
            Failed(Problem::new(Code::InvalidRequest, "the request's body broke off"))
        })?;
        serde_json::from_slice(&body.to_bytes()).map(Self).map_err(|error| {
            Failed(Problem::new(Code::InvalidRequest, format!("the body doesn't fit: {}", misfit(&error))))
        })
    }
}

fn too_large() -> Failed {
    let message = format!("a request's body may have {BODY_MAX} bytes");
    Failed(Problem::new(Code::RequestTooLarge, message).with_hint("apply the files in parts"))
}

/// What doesn't fit. A value that is shown for it may be a private key at the wrong place.
fn misfit(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if text.contains("-----BEGIN") {
        format!("something else was expected at line {} column {}", error.line(), error.column())
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use minato_model::tls::Files;

    use super::*;

    #[test]
    fn a_key_at_the_wrong_place_is_not_shown() {
        for (text, says) in [
            ("\"-----BEGIN PRIVATE KEY-----\\nabcd\"", "something else was expected at line 1"),
            ("{\"-----BEGIN PRIVATE KEY-----\\nabcd\": 1}", "something else was expected at line 1"),
            ("{\"key\": 1}", "expected a string"),
        ] {
            let said = misfit(&serde_json::from_str::<Files>(text).unwrap_err());
            assert!(said.contains(says) && !said.contains("abcd"), "{said}");
        }
    }
}
