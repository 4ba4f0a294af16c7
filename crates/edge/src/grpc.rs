//! gRPC over HTTP/2, as far as an edge has to know it: whose requests are its, how long they may take,
//! and how it says itself that something failed.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};
use minato_model::code::Code;

/// What a call's trailers may hold of gRPC's own.
pub(crate) const TRAILERS: HeaderValue =
    HeaderValue::from_static("grpc-status, grpc-message, grpc-status-details-bin");

/// A call's outcome (gRPC's statuscodes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Status {
    Cancelled = 1,
    Unknown = 2,
    DeadlineExceeded = 4,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
}

impl Status {
    /// What each code of the edge's own is in gRPC, by its statuscodes and http-grpc-status-mapping.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the other codes are none of an edge's answers")]
    pub(crate) fn of(code: Code) -> Self {
        match code {
            Code::StartFailed | Code::QueueFull | Code::Tripped | Code::Draining | Code::Upstream => {
                Self::Unavailable
            }
            Code::Timeout => Self::DeadlineExceeded,
            Code::RateLimited | Code::BodyTooLarge | Code::HeadersTooLarge => Self::ResourceExhausted,
            Code::Denied | Code::Redirected | Code::Misdirected => Self::PermissionDenied,
            Code::NoRoute => Self::Unimplemented,
            Code::BadRequest | Code::UriTooLong | Code::Loop => Self::Internal,
            Code::ClientTimeout => Self::Cancelled,
            _ => Self::Unknown,
        }
    }

    /// The headers, or the trailers, that tell it.
    pub(crate) fn tell(self, detail: &str, headers: &mut HeaderMap) {
        headers.insert("grpc-status", HeaderValue::from(u16::from(self as u8)));
        if let Ok(detail) = HeaderValue::from_str(&encoded(detail)) {
            headers.insert("grpc-message", detail);
        }
    }
}

/// A `grpc-message`: printable ASCII, everything else and the percent sign encoded.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The content type, if it is gRPC's.
pub(crate) fn content_type(headers: &HeaderMap) -> Option<&HeaderValue> {
    let content = headers.get(header::CONTENT_TYPE)?;
    let rest = content.as_bytes().strip_prefix(b"application/grpc")?;
    matches!(rest.first(), None | Some(b'+' | b';' | b'-')).then_some(content)
}

/// How long the client waits, by its own account.
pub(crate) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// Whether an answer without a body says that the service is unavailable.
pub(crate) fn is_unavailable(headers: &HeaderMap) -> bool {
    headers.get("grpc-status").is_some_and(|status| status == "14") && content_type(headers).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_has_eight_digits_and_a_unit() {
        let check = |text: &str| {
            let headers = HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), text.parse().unwrap())]);
            timeout(&headers)
        };
        assert_eq!(check("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(check("100m"), Some(Duration::from_millis(100)));
        assert_eq!(check("1n"), Some(Duration::from_nanos(1)));
        for bad in ["", "S", "1", "123456789S", "-1S", "1s", "1.5S", "1 S"] {
            assert_eq!(check(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn only_its_own_content_types_are_grpc() {
        let check = |text: &'static str| {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(text))]);
            content_type(&headers).is_some()
        };
        assert!(
            check("application/grpc") && check("application/grpc+proto") && check("application/grpc-web")
        );
        assert!(!check("application/grpcx") && !check("application/json"));
    }

    #[test]
    fn a_message_is_printable() {
        assert_eq!(encoded("100 % – no"), "100 %25 %E2%80%93 no");
    }
}
