//! Clients of HTTP/2 that send frames without end: their connection ends, and the others are served.

use std::time::Duration;

use minato_model::routing::Routing as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Bed, Instance, bed_with, within};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RESET: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// A frame (RFC 9113, 4.1).
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()];
    [&head.concat(), payload].concat()
}

/// A field that isn't kept in the table (RFC 7541, 6.2.2).
pub(crate) fn field(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// The head of a `GET`, with more fields.
pub(crate) fn head(more: &[(&str, &str)]) -> Vec<u8> {
    let usual = [(":method", "GET"), (":scheme", "http"), (":authority", "shop.localhost"), (":path", "/")];
    usual.iter().chain(more).flat_map(|(name, value)| field(name, value)).collect()
}

async fn bed() -> (Bed, Instance) {
    let bed = bed_with(None, |config| config.limits.head = Duration::from_millis(500));
    bed.publish_web(|_| {}).await;
    let instance = Instance::start("one").await;
    bed.handle.admit(instance.endpoint.clone());
    (bed, instance)
}

pub(crate) async fn connect(bed: &Bed) -> TcpStream {
    let mut stream = TcpStream::connect(bed.address).await.unwrap();
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    stream
}

/// Sends it again and again until the edge closes; how often it could. Whoever floods reads, too, so that it is
/// not for want of room that it ends.
async fn flood(bed: &Bed, begin: Vec<u8>, mut next: impl FnMut(u32) -> Vec<u8>, most: u32) -> Option<u32> {
    let (mut read, mut write) = connect(bed).await.into_split();
    let drain = async {
        let mut waste = vec![0; 64 * 1024];
        while read.read(&mut waste).await.is_ok_and(|length| length > 0) {}
    };
    let send = async {
        if write.write_all(&begin).await.is_err() {
            return Some(0);
        }
        for sent in 0..most {
            if write.write_all(&next(sent)).await.is_err() {
                return Some(sent);
            }
        }
        None
    };
    within(async {
        tokio::select! {
            () = drain => Some(0),
            sent = send => sent,
        }
    })
    .await
}

/// Somebody else is answered meanwhile and afterwards.
pub(crate) async fn others_are_served(bed: &Bed) {
    assert_eq!(within(bed.get("/")).await.status, 200);
}

#[tokio::test]
async fn frames_written_by_hand_are_requests() {
    let (bed, instance) = bed().await;
    let mut stream = connect(&bed).await;
    let head = head(&[("te", "trailers"), ("host", "shop.localhost")]);
    stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &head)).await.unwrap();
    let answered = within(async {
        let mut got = Vec::new();
        while !kinds(&got).contains(&DATA) {
            let mut buffer = [0; 4096];
            let length = stream.read(&mut buffer).await.unwrap();
            assert!(length > 0, "{:?}", kinds(&got));
            got.extend_from_slice(&buffer[..length]);
        }
        kinds(&got)
    });
    assert!(answered.await.contains(&HEADERS));
    assert_eq!(instance.requests.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn requests_taken_back_at_once_end_the_connection() {
    let (bed, instance) = bed().await;
    let reset = |nth: u32| {
        let stream = 1 + 2 * nth;
        let open = frame(HEADERS, END_HEADERS | END_STREAM, stream, &head(&[]));
        [open, frame(RESET, 0, stream, &8_u32.to_be_bytes())].concat()
    };
    assert!(flood(&bed, Vec::new(), reset, 20_000).await.is_some(), "it goes on");
    others_are_served(&bed).await;
    assert!(
        instance.requests.load(std::sync::atomic::Ordering::SeqCst) < 2_000,
        "and few reached the instance"
    );
}

#[tokio::test]
async fn a_head_without_end_ends_the_connection() {
    let (bed, _instance) = bed().await;
    let begin = frame(HEADERS, END_STREAM, 1, &head(&[]));
    let more = |nth: u32| frame(CONTINUATION, 0, 1, &field(&format!("x-{nth}"), &"y".repeat(100)));
    assert!(flood(&bed, begin.clone(), more, 100_000).await.is_some(), "it goes on");
    assert!(
        flood(&bed, begin, |_| frame(CONTINUATION, 0, 1, &[]), 100_000).await.is_some(),
        "empty ones too"
    );
    others_are_served(&bed).await;
}

#[tokio::test]
async fn frames_that_ask_for_nothing_cost_little_and_stop_nobody() {
    let (bed, _instance) = bed().await;
    let open = frame(HEADERS, END_HEADERS, 1, &[head(&[]), field("content-length", "5")].concat());
    // These may go on or be ended, as long as they are answered as they are read: nothing heaps up.
    flood(&bed, Vec::new(), |_| frame(PING, 0, 0, &[0; 8]), 20_000).await;
    flood(&bed, Vec::new(), |_| frame(SETTINGS, 0, 0, &[]), 20_000).await;
    flood(&bed, open.clone(), |_| frame(DATA, 0, 1, &[]), 20_000).await;
    flood(&bed, open, |_| frame(WINDOW, 0, 1, &1_u32.to_be_bytes()), 20_000).await;
    others_are_served(&bed).await;
}

#[tokio::test]
async fn what_is_no_request_is_refused() {
    let (bed, instance) = bed().await;
    let heads = [
        head(&[("connection", "close")]),
        head(&[("transfer-encoding", "chunked")]),
        head(&[("upgrade", "websocket")]),
        head(&[("te", "gzip")]),
        head(&[("x", "a\r\nb: c")]),
        head(&[("X-Upper", "a")]),
        head(&[("host", "other.localhost")]),
        head(&[(":path", "/twice")]),
        head(&[("x", "a"), (":late", "b")]),
        [field(":method", "GET"), field(":scheme", "http"), field(":path", "/")].concat(),
        [field(":method", "GET"), field(":scheme", "http"), field(":authority", "shop.localhost")].concat(),
    ];
    for head in heads {
        let mut stream = connect(&bed).await;
        stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &head)).await.unwrap();
        // Until the edge has refused it: a reset, a goodbye, or an answer that isn't the instance's.
        let refused = within(async {
            let mut got = Vec::new();
            loop {
                let mut buffer = [0; 4096];
                match stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => return true,
                    Ok(length) => got.extend_from_slice(&buffer[..length]),
                }
                if kinds(&got).iter().any(|kind| matches!(*kind, HEADERS | RESET | 7)) {
                    return true;
                }
            }
        });
        assert!(refused.await);
    }
    assert_eq!(instance.requests.load(std::sync::atomic::Ordering::SeqCst), 0, "none reached the instance");
    others_are_served(&bed).await;
}

