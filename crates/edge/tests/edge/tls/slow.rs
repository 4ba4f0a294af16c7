//! Who takes long, and how much that costs.

use std::time::Duration;

use minato_edge::Limits;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::door_with;
use crate::support::{Client, until, within};

/// The beginning of a hello that never comes to its end.
const BEGUN: &[u8] = &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3, 7, 7, 7];

/// This process's memory, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim_end_matches("kB").trim().parse::<usize>().unwrap() * 1024
}

#[tokio::test]
async fn handshakes_that_never_finish_are_ended_while_others_are_served() {
    let limits = Limits { head: Duration::from_secs(2), ..Limits::default() };
    let door = door_with(|config| config.limits = limits);
    let _instance = door.shop().await;
    assert_eq!(door.client().await.get("/").await.text(), "one");
    let before = resident();
    let mut stuck = Vec::new();
    for nth in 0..1000 {
        let mut stream = TcpStream::connect(door.address).await.unwrap();
        // Some stop within the record, some say nothing but its first byte.
        stream.write_all(if nth % 2 == 0 { BEGUN } else { &BEGUN[..1] }).await.unwrap();
        stuck.push(stream);
    }
    for _ in 0..20 {
        assert_eq!(door.client().await.get("/").await.text(), "one");
    }
    let each = resident().saturating_sub(before) / 1000;
    assert!(each < 32 * 1024, "one that is stuck costs {each} bytes, its client's side included");
    let mut byte = [0];
    for stream in &mut stuck {
        assert!(!matches!(within(stream.read(&mut byte)).await, Ok(length) if length > 0));
    }
    until(|| door.bed.handle.metrics().contains("minato_edge_connections 0\n")).await;
    assert_eq!(door.client().await.get("/").await.text(), "one");
}

#[tokio::test]
async fn every_phase_has_its_time() {
    let limits =
        Limits { head: Duration::from_millis(300), idle: Duration::from_millis(600), ..Limits::default() };
    let door = door_with(|config| config.limits = limits);
    let _instance = door.shop().await;
    // Byte by byte is as good as nothing.
    let mut stream = TcpStream::connect(door.address).await.unwrap();
    within(async {
        for byte in BEGUN.iter().cycle() {
            tokio::time::sleep(Duration::from_millis(30)).await;
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
    })
    .await;
    // A head within TLS that doesn't come is answered within TLS.
    let mut client = door.client().await;
    client.send("GET / HTTP/1.1\r\nHost: shop").await;
    let reply = client.reply("GET").await;
    assert_eq!((reply.status, reply.code()), (408, Some("client_timeout")));
    assert!(client.is_closed().await);
    // Nothing asked after the handshake, and nothing at all.
    let mut client = door.client().await;
    assert!(client.is_closed().await);
    let mut silent = Client::connect(door.address).await;
    assert!(silent.is_closed().await);
}

#[tokio::test]
async fn a_connection_may_wait_longer_for_its_next_head_than_a_head_may_take() {
    let limits =
        Limits { head: Duration::from_millis(200), idle: Duration::from_secs(20), ..Limits::default() };
    let door = door_with(|config| config.limits = limits);
    let _instance = door.shop().await;
    let mut client = door.client().await;
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(client.get("/").await.text(), "one");
    }
}
