//! Which headers pass, in either direction.

use std::cell::Cell;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use crate::{
    digits::decimal,
    inbound::Inbound,
    request::{Head, connection_tokens},
    trace::Trace,
};

/// Which try of an edge this is, where it isn't the first.
const ATTEMPT: &str = "minato-attempt";

/// The head of a request's further try, from that of its first.
pub(crate) fn tried_again(head: &[u8], tried: u32) -> Vec<u8> {
    let mut again = head.strip_suffix(b"\r\n").unwrap_or(head).to_vec();
    again.extend_from_slice(format!("{ATTEMPT}: {}\r\n\r\n", tried + 1).as_bytes());
    again
}

/// Whether another edge has tried the request before. Only an instance is believed.
pub(crate) fn is_repeated(inbound: &Inbound, headers: &HeaderMap) -> bool {
    !inbound.entry.is_public() && headers.contains_key(ATTEMPT)
}

pub(crate) static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Whether `TE` names trailers, which are all of it that HTTP/2 knows.
fn is_trailers(value: &HeaderValue) -> bool {
    let mut tokens = value.as_bytes().split(|byte| *byte == b',');
    tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// Whether the client reads trailers (RFC 9110, 10.1.4).
pub(crate) fn takes_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(header::TE).iter().any(is_trailers)
}

/// Takes off trailers what may not be said so late (RFC 9110, 6.5.1).
pub(crate) fn clean_trailers(trailers: &mut HeaderMap) {
    clean_response(trailers, false);
    for name in [
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        header::CONTENT_RANGE,
        header::HOST,
        header::SET_COOKIE,
        header::TRAILER,
        header::AUTHORIZATION,
    ] {
        trailers.remove(name);
    }
}

/// The same for a request's, which may not say either what only the edge says.
pub(crate) fn clean_request_trailers(trailers: &mut HeaderMap) {
    clean_trailers(trailers);
    let edges = |name: &&HeaderName| {
        let name = name.as_str();
        let says = matches!(name, "forwarded" | "x-request-id" | "traceparent" | "tracestate");
        says || begins(name, "x-forwarded-") || is_certificate(name)
    };
    let gone: Vec<HeaderName> = trailers.keys().filter(edges).cloned().collect();
    for name in gone {
        trailers.remove(name);
    }
}

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

/// Whether it tells of the client's certificate (RFC 9440).
fn is_certificate(name: &str) -> bool {
    begins(name, "client-cert") && matches!(name.len(), 11 | 17)
}

/// What the edge knows of who asks, by the TLS that they spoke.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known<'a> {
    /// `http` or `https`.
    pub(crate) scheme: &'static str,
    /// The client's certificate, if the service asks for one.
    pub(crate) certificate: Option<&'a str>,
    /// The instance that calls, if it has proved who it is.
    pub(crate) caller: Option<&'a str>,
}

/// What the edge adds to a request.
pub(crate) struct Added<'a> {
    /// Who is asking.
    pub(crate) peer: &'a str,
    /// What is known of it beside.
    pub(crate) known: Known<'a>,
    /// Whether what the peer says of those before it is believed.
    pub(crate) trusted: bool,
    /// The request's id, if the client didn't bring a usable one.
    pub(crate) request_id: &'a str,
    /// The trace that the request belongs to.
    pub(crate) trace: &'a Trace<'a>,
    /// How many edges it will have passed.
    pub(crate) hops: u8,
    /// How often it was tried before.
    pub(crate) tried: Cell<u32>,
}

/// What a request's head is made of.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) parts: &'a http::request::Parts,
    pub(crate) head: &'a Head,
    pub(crate) added: &'a Added<'a>,
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

/// Where a head's fields are written to.
pub(crate) trait Fields {
    fn field(&mut self, name: &str, value: &[u8]);

    fn number(&mut self, name: &str, value: u64) {
        self.field(name, value.to_string().as_bytes());
    }

    /// A list of these, the last at its end.
    fn list(&mut self, name: &str, values: &[&[u8]], last: &[u8]) {
        let values = values.iter().copied().chain([last]);
        self.field(name, &values.collect::<Vec<_>>().join(&b", "[..]));
    }
}

impl Fields for Vec<u8> {
    fn field(&mut self, name: &str, value: &[u8]) {
        field(self, name, value);
    }

    fn number(&mut self, name: &str, value: u64) {
        number(self, name, value);
    }

    fn list(&mut self, name: &str, values: &[&[u8]], last: &[u8]) {
        self.extend_from_slice(name.as_bytes());
        self.extend_from_slice(b": ");
        for value in values {
            self.extend_from_slice(value);
            self.extend_from_slice(b", ");
        }
        self.extend_from_slice(last);
        self.extend_from_slice(b"\r\n");
    }
}

