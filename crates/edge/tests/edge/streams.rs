//! WebSockets and server-sent events, which last, and end when their instance does; and what an
//! instance is known to carry.
#![expect(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]

use std::time::Duration;

use minato_model::routing::{Routing as _, Traffic};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
};

use crate::support::{
    Bed, Client, Instance, bed, endpoint, id, read_request, release, serve_raw, until, within,
};

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
const SWITCH: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
const EVENTS: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: Text/Event-Stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xe9];

/// An instance whose connections the test holds in its own hands, each after its first request.
async fn by_hand(bed: &Bed, name: &str) -> (mpsc::UnboundedReceiver<TcpStream>, JoinHandle<()>) {
    let (give, given) = mpsc::unbounded_channel();
    let (address, task) = serve_raw(move |mut stream| {
        let give = give.clone();
        async move {
            if read_request(&mut stream, &mut Vec::new()).await.is_some() {
                drop(give.send(stream));
            }
        }
    })
    .await;
    bed.handle.admit(endpoint(name, release(1), address));
    (given, task)
}

/// A WebSocket through the edge: its client and its instance.
async fn websocket(bed: &Bed, given: &mut mpsc::UnboundedReceiver<TcpStream>) -> (Client, TcpStream) {
    let mut client = bed.client().await;
    client.send(format!("GET / HTTP/1.1\r\nHost: shop.localhost\r\n{UPGRADE}\r\n")).await;
    let mut instance = within(given.recv()).await.unwrap();
    instance.write_all(SWITCH).await.unwrap();
    assert_eq!(client.reply("GET").await.status, 101);
    (client, instance)
}

/// A stream of events through the edge, likewise, after its first event.
async fn events(bed: &Bed, given: &mut mpsc::UnboundedReceiver<TcpStream>) -> (Client, TcpStream) {
    let mut client = bed.client().await;
    client.send("GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    let mut instance = within(given.recv()).await.unwrap();
    instance.write_all(EVENTS).await.unwrap();
    instance.write_all(b"6\r\ndata:x\r\n").await.unwrap();
    (client, instance)
}

fn traffic(bed: &Bed) -> Traffic {
    bed.handle.traffic(&id("one"))
}

async fn streams(bed: &Bed, count: u32) {
    until(|| traffic(bed).streams == count).await;
}

#[tokio::test]
async fn what_an_instance_carries_is_known() {
    let bed = bed();
    bed.publish_web(|_| {}).await;
    assert_eq!(traffic(&bed), Traffic::default());
    let (mut given, _task) = by_hand(&bed, "one").await;
    let mut client = bed.client().await;
    client.send("GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    let mut instance = within(given.recv()).await.unwrap();
    until(|| traffic(&bed).oldest.is_some_and(|oldest| oldest >= Duration::from_millis(50))).await;
    let waits = traffic(&bed);
    assert_eq!((waits.requests, waits.in_flight, waits.errors, waits.answered), (1, 1, 0, None));
    instance.write_all(b"HTTP/1.1 500 Oh\r\nconnection: close\r\ncontent-length: 2\r\n\r\n").await.unwrap();
    until(|| traffic(&bed).answered.is_some()).await;
    // Its body is still to come, but it isn't waited for as one that doesn't answer.
    let answers = traffic(&bed);
    assert_eq!((answers.in_flight, answers.streams, answers.errors, answers.oldest), (1, 0, 1, None));
    instance.write_all(b"no").await.unwrap();
    assert_eq!(client.reply("GET").await.status, 500);
    bed.in_flight(&release(1), 0).await;

    // While the client is sending it is the client that is waited for.
    let mut client = bed.client().await;
    client.send("POST / HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 4\r\n\r\nab").await;
    bed.in_flight(&release(1), 1).await;
    until(|| traffic(&bed).oldest.is_none()).await;
    client.send("cd").await;
    until(|| traffic(&bed).oldest.is_some()).await;
    drop(within(given.recv()).await.unwrap());
    assert_eq!(client.reply("POST").await.status, 502);
    until(|| traffic(&bed).in_flight == 0).await;
    let failed = traffic(&bed);
    assert_eq!((failed.requests, failed.errors, failed.oldest), (2, 2, None));
}

#[tokio::test]
async fn an_instance_with_streams_only_is_quiet() {
    let bed = bed();
    bed.publish_web(|_| {}).await;
    let (mut given, _task) = by_hand(&bed, "one").await;
    let (mut client, mut instance) = websocket(&bed, &mut given).await;
    let (mut listener, mut source) = events(&bed, &mut given).await;
    streams(&bed, 2).await;
    assert!(
        bed.handle.metrics().contains("minato_streams{app=\"shop\",service=\"web\",release=\"1\"} 2\n"),
        "{}",
        bed.handle.metrics()
    );
    let mut asking = bed.client().await;
    asking.send("GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    let mut asked = within(given.recv()).await.unwrap();
    bed.handle.withdraw(&id("one")).await;
    let mut quiet = bed.handle.quiet(&id("one"));
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut quiet).await.is_err());
    asked.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    within(quiet).await;
    assert_eq!(asking.reply("GET").await.status, 200);
    // They live on.
    instance.write_all(&[0x81, 1, b'x']).await.unwrap();
    assert_eq!(client.bytes(3).await, [0x81, 1, b'x']);
    source.write_all(b"0\r\n\r\n").await.unwrap();
    assert_eq!(listener.reply("GET").await.text(), "data:x");
    let mut over = bed.handle.streams_over(&id("one"));
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut over).await.is_err());
    drop((client, instance));
    within(over).await;
    assert!(bed.handle.metrics().contains("minato_streams_ended_total 0\n"));
}

