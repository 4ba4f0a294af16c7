//! Who is slow: in every phase there is an end to it, and nobody else waits.

use std::time::Duration;

use minato_model::routing::Routing as _;
use tokio::io::AsyncWriteExt;

use crate::support::{Instance, bed_with, endpoint, read_request, release, serve_raw, within};

/// A client that sends one byte at a time, until it is answered.
async fn drip(bed: &crate::support::Bed, begin: &str, bytes: &str) -> (u16, Option<String>) {
    let mut client = bed.client().await;
    client.send(begin).await;
    let answered = async {
        for byte in bytes.as_bytes() {
            tokio::select! {
                biased;
                readable = client.stream.readable() => return readable.unwrap(),
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
            }
            client.send([*byte]).await;
        }
    };
    within(answered).await;
    let reply = client.reply("POST").await;
    (reply.status, reply.code().map(str::to_owned))
}

#[tokio::test]
async fn a_request_that_comes_byte_by_byte_is_given_up() {
    let bed = bed_with(None, |config| {
        config.limits.head = Duration::from_millis(200);
        config.limits.body_idle = Duration::from_millis(200);
    });
    bed.publish_web(|_| {}).await;
    let instance = Instance::start("one").await;
    bed.handle.admit(instance.endpoint.clone());
    let post = "POST /body HTTP/1.1\r\nHost: shop.localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    let long = "x".repeat(200);
    for (begin, bytes) in [
        ("", format!("GET /{long}")),
        ("GET / HTTP/1.1\r\n", format!("X-A: {long}")),
        (post, "0".repeat(200)),
        (post, format!("1;{long}")),
        (&format!("{post}1\r\nx\r\n0\r\n"), format!("X-A: {long}")),
    ] {
        let (status, code) = drip(&bed, begin, &bytes).await;
        assert_eq!((status, code.as_deref()), (408, Some("client_timeout")), "{begin:?} {bytes:?}");
    }
    assert_eq!(bed.get("/").await.text(), "one");
}

#[tokio::test]
async fn an_answer_that_does_not_come_on_is_given_up() {
    let bed = bed_with(None, |config| config.limits.stream_idle = Duration::from_millis(200));
    bed.publish_web(|route| {
        route.timeout = Duration::from_millis(300);
        route.traffic.retries.attempts = 0;
    })
    .await;
    let (address, _task) = serve_raw(|mut stream| async move {
        let mut rest = Vec::new();
        while let Some(asked) = read_request(&mut stream, &mut rest).await {
            let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            let (begin, drop): (String, &str) = match asked.path.as_str() {
                "/head" => ("HTTP/1.1 200 OK\r\nx: ".to_owned(), "x"),
                "/interim" => (String::new(), "HTTP/1.1 102 Processing\r\n\r\n"),
                "/size" => (chunked.to_owned(), "0"),
                "/trailers" => (format!("{chunked}0\r\nx: "), "x"),
                _ => ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n".to_owned(), ""),
            };
            let mut sent = stream.write_all(begin.as_bytes()).await;
            while sent.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
                sent = stream.write_all(drop.as_bytes()).await;
            }
        }
    })
    .await;
    bed.handle.admit(endpoint("slow", release(1), address));
    for path in ["/head", "/interim"] {
        let reply = bed.get(path).await;
        assert_eq!((reply.status, reply.code()), (504, Some("timeout")), "{path}");
    }
    for path in ["/size", "/trailers", "/body"] {
        let reply = bed.get(path).await;
        assert_eq!((reply.status, reply.whole), (200, false), "{path}");
    }
}