impl Fields for HeaderMap {
    fn field(&mut self, name: &str, value: &[u8]) {
        // Both were a name and a value, or made from such, before.
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value))
        {
            self.append(name, value);
        }
    }
}

/// Writes the request's head as an instance of HTTP/1.1 gets it.
pub(crate) fn write_request(
    out: &mut Vec<u8>,
    parts: &http::request::Parts,
    head: &Head,
    added: &Added<'_>,
    length: Length,
) {
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let method = if head.connect { "GET" } else { parts.method.as_str() };
    // An absolute target may go without a path before its query.
    let root = if path.starts_with('?') { "/" } else { "" };
    for part in [method, " ", root, path, " HTTP/1.1\r\nhost: ", &head.authority, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    let trailers = write_fields(out, parts, head, added);
    match length {
        Length::None => {}
        Length::Exact(bytes) => number(out, "content-length", bytes),
        Length::Chunked => field(out, "transfer-encoding", b"chunked"),
    }
    if trailers {
        field(out, "te", b"trailers");
    }
    if let Some(key) = &head.key {
        field(out, "sec-websocket-key", key.as_bytes());
    }
    match (&head.upgrade, trailers) {
        (Some(protocol), _) => {
            field(out, "connection", if trailers { b"upgrade, te" } else { b"upgrade" });
            field(out, "upgrade", protocol.as_bytes());
        }
        (None, true) => field(out, "connection", b"te"),
        (None, false) => {}
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the fields that pass, and those that are added; whether the client takes trailers.
pub(crate) fn write_fields(
    out: &mut impl Fields,
    parts: &http::request::Parts,
    head: &Head,
    added: &Added<'_>,
) -> bool {
    let mut trailers = false;
    let nominated: Vec<&str> = connection_tokens(&parts.headers).collect();
    let mut forwarded = Forwarded::default();
    for (name, value) in &parts.headers {
        let text = name.as_str();
        if begins(text, "x-forwarded-") {
            if added.trusted {
                forwarded.take(out, text, value);
            }
        } else if is_hop_by_hop(name) {
            trailers |= *name == header::TE && is_trailers(value);
        } else if !is_own(text)
            && !matches!(
                text,
                "host" | "content-length" | "expect" | "x-request-id" | "traceparent" | "tracestate"
            )
            && (added.trusted || text != "forwarded")
            && !(is_certificate(text) && (!added.trusted || added.known.certificate.is_some()))
            && !nominated.iter().any(|other| other.eq_ignore_ascii_case(text))
        {
            out.field(text, value.as_bytes());
        }
    }
    forwarded.write(out, added.peer, added.known.scheme, &head.authority);
    if let Some(certificate) = added.known.certificate {
        out.field("client-cert", certificate.as_bytes());
    }
    if let Some(caller) = added.known.caller {
        out.field("minato-caller", caller.as_bytes());
    }
    out.field("x-request-id", added.request_id.as_bytes());
    out.field("traceparent", added.trace.parent());
    for state in added.trace.states() {
        out.field("tracestate", state.as_bytes());
    }
    out.number("minato-hops", u64::from(added.hops));
    if added.tried.get() > 0 {
        out.number(ATTEMPT, u64::from(added.tried.get()) + 1);
    }
    trailers
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
    fn take(&mut self, out: &mut impl Fields, name: &str, value: &'a HeaderValue) {
        match name {
            "x-forwarded-for" => self.addresses.push(value.as_bytes()),
            "x-forwarded-proto" => self.protocol = Some(value),
            "x-forwarded-host" => self.host = Some(value),
            other => out.field(other, value.as_bytes()),
        }
    }

    fn write(&self, out: &mut impl Fields, peer: &str, scheme: &str, host: &str) {
        out.list("x-forwarded-for", &self.addresses, peer.as_bytes());
        out.field("x-forwarded-proto", self.protocol.map_or(scheme.as_bytes(), HeaderValue::as_bytes));
        out.field("x-forwarded-host", self.host.map_or(host.as_bytes(), HeaderValue::as_bytes));
    }
}

/// The id that the client gave its request, if it may be kept.
pub(crate) fn request_id(headers: &HeaderMap) -> Option<&HeaderValue> {
    let id = headers.get(&X_REQUEST_ID)?;
    let safe = |byte: u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'/' | b'=' | b'+')
    };
    ((1..=64).contains(&id.len()) && id.as_bytes().iter().copied().all(safe)).then_some(id)
}

/// Whether a body of unknown length has no transfer coding beside `chunked`.
pub(crate) fn is_chunked_only(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let chunked = codings.next().is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    chunked && codings.next().is_none()
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
    // Which trailers will come is for the client to know.
    let goes = |name: &HeaderName| is_hop_by_hop(name) && *name != header::TRAILER || is_own(name.as_str());
    let gone: Vec<HeaderName> = headers.keys().filter(|name| goes(name)).cloned().collect();
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