#[tokio::test]
async fn who_is_admitted_anew_still_has_what_was_begun() {
    let bed = bed();
    bed.publish_web(|_| {}).await;
    let (mut given, _task) = by_hand(&bed, "one").await;
    let mut asking = bed.client().await;
    asking.send("GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    let mut asked = within(given.recv()).await.unwrap();
    bed.handle.withdraw(&id("one")).await;
    let (_given, _task) = by_hand(&bed, "one").await;
    bed.handle.withdraw(&id("one")).await;
    let traffic = bed.handle.traffic(&id("one"));
    assert_eq!((traffic.requests, traffic.in_flight), (1, 1));
    let mut quiet = bed.handle.quiet(&id("one"));
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut quiet).await.is_err());
    asked.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    within(quiet).await;
    assert_eq!(asking.reply("GET").await.status, 200);
}

#[tokio::test]
async fn a_websocket_is_closed_between_two_frames_and_events_end_whole() {
    let bed = bed();
    bed.publish_web(|_| {}).await;
    let (mut given, _task) = by_hand(&bed, "one").await;
    let (mut client, mut instance) = websocket(&bed, &mut given).await;
    let (mut listener, _source) = events(&bed, &mut given).await;
    streams(&bed, 2).await;
    // A frame is under way in either direction.
    instance.write_all(&[0x82, 126, 0]).await.unwrap();
    client.send([0x82, 0x83, 1, 2, 3, 4, b'a']).await;
    assert_eq!(client.bytes(3).await, [0x82, 126, 0]);
    let mut sent = [0; 7];
    within(instance.read_exact(&mut sent)).await.unwrap();
    bed.handle.withdraw(&id("one")).await;
    let over = bed.handle.end_streams(&id("one"));
    let reply = listener.reply("GET").await;
    assert!(reply.whole && reply.text() == "data:x", "{reply:?}");
    let mut frames = vec![0xff; 199];
    frames.splice(..1, [200, 0xff]);
    frames.extend([0x81, 1, b'!']);
    instance.write_all(&frames).await.unwrap();
    client.send([b'b', b'c', 0x81, 0x80, 0, 0, 0, 0]).await;
    assert_eq!(client.bytes(201).await, frames[..201]);
    assert_eq!(client.bytes(4).await, GOING_AWAY);
    let mut sent = [0; 10];
    within(instance.read_exact(&mut sent)).await.unwrap();
    assert_eq!(sent[..4], [b'b', b'c', 0x88, 0x82]);
    assert_eq!([sent[8] ^ sent[4], sent[9] ^ sent[5]], [0x03, 0xe9]);
    // Both agree.
    client.send([0x88, 0x80, 0, 0, 0, 0]).await;
    instance.write_all(&GOING_AWAY).await.unwrap();
    drop(instance);
    within(over).await;
    assert!(client.is_closed().await);
    within(bed.handle.streams_over(&id("one"))).await;
    assert!(bed.handle.metrics().contains("minato_streams_ended_total 2\n"));
    // The one with events can be asked again.
    let next = Instance::start("two").await;
    bed.handle.admit(next.endpoint.clone());
    assert_eq!(listener.get("/").await.text(), "two");
}

#[tokio::test]
async fn who_doesnt_agree_to_an_end_is_cut() {
    let bed = bed();
    bed.publish_web(|_| {}).await;
    let (mut given, _task) = by_hand(&bed, "one").await;
    let (mut client, mut instance) = websocket(&bed, &mut given).await;
    instance.write_all(&[0x82, 100, 1]).await.unwrap();
    assert_eq!(client.bytes(3).await, [0x82, 100, 1]);
    bed.handle.withdraw(&id("one")).await;
    within(bed.handle.end_streams(&id("one"))).await;
    // The rest of the frame never came: nothing could be said.
    assert!(client.is_closed().await);
    within(bed.handle.streams_over(&id("one"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_edge_ends_streams_at_its_deadline() {
    let bed = bed();
    bed.publish_web(|_| {}).await;
    let (mut given, _task) = by_hand(&bed, "one").await;
    let (mut client, mut instance) = websocket(&bed, &mut given).await;
    let (mut listener, _source) = events(&bed, &mut given).await;
    streams(&bed, 2).await;
    let draining = tokio::spawn(bed.edge.drain(Duration::from_millis(100)));
    let reply = listener.reply("GET").await;
    assert!(reply.whole && reply.text() == "data:x", "{reply:?}");
    assert_eq!(client.bytes(4).await, GOING_AWAY);
    let mut sent = [0; 8];
    within(instance.read_exact(&mut sent)).await.unwrap();
    assert_eq!(sent[..2], [0x88, 0x82]);
    drop((client, instance));
    within(draining).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retired_edge_keeps_streams_for_as_long_as_it_is_told() {
    let bed = bed();
    bed.publish_web(|_| {}).await;
    let (mut given, _task) = by_hand(&bed, "one").await;
    let (mut client, mut instance) = websocket(&bed, &mut given).await;
    let retiring = tokio::spawn(bed.edge.retire(Duration::from_millis(300), std::future::pending()));
    instance.write_all(&[0x81, 1, b'x']).await.unwrap();
    assert_eq!(client.bytes(3).await, [0x81, 1, b'x']);
    assert_eq!(client.bytes(4).await, GOING_AWAY);
    drop((client, instance));
    within(retiring).await.unwrap();
}