/// The kinds of the whole frames that arrived.
pub(crate) fn kinds(mut bytes: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let Some(head) = bytes.get(..9) {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let Some(rest) = bytes.get(9 + length..) else { break };
        kinds.push(head[3]);
        bytes = rest;
    }
    kinds
}

#[tokio::test]
async fn a_body_longer_or_shorter_than_it_says_is_no_request() {
    let (bed, instance) = bed().await;
    for body in [&b"abc"[..], b"abcdefgh"] {
        let mut stream = connect(&bed).await;
        let head = [head(&[]), field("content-length", "5")].concat();
        let all = [frame(HEADERS, END_HEADERS, 1, &head), frame(DATA, END_STREAM, 1, body)].concat();
        stream.write_all(&all).await.unwrap();
        let ended = within(async {
            let mut got = Vec::new();
            loop {
                let mut buffer = [0; 4096];
                match stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => return kinds(&got),
                    Ok(length) => got.extend_from_slice(&buffer[..length]),
                }
                if kinds(&got).iter().any(|kind| matches!(*kind, HEADERS | RESET | 7)) {
                    return kinds(&got);
                }
            }
        });
        drop(ended.await);
    }
    others_are_served(&bed).await;
    assert_eq!(instance.requests.load(std::sync::atomic::Ordering::SeqCst), 1, "only the other's");
}
