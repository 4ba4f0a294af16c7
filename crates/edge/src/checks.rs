//! What holds of every parser, whatever it is given: none panics, none takes more than there was, and the same
//! bytes mean the same whether they come at once or one by one. Asked with seeded mutations by the tests, and by
//! the fuzzers.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request};
use minato_model::traffic::Key;

use crate::{
    config::Limits,
    frames::Frames,
    key::Client,
    names, path, request,
    trace::Trace,
    upstream::{
        framing::{Chunk, Framing, Step},
        head,
    },
};

/// The head of an instance's answer.
pub fn answer_head(bytes: &[u8]) {
    let mut buffer = BytesMut::from(bytes);
    if let Ok(Some(head)) = head::parse(&mut buffer, &Method::GET) {
        assert!(buffer.len() < bytes.len() && bytes.ends_with(&buffer), "{bytes:?}");
        assert!(head.headers.len() <= 100, "{bytes:?}");
    }
}

/// All that is read of a body, and what is left; `None`: it is malformed.
fn body(framing: Framing, pieces: &[&[u8]]) -> Option<(Vec<u8>, usize, bool)> {
    let (mut framing, mut buffer, mut read) = (framing, BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match framing.step(&mut buffer).ok()? {
                Step::Data(data) => read.extend_from_slice(&data),
                Step::Trailers(trailers) => assert!(trailers.len() <= 100, "{trailers:?}"),
                Step::More => break,
                Step::Done => return Some((read, buffer.len(), true)),
            }
        }
    }
    Some((read, buffer.len(), false))
}

/// A body in chunks.
pub fn chunks(bytes: &[u8]) {
    let whole = body(Framing::Chunked(Chunk::Size), &[bytes]);
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    let pieces = body(Framing::Chunked(Chunk::Size), &single);
    // In pieces it may be found malformed later, but never as something else.
    if let (Some((read, _, true)), Some((again, _, true))) = (&whole, &pieces) {
        assert_eq!(read, again, "{bytes:?}");
    }
    assert_eq!(
        whole.as_ref().is_some_and(|(.., done)| *done),
        pieces.as_ref().is_some_and(|(.., done)| *done),
        "{bytes:?}"
    );
    if let Some((read, left, _)) = whole {
        assert!(read.len() + left <= bytes.len(), "{bytes:?}");
    }
}

/// Frames of a WebSocket.
pub fn frames(bytes: &[u8]) {
    let (mut whole, mut single) = (Frames::default(), Frames::default());
    whole.pass(bytes);
    bytes.chunks(1).for_each(|byte| single.pass(byte));
    assert_eq!(
        (whole.is_between(), whole.is_closed()),
        (single.is_between(), single.is_closed()),
        "{bytes:?}"
    );
}

/// A request's path.
pub fn paths(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(path::Path::Read { decoded, merged }) = path::read(text)
    {
        assert!(decoded.len() <= text.len() && merged.len() <= text.len(), "{text:?}");
    }
}

/// Fields of a request that tell who asks.
pub fn fields(bytes: &[u8]) {
    let Ok(value) = HeaderValue::from_maybe_shared(Bytes::copy_from_slice(bytes)) else { return };
    let mut headers = HeaderMap::new();
    for name in ["cookie", "traceparent", "tracestate", "x-forwarded-for"] {
        headers.append(name, value.clone());
    }
    let parent = Trace::of(&headers, || 7).parent().to_vec();
    assert!(parent.len() >= 55 && parent.is_ascii(), "{bytes:?}");
    let peer = std::net::Ipv4Addr::LOCALHOST.into();
    let client = Client { headers: &headers, peer, trusted: true, proxies: &[] };
    client.hash(&Key::Cookie("session".to_owned()));
    client.hash(&Key::Address);
    client.address();
}

/// A request's target and host: lines of `target`, `host`, `host` and so on.
pub fn requests(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let mut request = Request::builder().method(Method::GET).uri(lines.next().unwrap_or_default());
    for host in lines.take(3) {
        request = request.header("host", host);
    }
    let Ok(request) = request.body(()) else { return };
    let hosts = request.headers().get_all("host").iter().count();
    let (parts, ()) = request.into_parts();
    if let Ok(head) = request::check(&parts, &Limits::default()) {
        assert_eq!(hosts, 1, "{bytes:?}");
        assert!(
            !head.host.is_empty() && !head.host.bytes().any(|byte| byte.is_ascii_uppercase()),
            "{bytes:?}"
        );
    }
}

/// A question for a name.
pub fn questions(bytes: &[u8]) {
    names::check(bytes);
}
