//! Errors as answers.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use minato_model::code::{Code, Problem};
use serde::Serialize;

use crate::core::Fault;

/// A problem that is answered: `{"error": {…}}` with the status that fits its code.
#[derive(Debug)]
pub(super) struct Failed(pub(super) Problem);

/// What a handler answers.
pub(super) type Answered<T> = Result<Json<T>, Failed>;

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        Self(fault.into())
    }
}

#[derive(Serialize)]
struct Body<'a> {
    error: &'a Problem,
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let mut response = (status(self.0.code), Json(Body { error: &self.0 })).into_response();
        let headers = response.headers_mut();
        if matches!(self.0.code, Code::Unauthorized | Code::TokenExpired | Code::TokenRevoked) {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // What is left of the body isn't read: the connection can't be used again.
        if matches!(
            self.0.code,
            Code::RequestTooLarge | Code::UnsupportedMedia | Code::ForeignOrigin | Code::ClientTimeout
        ) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// The status of a code. What a client can't mend is 5xx.
#[expect(clippy::wildcard_enum_match_arm, reason = "what isn't named is an error of what was sent")]
fn status(code: Code) -> StatusCode {
    match code {
        Code::Unauthorized | Code::TokenExpired | Code::TokenRevoked => StatusCode::UNAUTHORIZED,
        Code::Denied | Code::ForeignOrigin => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::ClientTimeout => StatusCode::REQUEST_TIMEOUT,
        Code::Conflict | Code::PlanOutdated | Code::ReleaseRefused | Code::RouteTaken => StatusCode::CONFLICT,
        Code::RequestTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::UnsupportedMedia => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Code::InvalidRequest => StatusCode::BAD_REQUEST,
        Code::Internal | Code::NodeFault => StatusCode::INTERNAL_SERVER_ERROR,
        Code::Timeout => StatusCode::GATEWAY_TIMEOUT,
        Code::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    }
}
