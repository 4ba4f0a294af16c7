//! Who has the edge hold much for little, or wait for long: memory stays bounded, there is an end to it, and the
//! others are served meanwhile. And what the edge must leave as it is.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use minato_model::routing::Routing as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
};

use crate::{
    bodies::resident,
    flood::{
        CONTINUATION, END_HEADERS, END_STREAM, HEADERS, PREFACE, RESET, SETTINGS, connect, field, frame,
        head, kinds, others_are_served,
    },
    support::{Bed, Instance, bed, bed_with, endpoint, read_request, release, serve_raw, within},
};

const MIB: usize = 1 << 20;

async fn impatient() -> (Bed, Instance) {
    let bed = bed_with(None, |config| {
        config.limits.head = Duration::from_millis(400);
        // Once HTTP/2 is spoken, half a head is no request: what bounds it is how long there may be none.
        config.limits.idle = Duration::from_secs(1);
        config.limits.body_idle = Duration::from_millis(400);
        config.limits.stream_idle = Duration::from_millis(400);
    });
    bed.publish_web(|_| {}).await;
    let instance = Instance::start("one").await;
    bed.handle.admit(instance.endpoint.clone());
    (bed, instance)
}

/// Reads until the edge ends the connection, or has sent what is waited for.
async fn read_until(stream: &mut TcpStream, enough: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    within(async {
        let mut got = Vec::new();
        while !enough(&got) {
            match stream.read_buf(&mut got).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        got
    })
    .await
}

#[tokio::test]
async fn a_few_bytes_that_stand_for_many_are_no_request() {
    let (bed, instance) = impatient().await;
    let before = resident();
    // One field of 3,000 bytes is put in the table (RFC 7541, 6.2.1), its length in a prefix of seven bits (5.1);
    // each further byte names it again (6.1).
    let long = [&[0x40, 1, b'x', 0x7f, 0xb9, 0x16][..], &[b'y'; 3_000]].concat();
    let block = [head(&[]), long, vec![0xbe; 12_000]].concat();
    let bomb = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block);
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut stream = connect(&bed).await;
        stream.write_all(&bomb).await.unwrap();
        let got =
            read_until(&mut stream, |got| kinds(got).iter().any(|kind| matches!(*kind, HEADERS | RESET | 7)));
        drop(got.await);
        streams.push(stream);
    }
    assert_eq!(instance.requests.load(SeqCst), 0, "none of 36 MB reached the instance");
    assert_eq!(streams.len(), 20, "all are still held");
    assert!(resident().saturating_sub(before) < 64 * MIB, "{} bytes more", resident() - before);
    others_are_served(&bed).await;
}

#[tokio::test]
async fn more_streams_than_are_let_are_refused_by_themselves() {
    let (bed, instance) = impatient().await;
    let mut stream = connect(&bed).await;
    let slow = [
        field(":method", "GET"),
        field(":scheme", "http"),
        field(":authority", "shop.localhost"),
        field(":path", "/slow/300"),
    ]
    .concat();
    let all: Vec<u8> =
        (0..160).flat_map(|nth| frame(HEADERS, END_HEADERS | END_STREAM, 1 + 2 * nth, &slow)).collect();
    stream.write_all(&all).await.unwrap();
    let count = |got: &[u8], kind: u8| kinds(got).iter().filter(|other| **other == kind).count();
    let got = read_until(&mut stream, |got| count(got, HEADERS) + count(got, RESET) >= 160).await;
    assert_eq!((count(&got, HEADERS), count(&got, RESET)), (128, 32));
    assert!(instance.requests.load(SeqCst) <= 128);
    others_are_served(&bed).await;
}

