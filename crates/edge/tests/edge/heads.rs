//! Heads: what passes, what is refused, how long they may take.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use minato_model::routing::Routing as _;

use crate::support::{Instance, bed, bed_with};

#[tokio::test]
async fn a_request_and_its_answer_pass_over_kept_connections() {
    let bed = bed();
    bed.publish_web(|_| {}).await;
    let instance = Instance::start("one").await;
    bed.handle.admit(instance.endpoint.clone());
    let mut client = bed.client().await;
    for _ in 0..10 {
        let reply = client.get("/").await;
        assert_eq!((reply.status, reply.text(), reply.code()), (200, "one", None));
        assert_eq!(reply.field("x-request-id").unwrap().len(), 32);
        assert!(reply.field("date").is_some());
    }
    assert_eq!(instance.connections.load(SeqCst), 1, "the connection to the instance is kept too");
    assert_eq!(instance.requests.load(SeqCst), 10);
    let traffic = bed.handle.traffic(&instance.endpoint.instance);
    assert_eq!((traffic.requests, traffic.in_flight), (10, 0));
    let load = bed.handle.load(&instance.endpoint.release);
    assert_eq!((load.in_flight, load.waiting, load.peak), (0, 0, 1));
    assert!(load.idle.is_some());
    let metrics = bed.edge.metrics();
    let counted = "minato_requests_total{app=\"shop\",service=\"web\",release=\"1\",code=\"200\"} 10";
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn the_contracts_headers_hold_in_both_directions() {
    let bed = bed();
    bed.publish_web(|_| {}).await;
    let instance = Instance::start("one").await;
    bed.handle.admit(instance.endpoint.clone());
    let mut client = bed.client().await;
    let fields = "Minato-Code: x\r\nMinato-Hops: 99\r\nX-Forwarded-For: 1.2.3.4\r\nConnection: x-gone\r\n\
                  X-Gone: 1\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nX-Request-Id: abc-1\r\n";
    let reply = client.ask("GET", "/echo", fields).await;
    let field = |name| crate::support::field(reply.text(), name);
    assert_eq!(field("host"), Some("shop.localhost"));
    assert_eq!(field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(field("x-forwarded-proto"), Some("http"));
    assert_eq!(field("x-forwarded-host"), Some("shop.localhost"));
    assert_eq!(field("traceparent"), Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
    assert_eq!(field("x-request-id"), Some("abc-1"));
    assert_eq!(field("minato-hops"), Some("1"));
    assert_eq!((field("minato-code"), field("x-gone")), (None, None));
    assert_eq!(reply.field("x-request-id"), Some("abc-1"));

    let reply = client.get("/forge").await;
    assert_eq!((reply.status, reply.code()), (200, None));
}

#[tokio::test]
async fn a_trusted_proxys_word_is_passed_on() {
    let bed = bed_with(None, |config| config.trusted_proxies.push("127.0.0.0/8".parse().unwrap()));
    bed.publish_web(|_| {}).await;
    let instance = Instance::start("one").await;
    bed.handle.admit(instance.endpoint.clone());
    let fields = "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\n";
    let reply = bed.client().await.ask("GET", "/echo", fields).await;
    assert!(reply.text().contains("x-forwarded-for: 1.2.3.4, 127.0.0.1\r\n"), "{}", reply.text());
    assert!(reply.text().contains("x-forwarded-proto: https\r\n"));
}

#[tokio::test]
async fn a_head_that_isnt_right_is_refused_in_the_contracts_form() {
    let bed = bed();
    bed.publish_web(|_| {}).await;
    let instance = Instance::start("one").await;
    bed.handle.admit(instance.endpoint.clone());
    let long = "x".repeat(70_000);
    let many = "X-A: b\r\n".repeat(101);
    let cases = [
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400, "bad_request"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".to_owned(), 400, "bad_request"),
        ("GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n".to_owned(), 400, "bad_request"),
        ("NO REQUEST AT ALL\r\n\r\n".to_owned(), 400, "bad_request"),
        ("GET / HTTP/1.1\r\nHost: shop.localhost\r\nA : b\r\n\r\n".to_owned(), 400, "bad_request"),
        (format!("GET / HTTP/1.1\r\nHost: shop.localhost\r\nX: {long}\r\n\r\n"), 431, "headers_too_large"),
        (format!("GET / HTTP/1.1\r\nHost: shop.localhost\r\n{many}\r\n"), 431, "headers_too_large"),
        (format!("GET /{} HTTP/1.1\r\nHost: shop.localhost\r\n\r\n", &long[..20_000]), 414, "uri_too_long"),
        ("GET / HTTP/1.1\r\nHost: other.localhost\r\n\r\n".to_owned(), 404, "no_route"),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n".to_owned(), 400, "bad_request"),
    ];
    for (bytes, status, code) in cases {
        let mut client = bed.client().await;
        client.send(&bytes).await;
        let reply = client.reply("GET").await;
        let what = &bytes[..bytes.len().min(80)];
        assert_eq!((reply.status, reply.code()), (status, Some(code)), "{what:?}");
        assert_eq!(reply.field("content-type"), Some("application/problem+json"));
        assert!(reply.text().contains(&format!("\"code\":\"{code}\"")), "{}", reply.text());
    }
    // An absolute target that agrees passes; so do pipelined requests.
    let mut client = bed.client().await;
    let one = "GET http://shop.localhost/x HTTP/1.1\r\nHost: shop.localhost\r\n\r\n";
    client.send(one.repeat(3)).await;
    for _ in 0..3 {
        assert_eq!(client.reply("GET").await.status, 200);
    }
    assert_eq!(instance.requests.load(SeqCst), 3, "none of the others reached the instance");
}

#[tokio::test]
async fn a_head_that_doesnt_come_and_a_connection_that_says_nothing_are_ended() {
    let bed = bed_with(None, |config| {
        config.limits.head = Duration::from_millis(100);
        config.limits.idle = Duration::from_millis(400);
    });
    let mut slow = bed.client().await;
    slow.send("GET / HT").await;
    let reply = slow.reply("GET").await;
    assert_eq!((reply.status, reply.code()), (408, Some("client_timeout")));
    assert!(slow.is_closed().await);

    let mut silent = bed.client().await;
    assert!(silent.is_closed().await);
    let mut kept = bed.client().await;
    assert_eq!(kept.get("/").await.status, 404);
    assert!(kept.is_closed().await);
}
