//! Bodies in both directions, and connections that become another protocol's.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use minato_model::routing::Routing as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Instance, bed, bed_with, endpoint, read_request, release, serve_raw, within};

const MIB: usize = 1 << 20;

#[tokio::test]
async fn answers_of_every_framing_arrive_whole() {
    let bed = bed();
    bed.publish_web(|_| {}).await;
    let instance = Instance::start("one").await;
    bed.handle.admit(instance.endpoint.clone());
    let mut client = bed.client().await;
    let reply = client.get("/chunked").await;
    assert_eq!((reply.text(), reply.whole, reply.field("content-length")), ("abcdefg", true, None));
    let reply = client.ask("HEAD", "/head", "").await;
    assert_eq!((reply.status, reply.field("content-length")), (200, Some("12345")));
    assert_eq!(client.get("/none").await.status, 204);
    let reply = client.get("/stream/300000").await;
    assert_eq!((reply.body.len(), reply.whole), (300_000, true));
    assert_eq!(instance.connections.load(SeqCst), 1, "after each of these the connection is good");
    let reply = client.get("/close").await;
    assert_eq!((reply.text(), reply.whole), ("until the end", true));
    assert_eq!(client.get("/").await.text(), "one");
}

#[tokio::test]
async fn requests_of_every_framing_arrive_whole() {
    let bed = bed();
    bed.publish_web(|_| {}).await;
    let instance = Instance::start("one").await;
    bed.handle.admit(instance.endpoint.clone());
    let mut client = bed.client().await;
    client.send("POST /body HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 5\r\n\r\nhello").await;
    assert_eq!(client.reply("POST").await.text(), "5");
    let chunks = "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
    client
        .send(format!(
            "POST /body HTTP/1.1\r\nHost: shop.localhost\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"
        ))
        .await;
    assert_eq!(client.reply("POST").await.text(), "11");
    assert_eq!(client.ask("POST", "/body", "Content-Length: 0\r\n").await.text(), "0");
    // The client is told to go on once an instance reads.
    client.send("POST /body HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n").await;
    assert_eq!(client.bytes(25).await, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.send("ok").await;
    assert_eq!(client.reply("POST").await.text(), "2");
    assert_eq!(instance.connections.load(SeqCst), 1);
}

#[tokio::test]
async fn large_bodies_flow_without_being_kept() {
    let bed = bed();
    bed.publish_web(|_| {}).await;
    let instance = Instance::start("one").await;
    bed.handle.admit(instance.endpoint.clone());
    let size = 64 * MIB;
    let before = resident();
    let mut client = bed.client().await;
    client
        .send(format!("GET /stream/{size} HTTP/1.1\r\nHost: shop.localhost\r\nConnection: close\r\n\r\n"))
        .await;
    let mut buffer = vec![0; 64 * 1024];
    let mut total = 0;
    loop {
        match within(client.stream.read(&mut buffer)).await.unwrap() {
            0 => break,
            length => total += length,
        }
    }
    assert!(total > size && total < size + 1000, "{total}");

    let mut client = bed.client().await;
    client
        .send(format!("PUT /body HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: {size}\r\n\r\n"))
        .await;
    for _ in 0..size / buffer.len() {
        client.send(&buffer).await;
    }
    assert_eq!(client.reply("PUT").await.text(), size.to_string());
    let grown = resident().saturating_sub(before);
    assert!(grown < 16 * MIB, "{} KiB more than before", grown / 1024);
}

/// This process's memory, in bytes.
pub(crate) fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test]
async fn a_body_has_a_limit_however_it_is_framed() {
    let bed = bed();
    bed.publish_web(|route| route.body_max = 10).await;
    let instance = Instance::start("one").await;
    bed.handle.admit(instance.endpoint.clone());
    let mut client = bed.client().await;
    client.send("POST /body HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 10\r\n\r\n0123456789").await;
    assert_eq!(client.reply("POST").await.status, 200);
    client.send("POST /body HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 11\r\n\r\n").await;
    let reply = client.reply("POST").await;
    assert_eq!((reply.status, reply.code()), (413, Some("body_too_large")));
    assert_eq!(instance.requests.load(SeqCst), 1, "it didn't reach the instance");
    let mut client = bed.client().await;
    client.send("POST /body HTTP/1.1\r\nHost: shop.localhost\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    client.send("8\r\n01234567\r\n8\r\n01234567\r\n").await;
    let reply = client.reply("POST").await;
    assert_eq!((reply.status, reply.code()), (413, Some("body_too_large")));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_body_that_doesnt_come_is_given_up() {
    let bed = bed_with(None, |config| config.limits.body_idle = Duration::from_millis(100));
    bed.publish_web(|_| {}).await;
    let instance = Instance::start("one").await;
    bed.handle.admit(instance.endpoint.clone());
    for begun in ["", "some"] {
        let mut client = bed.client().await;
        client
            .send(format!("POST /body HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 10\r\n\r\n{begun}"))
            .await;
        let reply = client.reply("POST").await;
        assert_eq!((reply.status, reply.code()), (408, Some("client_timeout")));
        assert!(client.is_closed().await);
    }
    bed.in_flight(&release(1), 0).await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_breaks_off_for_the_client_too() {
    let bed = bed();
    bed.publish_web(|_| {}).await;
    let instance = Instance::start("one").await;
    bed.handle.admit(instance.endpoint.clone());
    let reply = bed.get("/half").await;
    assert_eq!((reply.status, reply.whole, reply.text()), (200, false, "half"));
    let reply = bed.get("/garbage").await;
    assert_eq!((reply.status, reply.code()), (502, Some("upstream")));
    let reply = bed.client().await.ask("POST", "/die", "Content-Length: 0\r\n").await;
    assert_eq!((reply.status, reply.code()), (502, Some("upstream")));
    bed.in_flight(&release(1), 0).await;
}

#[tokio::test]
async fn a_websocket_is_passed_both_ways() {
    let bed = bed();
    bed.publish_web(|_| {}).await;
    let (address, _task) = serve_raw(|mut stream| async move {
        let mut rest = Vec::new();
        let asked = read_request(&mut stream, &mut rest).await.unwrap();
        if asked.path != "/ws" {
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nupgrade: websocket\r\n\r\nno";
            stream.write_all(answer.as_bytes()).await.unwrap();
            // HTTP goes on.
            read_request(&mut stream, &mut rest).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes").await.unwrap();
            return;
        }
        assert!(
            asked.head.contains("upgrade: websocket\r\n") && asked.head.contains("connection: upgrade\r\n")
        );
        let head =
            "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\nhello";
        stream.write_all(head.as_bytes()).await.unwrap();
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    })
    .await;
    bed.handle.admit(endpoint("ws", release(1), address));
    let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\n";

    let mut client = bed.client().await;
    assert_eq!(client.ask("GET", "/other", fields).await.text(), "no");
    assert_eq!(client.ask("GET", "/other", fields).await.text(), "yes");

    let mut client = bed.client().await;
    let reply = client.ask("GET", "/ws", fields).await;
    assert_eq!((reply.status, reply.field("upgrade")), (101, Some("websocket")));
    bed.in_flight(&release(1), 1).await;
    assert_eq!(client.bytes(5).await, b"hello");
    let sent = vec![7_u8; 200_000];
    let (mut read, mut write) = client.stream.split();
    let mut echoed = vec![0; sent.len()];
    let (written, read_back) =
        within(async { tokio::join!(write.write_all(&sent), read.read_exact(&mut echoed)) }).await;
    written.unwrap();
    read_back.unwrap();
    assert_eq!(sent, echoed);
    drop(client);
    bed.in_flight(&release(1), 0).await;
}