#[tokio::test]
async fn who_never_opens_its_window_is_held_little_for_and_let_go() {
    let (bed, _instance) = impatient().await;
    let before = resident();
    // SETTINGS_INITIAL_WINDOW_SIZE (4) of nothing.
    let shut = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let large = [
        field(":method", "GET"),
        field(":scheme", "http"),
        field(":authority", "shop.localhost"),
        field(":path", "/stream/50000000"),
    ]
    .concat();
    let asks: Vec<u8> =
        (0..20).flat_map(|nth| frame(HEADERS, END_HEADERS | END_STREAM, 1 + 2 * nth, &large)).collect();
    let mut stream = TcpStream::connect(bed.address).await.unwrap();
    stream.write_all(&[PREFACE, &shut, &asks].concat()).await.unwrap();
    others_are_served(&bed).await;
    // It ends by itself: the connection, or each stream.
    let ended = |got: &[u8]| kinds(got).iter().filter(|kind| **kind == RESET).count() >= 20;
    let mut most = 0;
    let got = within(async {
        let mut got = Vec::new();
        while !ended(&got) {
            most = most.max(resident().saturating_sub(before));
            let read = tokio::time::timeout(Duration::from_millis(20), stream.read_buf(&mut got));
            if let Ok(Ok(0) | Err(_)) = read.await {
                break;
            }
        }
        got
    });
    drop(got.await);
    assert!(most < 64 * MIB, "{most} bytes for answers of a billion");
    others_are_served(&bed).await;
}

#[tokio::test]
async fn http2_that_comes_byte_by_byte_is_given_up() {
    let (bed, instance) = impatient().await;
    let settled = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    let block = [head(&[]), field("x", &"y".repeat(120))].concat();
    let headers = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block);
    let begun = [settled.clone(), frame(HEADERS, END_STREAM, 1, &head(&[]))].concat();
    let more = frame(CONTINUATION, END_HEADERS, 1, &field("x", &"y".repeat(120)));
    for (phase, begin, drops) in
        [("preface", Vec::new(), settled.clone()), ("head", settled, headers), ("continuation", begun, more)]
    {
        let mut stream = TcpStream::connect(bed.address).await.unwrap();
        stream.write_all(&begin).await.unwrap();
        let (mut read, mut write) = stream.into_split();
        let ends = async {
            let mut waste = [0; 4096];
            while read.read(&mut waste).await.is_ok_and(|length| length > 0) {}
        };
        let drips = async {
            for byte in drops.iter().take(drops.len() - 1) {
                if write.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(60)).await;
            }
            std::future::pending::<()>().await;
        };
        let ended = tokio::time::timeout(Duration::from_secs(6), async {
            tokio::select! { () = ends => {}, () = drips => {} }
        });
        assert!(ended.await.is_ok(), "it goes on in its {phase}");
    }
    assert_eq!(instance.requests.load(SeqCst), 0);
    others_are_served(&bed).await;
}

#[tokio::test]
async fn http2_bodies_that_pause_are_given_up() {
    let (bed, _instance) = impatient().await;
    let mut stream = connect(&bed).await;
    let post = [
        field(":method", "POST"),
        field(":scheme", "http"),
        field(":authority", "shop.localhost"),
        field(":path", "/body"),
        field("content-length", "50"),
    ]
    .concat();
    stream.write_all(&frame(HEADERS, END_HEADERS, 1, &post)).await.unwrap();
    let got =
        read_until(&mut stream, |got| kinds(got).iter().any(|kind| matches!(*kind, HEADERS | RESET | 7)));
    drop(got.await);
    others_are_served(&bed).await;
}

