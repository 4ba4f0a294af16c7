//! Which headers pass, in either direction.

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use crate::{
    digits::decimal,
    request::{Head, connection_tokens},
    trace::Trace,
};

pub(crate) static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Whether the header is for one connection only (RFC 9110, 7.6.1), and never passes.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

/// Whether the name begins so, where a program behind might take `_` for `-`.
fn begins(name: &str, prefix: &str) -> bool {
    name.len() >= prefix.len()
        && name.bytes().zip(prefix.bytes()).all(|(a, b)| a == b || (a == b'_' && b == b'-'))
}

/// Headers that only Minato sets.
pub(crate) fn is_own(name: &str) -> bool {
    begins(name, "minato-")
}

/// What the edge adds to a request.
pub(crate) struct Added<'a> {
    /// Who is asking.
    pub(crate) peer: &'a str,
    /// Whether what the peer says of those before it is believed.
    pub(crate) trusted: bool,
    /// The request's id, if the client didn't bring a usable one.
    pub(crate) request_id: &'a str,
    /// The trace that the request belongs to.
    pub(crate) trace: &'a Trace<'a>,
    /// How many edges it will have passed.
    pub(crate) hops: u8,
}

/// How the body is framed on the way to the instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// No body, and none is expected.
    None,
    /// This many bytes.
    Exact(u64),
    /// Unknown: chunks.
    Chunked,
}

/// Writes the request's head as the instance gets it.
pub(crate) fn write_request(
    out: &mut Vec<u8>,
    parts: &http::request::Parts,
    head: &Head,
    added: &Added<'_>,
    length: Length,
) {
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    for part in [parts.method.as_str(), " ", path, " HTTP/1.1\r\nhost: ", &head.authority, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    let nominated: Vec<&str> = connection_tokens(&parts.headers).collect();
    let mut forwarded = Forwarded::default();
    for (name, value) in &parts.headers {
        let text = name.as_str();
        if begins(text, "x-forwarded-") {
            if added.trusted {
                forwarded.take(out, text, value);
            }
        } else if !is_hop_by_hop(name)
            && !is_own(text)
            && !matches!(
                text,
                "host" | "content-length" | "expect" | "x-request-id" | "traceparent" | "tracestate"
            )
            && (added.trusted || text != "forwarded")
            && !nominated.iter().any(|other| other.eq_ignore_ascii_case(text))
        {
            field(out, text, value.as_bytes());
        }
    }
    forwarded.write(out, added.peer, &head.authority);
    field(out, "x-request-id", added.request_id.as_bytes());
    field(out, "traceparent", added.trace.parent());
    for state in added.trace.states() {
        field(out, "tracestate", state.as_bytes());
    }
    number(out, "minato-hops", u64::from(added.hops));
    match length {
        Length::None => {}
        Length::Exact(bytes) => number(out, "content-length", bytes),
        Length::Chunked => field(out, "transfer-encoding", b"chunked"),
    }
    if let Some(protocol) = &head.upgrade {
        field(out, "connection", b"upgrade");
        field(out, "upgrade", protocol.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn number(out: &mut Vec<u8>, name: &str, value: u64) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    decimal(out, value);
    out.extend_from_slice(b"\r\n");
}

/// `X-Forwarded-*` of a trusted peer.
#[derive(Default)]
struct Forwarded<'a> {
    addresses: Vec<&'a [u8]>,
    protocol: Option<&'a HeaderValue>,
    host: Option<&'a HeaderValue>,
}

impl<'a> Forwarded<'a> {
    fn take(&mut self, out: &mut Vec<u8>, name: &str, value: &'a HeaderValue) {
        match name {
            "x-forwarded-for" => self.addresses.push(value.as_bytes()),
            "x-forwarded-proto" => self.protocol = Some(value),
            "x-forwarded-host" => self.host = Some(value),
            other => field(out, other, value.as_bytes()),
        }
    }

    fn write(&self, out: &mut Vec<u8>, peer: &str, host: &str) {
        out.extend_from_slice(b"x-forwarded-for: ");
        for address in &self.addresses {
            out.extend_from_slice(address);
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(peer.as_bytes());
        out.extend_from_slice(b"\r\n");
        field(out, "x-forwarded-proto", self.protocol.map_or(b"http", HeaderValue::as_bytes));
        field(out, "x-forwarded-host", self.host.map_or(host.as_bytes(), HeaderValue::as_bytes));
    }
}

/// The id that the client gave its request, if it may be kept.
pub(crate) fn request_id(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get(&X_REQUEST_ID)?.to_str().ok()?;
    let safe = |byte: u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'/' | b'=' | b'+')
    };
    ((1..=64).contains(&id.len()) && id.bytes().all(safe)).then_some(id)
}

/// How the request's body is framed; `exact` is its length, where that is known.
pub(crate) fn request_length(method: &Method, headers: &HeaderMap, exact: Option<u64>) -> Length {
    match exact {
        None => Length::Chunked,
        // A length of zero that was written is passed on; some servers ask for it.
        Some(0) if !headers.contains_key(header::CONTENT_LENGTH) && method != Method::POST => Length::None,
        Some(bytes) => Length::Exact(bytes),
    }
}

/// Whether the answer is a stream of server-sent events, which may last.
pub(crate) fn is_event_stream(headers: &HeaderMap) -> bool {
    let content = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let kind = content.split(|byte| *byte == b';').next().unwrap_or_default();
    kind.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

/// Takes off an instance's answer what isn't for the client; an upgrade's own headers stay if
/// `upgrade`.
pub(crate) fn clean_response(headers: &mut HeaderMap, upgrade: bool) {
    let nominated: Vec<HeaderName> =
        connection_tokens(headers).filter_map(|token| token.parse().ok()).collect();
    let protocol = headers.get(header::UPGRADE).filter(|_| upgrade).cloned();
    for name in nominated {
        if name != header::CONTENT_LENGTH {
            headers.remove(name);
        }
    }
    let gone: Vec<HeaderName> =
        headers.keys().filter(|name| is_hop_by_hop(name) || is_own(name.as_str())).cloned().collect();
    for name in gone {
        headers.remove(name);
    }
    if let Some(protocol) = protocol {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
}

#[cfg(test)]
mod tests;
