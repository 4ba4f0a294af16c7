//! What the edge says itself, instead of an instance: RFC 9457 problems with the contract's headers.

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{CONTENT_TYPE, LOCATION, RETRY_AFTER},
};
use minato_model::{
    code::Code,
    ids::{InstanceId, ServiceKey},
    routing::Refusal,
};

use crate::grpc;

/// An answer of the edge's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) code: Code,
    detail: String,
    retry_after: Option<Duration>,
    reason: Option<Code>,
    service: Option<ServiceKey>,
    instance: Option<InstanceId>,
    location: Option<HeaderValue>,
}

impl Answer {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            retry_after: None,
            reason: None,
            service: None,
            instance: None,
            location: None,
        }
    }

    /// What is asked for is there.
    pub(crate) fn redirect(location: HeaderValue) -> Self {
        let answer = Self::new(Code::Redirected, "this service answers over TLS only");
        Self { location: Some(location), ..answer }
    }

    /// The release can't be started. Says the kind of reason, the service and the instance, and no
    /// more: what was run and what it wrote is for `why`.
    pub(crate) fn start_failed(service: &ServiceKey, refusal: &Refusal) -> Self {
        let answer = Self::new(Code::StartFailed, "the service can't be started at the moment");
        answer.of(service).because(refusal).retry_after(refusal.retry_after)
    }

    /// Names the service that it is about.
    pub(crate) fn of(mut self, service: &ServiceKey) -> Self {
        self.service = Some(service.clone());
        self
    }

    /// Names the kind of reason and the instance.
    pub(crate) fn because(mut self, refusal: &Refusal) -> Self {
        self.reason = Some(refusal.code);
        self.instance.clone_from(&refusal.instance);
        self
    }

    pub(crate) fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    pub(crate) fn status(&self) -> StatusCode {
        status(self.code)
    }

    /// The response; `body` makes its body.
    pub(crate) fn into_response<B>(self, body: impl FnOnce(Bytes) -> B) -> Response<B> {
        let status = self.status();
        let mut response = Response::new(body(Bytes::from(self.text())));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert("minato-origin", HeaderValue::from_static("cluster"));
        headers.insert("minato-code", HeaderValue::from_static(self.code.as_str()));
        if let Some(after) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds(after)));
        }
        if let Some(location) = self.location {
            headers.insert(LOCATION, location);
        }
        response
    }

    /// The response to a call of gRPC: trailers only, which is to say headers only.
    pub(crate) fn into_grpc<B>(self, content: HeaderValue, body: impl FnOnce(Bytes) -> B) -> Response<B> {
        let (code, detail) = (self.code, self.detail.clone());
        let mut response = self.into_response(|_| body(Bytes::new()));
        *response.status_mut() = StatusCode::OK;
        response.headers_mut().insert(CONTENT_TYPE, content);
        grpc::Status::of(code).tell(&detail, response.headers_mut());
        response
    }

    /// The whole answer as bytes, for a connection that hyper gave up; it ends the connection.
    pub(crate) fn to_wire(&self) -> Vec<u8> {
        let body = self.text();
        format!(
            "HTTP/1.1 {}\r\ncontent-type: application/problem+json\r\nminato-origin: cluster\r\n\
             minato-code: {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            self.status(),
            self.code,
            body.len(),
        )
        .into_bytes()
    }

    fn text(&self) -> String {
        let mut text = serde_json::json!({
            "type": "about:blank",
            "title": self.status().canonical_reason().unwrap_or("Error"),
            "status": self.status().as_u16(),
            "code": self.code,
            "detail": self.detail,
        });
        let more = [
            ("reason", self.reason.map(|code| code.as_str().to_owned())),
            ("service", self.service.as_ref().map(ToString::to_string)),
            ("instance", self.instance.as_ref().map(ToString::to_string)),
        ];
        for (key, value) in more {
            if let (Some(value), Some(object)) = (value, text.as_object_mut()) {
                object.insert(key.to_owned(), value.into());
            }
        }
        text.to_string()
    }
}

/// Whole seconds, rounded up, at least one.
fn seconds(after: Duration) -> u64 {
    (after.as_secs() + u64::from(after.subsec_nanos() > 0)).max(1)
}

/// The status of each code that the edge answers with.
#[expect(clippy::wildcard_enum_match_arm, reason = "the other codes are none of an edge's answers")]
fn status(code: Code) -> StatusCode {
    match code {
        Code::NoRoute => StatusCode::NOT_FOUND,
        Code::StartFailed | Code::QueueFull | Code::Tripped | Code::Draining => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        Code::Timeout => StatusCode::GATEWAY_TIMEOUT,
        Code::Upstream => StatusCode::BAD_GATEWAY,
        Code::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        Code::Loop => StatusCode::LOOP_DETECTED,
        Code::Denied => StatusCode::FORBIDDEN,
        Code::Redirected => StatusCode::PERMANENT_REDIRECT,
        Code::Misdirected => StatusCode::MISDIRECTED_REQUEST,
        Code::BadRequest => StatusCode::BAD_REQUEST,
        Code::ClientTimeout => StatusCode::REQUEST_TIMEOUT,
        Code::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::UriTooLong => StatusCode::URI_TOO_LONG,
        Code::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_failed_names_reason_service_and_instance_only() {
        let refusal = Refusal {
            code: Code::Exited,
            instance: Some("abc".parse().unwrap()),
            retry_after: Duration::from_millis(1200),
        };
        let answer = Answer::start_failed(&"shop/web".parse().unwrap(), &refusal);
        let response = answer.into_response(|body| body);
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "2");
        assert_eq!(response.headers()["minato-code"], "start_failed");
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(body["reason"], "exited");
        assert_eq!(body["service"], "shop/web");
        assert_eq!(body["instance"], "abc");
        assert_eq!(body["status"], 503);
    }
}