/// An instance that tells what heads it got, and answers each request with this at once, unread.
async fn answering(bed: &Bed, answer: &'static str) -> (mpsc::Receiver<String>, tokio::task::JoinHandle<()>) {
    let (tell, told) = mpsc::channel(16);
    let (address, task) = serve_raw(move |mut stream| {
        let tell = tell.clone();
        async move {
            let mut rest = Vec::new();
            while let Some(asked) = read_request(&mut stream, &mut rest).await {
                drop(tell.try_send(asked.head));
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    bed.handle.admit(endpoint("raw", release(1), address));
    (told, task)
}

#[tokio::test]
async fn trailers_have_an_end() {
    let (bed, _instance) = impatient().await;
    let chunked =
        "POST /body HTTP/1.1\r\nHost: shop.localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n";
    let mut client = bed.client().await;
    client.send(chunked).await;
    for nth in 0..2_000 {
        let line = format!("X-{nth}: {}\r\n", "y".repeat(200));
        if client.stream.write_all(line.as_bytes()).await.is_err() {
            break;
        }
    }
    if let Some(reply) = within(client.try_reply("POST")).await {
        assert!((400..500).contains(&reply.status), "{}", reply.head);
    }
    others_are_served(&bed).await;
    // And in HTTP/2: a second head of more than a head may be.
    let mut stream = connect(&bed).await;
    let trailers: Vec<u8> = (0..1_000).flat_map(|nth| field(&format!("x-{nth}"), &"y".repeat(120))).collect();
    let mut all = frame(HEADERS, END_HEADERS, 1, &head(&[]));
    for (nth, part) in trailers.chunks(16_000).enumerate() {
        let last = (nth + 1) * 16_000 >= trailers.len();
        let flags = if last { END_HEADERS } else { 0 };
        all.extend(match nth {
            0 => frame(HEADERS, flags | END_STREAM, 1, part),
            _ => frame(CONTINUATION, flags, 1, part),
        });
    }
    drop(stream.write_all(&all).await);
    let got =
        read_until(&mut stream, |got| kinds(got).iter().any(|kind| matches!(*kind, HEADERS | RESET | 7)));
    drop(got.await);
    others_are_served(&bed).await;
}

#[tokio::test]
async fn what_is_coded_passes_as_it_is() {
    let bed = bed();
    bed.publish_web(|_| {}).await;
    // It isn't gzip, which only somebody who unpacks it would find out.
    let answer = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nVary: Accept-Encoding\r\nContent-Length: 7\r\n\r\n\x1f?bombs!";
    let (mut told, _task) = answering(&bed, answer).await;
    let mut client = bed.client().await;
    let fields = "Accept-Encoding: br;q=1.0, gzip\r\nContent-Encoding: gzip\r\nContent-Length: 0\r\n";
    let reply = client.ask("POST", "/", fields).await;
    assert_eq!((reply.field("content-encoding"), reply.text()), (Some("gzip"), "\x1f?bombs"));
    let head = told.recv().await.unwrap();
    assert_eq!(crate::support::field(&head, "accept-encoding"), Some("br;q=1.0, gzip"));
    assert_eq!(crate::support::field(&head, "content-encoding"), Some("gzip"));
}

#[tokio::test]
async fn an_absolute_target_may_have_no_path() {
    let bed = bed();
    bed.publish_web(|_| {}).await;
    let (mut told, _task) = answering(&bed, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let mut client = bed.client().await;
    for (target, expected) in
        [("http://shop.localhost?q=1", "GET /?q=1 "), ("http://shop.localhost", "GET / ")]
    {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")).await;
        assert_eq!(client.reply("GET").await.status, 200);
        let head = told.recv().await.unwrap();
        assert!(head.starts_with(expected), "{target}: {head}");
    }
}

#[tokio::test]
async fn who_is_answered_before_it_was_told_to_go_on_sends_nothing() {
    let bed = bed();
    bed.publish_web(|_| {}).await;
    let (address, _task) = serve_raw(|mut stream| async move {
        let mut head = [0; 4096];
        while stream.read(&mut head).await.is_ok_and(|length| length > 0) {
            let no = "HTTP/1.1 413 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno";
            if stream.write_all(no.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await;
    bed.handle.admit(endpoint("early", release(1), address));
    let mut client = bed.client().await;
    client
        .send("POST / HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        .await;
    let reply = client.reply("POST").await;
    assert_eq!((reply.status, reply.text()), (413, "no"));
}
