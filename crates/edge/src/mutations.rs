//! The parsers of what comes from outside, with bytes that nobody would send: mutations of what they know, from a
//! seed that is printed. None panics, none takes more than there was, and the same bytes mean the same
//! whether they come at once or one by one.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method};
use minato_model::traffic::Key;

use crate::{
    balance::mix,
    frames::Frames,
    key::Client,
    path,
    trace::Trace,
    upstream::{
        framing::{Chunk, Framing, Step},
        head,
    },
};

const CASES: u64 = 20_000;
const SEED: u64 = 0x6d69_6e61_746f;

/// Each mutation of each of these.
fn each(corpus: &[&[u8]], mut check: impl FnMut(&[u8])) {
    println!("seed {SEED:#x}, {CASES} cases");
    for case in 0..CASES {
        let mut random = mix(SEED ^ case);
        let mut draw = |below: usize| {
            random = mix(random);
            usize::try_from(random % u64::try_from(below.max(1)).unwrap()).unwrap()
        };
        let mut bytes = corpus[draw(corpus.len())].to_vec();
        for _ in 0..=draw(4) {
            let at = draw(bytes.len());
            match draw(5) {
                0 if !bytes.is_empty() => bytes[at] = u8::try_from(draw(256)).unwrap(),
                1 if !bytes.is_empty() => drop(bytes.remove(at)),
                2 => bytes.insert(at, *b"\r\n\0 :;%/.\xff0x".get(draw(12)).unwrap()),
                3 => bytes.truncate(at),
                _ => {
                    let other = corpus[draw(corpus.len())];
                    let from = draw(other.len());
                    bytes.splice(at..at, other[from..].iter().copied());
                }
            }
        }
        check(&bytes);
    }
}

const HEADS: &[&[u8]] = &[
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close, x\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.0 304 Not Modified\r\nSet-Cookie: a=b\r\nset-cookie: c\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
];

#[test]
fn heads_of_answers() {
    each(HEADS, |bytes| {
        let mut buffer = BytesMut::from(bytes);
        if let Ok(Some(head)) = head::parse(&mut buffer, &Method::GET) {
            assert!(buffer.len() < bytes.len() && bytes.ends_with(&buffer), "{bytes:?}");
            assert!(head.headers.len() <= 100);
        }
    });
}

/// All that is read of a body, and what is left; `None`: it is malformed.
fn body(framing: Framing, pieces: &[&[u8]]) -> Option<(Vec<u8>, usize, bool)> {
    let (mut framing, mut buffer, mut read) = (framing, BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match framing.step(&mut buffer).ok()? {
                Step::Data(data) => read.extend_from_slice(&data),
                Step::Trailers(trailers) => assert!(trailers.len() <= 100),
                Step::More => break,
                Step::Done => return Some((read, buffer.len(), true)),
            }
        }
    }
    Some((read, buffer.len(), false))
}

#[test]
fn bodies_of_answers() {
    let corpus: &[&[u8]] = &[
        b"5\r\nhello\r\n0\r\n\r\n",
        b"3;x=y\r\nabc\r\n00a\r\n0123456789\r\n0\r\nA: b\r\nC: d\r\n\r\nnext",
        b"ffffffffffffffff\r\nabc",
        b"0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ];
    each(corpus, |bytes| {
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
    });
}

#[test]
fn frames_of_websockets() {
    let corpus: &[&[u8]] = &[
        &[0x81, 5, b'h', b'e', b'l', b'l', b'o'],
        &[0x82, 126, 0, 130, 1, 2, 3],
        &[0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
        &[0x88, 0x82, 1, 2, 3, 4, 5, 6],
    ];
    each(corpus, |bytes| {
        let (mut whole, mut single) = (Frames::default(), Frames::default());
        whole.pass(bytes);
        bytes.chunks(1).for_each(|byte| single.pass(byte));
        assert_eq!(
            (whole.is_between(), whole.is_closed()),
            (single.is_between(), single.is_closed()),
            "{bytes:?}"
        );
    });
}

#[test]
fn paths_cookies_and_traces() {
    let corpus: &[&[u8]] = &[
        b"/api/v1/%61bc;x=y/../..%2f%2E%2e//z",
        b"a=b; session=123; session=\"4\"; =; c",
        b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        b"1.2.3.4, [::1]:80, unknown, 5.6.7.8",
    ];
    each(corpus, |bytes| {
        if let Ok(text) = std::str::from_utf8(bytes)
            && let Ok(path::Path::Read { decoded, merged }) = path::read(text)
        {
            assert!(decoded.len() <= text.len() && merged.len() <= text.len(), "{text:?}");
        }
        let Ok(value) = HeaderValue::from_maybe_shared(Bytes::copy_from_slice(bytes)) else { return };
        let mut headers = HeaderMap::new();
        for name in ["cookie", "traceparent", "tracestate", "x-forwarded-for"] {
            headers.append(name, value.clone());
        }
        let parent = Trace::of(&headers, || 7).parent().to_vec();
        assert!(parent.len() >= 55 && parent.is_ascii());
        let peer = std::net::Ipv4Addr::LOCALHOST.into();
        let client = Client { headers: &headers, peer, trusted: true, proxies: &[] };
        client.hash(&Key::Cookie("session".to_owned()));
        client.hash(&Key::Address);
        client.address();
    });
}
