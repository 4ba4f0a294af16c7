//! Services of plain TCP, with real sockets.
#![expect(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]

use std::{net::SocketAddr, time::Duration};

use minato_model::{
    manifest::Protocol,
    route::{Entry, Route},
    routing::Routing as _,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::support::{Bed, Told, bed, endpoint, entry, release, serve_raw, until, within};

/// A port that is free now.
async fn free() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

fn tcp(port: u16) -> impl FnOnce(&mut Route) {
    move |route| {
        (route.protocol, route.listen) = (Protocol::Tcp, Some(port));
        (route.hosts, route.paths) = (Vec::new(), Vec::new());
    }
}

fn service(port: u16) -> Entry {
    entry("shop/web", tcp(port), &[(1, 1)])
}

/// An instance that says back what it is sent, and at the end its name.
async fn echo(name: &'static str) -> (SocketAddr, JoinHandle<()>) {
    serve_raw(move |mut stream| async move {
        let (mut read, mut write) = stream.split();
        if tokio::io::copy(&mut read, &mut write).await.is_ok() {
            drop(write.write_all(name.as_bytes()).await);
        }
    })
    .await
}

async fn connect(port: u16) -> TcpStream {
    within(async {
        loop {
            match TcpStream::connect(("127.0.0.1", port)).await {
                Ok(stream) => return stream,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    })
    .await
}

/// Sends all, ends its half, and reads to the end.
async fn say(port: u16, what: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = connect(port).await;
    let (mut read, mut write) = stream.split();
    let mut heard = Vec::new();
    let send = async {
        write.write_all(what).await?;
        write.shutdown().await
    };
    let (sent, heard_all) = within(async { tokio::join!(send, read.read_to_end(&mut heard)) }).await;
    sent?;
    heard_all?;
    Ok(heard)
}

async fn admitted(bed: &Bed, name: &'static str) -> JoinHandle<()> {
    let (address, task) = echo(name).await;
    bed.handle.admit(endpoint(name, release(1), address));
    task
}

#[tokio::test]
async fn bytes_pass_both_ways_and_each_half_ends_by_itself() {
    let (bed, port) = (bed(), free().await);
    bed.publish(vec![service(port)]).await;
    let _instance = admitted(&bed, "one").await;
    assert_eq!(say(port, b"hello ").await.unwrap(), b"hello one");
    let large: Vec<u8> = (0..8 << 20).map(|n: u32| n.to_le_bytes()[1]).collect();
    let heard = say(port, &large).await.unwrap();
    assert!(heard.starts_with(&large) && heard.ends_with(b"one"));
    let text = bed.handle.metrics();
    assert!(
        text.contains("minato_tcp_connections_total{app=\"shop\",service=\"web\",release=\"1\"} 2"),
        "{text}"
    );
}

#[tokio::test]
async fn who_comes_to_nobody_wakes_an_instance_and_waits_for_it() {
    let (mut bed, port) = (bed(), free().await);
    bed.publish(vec![service(port)]).await;
    let asked = tokio::spawn(async move { say(port, b"first ").await });
    assert_eq!(bed.next_told().await, Told::Wake(release(1), 1));
    let _instance = admitted(&bed, "one").await;
    assert_eq!(within(asked).await.unwrap().unwrap(), b"first one");
}

#[tokio::test]
async fn who_waits_in_vain_is_reset() {
    let (bed, port) = (bed(), free().await);
    let mut service = service(port);
    service.route.timeout = Duration::from_millis(50);
    bed.publish(vec![service]).await;
    let mut stream = connect(port).await;
    let error = within(stream.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn an_instance_that_refuses_is_passed_over() {
    let (bed, port) = (bed(), free().await);
    bed.publish(vec![service(port)]).await;
    let refuses = SocketAddr::from(([127, 0, 0, 1], free().await));
    bed.handle.admit(endpoint("bad", release(1), refuses));
    let _instance = admitted(&bed, "good").await;
    for _ in 0..10 {
        assert_eq!(say(port, b"").await.unwrap(), b"good");
    }
}

#[tokio::test]
async fn a_drain_waits_for_connections_and_then_cuts_them() {
    let (bed, port) = (bed(), free().await);
    bed.publish(vec![service(port)]).await;
    let _instance = admitted(&bed, "one").await;
    let mut stream = connect(port).await;
    stream.write_all(b"x").await.unwrap();
    within(stream.read_exact(&mut [0])).await.unwrap();
    let id = "one".parse().unwrap();
    within(bed.handle.withdraw(&id)).await;
    within(bed.handle.quiet(&id)).await;
    assert_eq!(bed.handle.traffic(&id).streams, 1, "a connection counts as a stream");
    stream.write_all(b"y").await.unwrap();
    within(stream.read_exact(&mut [0])).await.unwrap();
    within(bed.handle.end_streams(&id)).await;
    assert!(matches!(within(stream.read(&mut [0])).await, Ok(0) | Err(_)));
    until(|| bed.handle.traffic(&id).streams == 0).await;
}

#[tokio::test]
async fn the_port_comes_and_goes_with_the_table() {
    let (bed, port) = (bed(), free().await);
    bed.publish(vec![service(port)]).await;
    drop(connect(port).await);
    bed.publish(Vec::new()).await;
    within(async {
        while TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    // Somebody else has it for a while.
    let other = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    bed.publish(vec![service(port)]).await;
    let _instance = admitted(&bed, "one").await;
    drop(other);
    assert_eq!(say(port, b"").await.unwrap(), b"one", "it is listened at as soon as it is free");
}
