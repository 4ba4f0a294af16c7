//! Requests and answers that two readers could take for different ones: the instance never sees a request that the
//! edge didn't mean, and the client no answer that isn't its own.

use std::sync::{Arc, Mutex};

use minato_model::routing::Routing as _;
use tokio::{io::AsyncWriteExt as _, task::JoinHandle};

use crate::support::{Bed, bed, endpoint, read_request, release, serve_raw};

/// An instance that notes the path and body length of each request that it sees, and answers by the path.
async fn noting(bed: &Bed) -> (Arc<Mutex<Vec<String>>>, JoinHandle<()>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&seen);
    let (address, task) = serve_raw(move |mut stream| {
        let notes = Arc::clone(&notes);
        async move {
            let mut rest = Vec::new();
            while let Some(request) = read_request(&mut stream, &mut rest).await {
                notes.lock().unwrap().push(format!("{} {}", request.path, request.body));
                let answer = answer(&request.path);
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    bed.handle.admit(endpoint("one", release(1), address));
    (seen, task)
}

fn answer(path: &str) -> String {
    let next = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged";
    match path {
        "/both" => format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n{next}"
        ),
        "/gzip" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc".to_owned(),
        "/lengths" => "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd".to_owned(),
        "/more" => format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{next}"),
        "/none" => format!("HTTP/1.1 204 No Content\r\n\r\n{next}"),
        "/interim" => {
            "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(20) + "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        }
        "/forever" => {
            "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(200) + "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        }
        "/switch" => {
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n".to_owned()
        }
        "/folded" => "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        _ => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
    }
}

/// What hides behind each of them, if it is read as the next request.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: shop.localhost\r\n\r\n";

#[tokio::test]
async fn what_says_two_lengths_reaches_nobody() {
    let bed = bed();
    bed.publish_web(|_| {}).await;
    let (seen, _instance) = noting(&bed).await;
    for fields in [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 0x5",
        "Content-Length: 5, 6",
        "Content-Length: 99999999999999999999999",
        "Content-Length : 5",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding:\u{b}chunked",
        "Transfer-Encoding : chunked",
        "X: a\r\n Transfer-Encoding: chunked",
        "X: a\0b",
        "X: a\rb",
    ] {
        let mut client = bed.client().await;
        client.send(format!("POST / HTTP/1.1\r\nHost: shop.localhost\r\n{fields}\r\n\r\n{HIDDEN}")).await;
        let reply = client.reply("POST").await;
        assert!((400..500).contains(&reply.status), "{fields:?}: {}", reply.status);
        assert!(client.is_closed().await, "{fields:?}: what follows may be anything");
    }
    // Of HTTP/1.0 there are no chunks.
    let mut client = bed.client().await;
    client
        .send(format!(
            "POST / HTTP/1.0\r\nHost: shop.localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}"
        ))
        .await;
    assert_eq!(client.reply("POST").await.status, 400);
    let seen = seen.lock().unwrap().clone();
    assert!(seen.is_empty(), "{seen:?}");
}

#[tokio::test]
async fn a_length_beside_chunks_is_framed_anew_and_hides_nothing() {
    let bed = bed();
    bed.publish_web(|_| {}).await;
    let (seen, _instance) = noting(&bed).await;
    // By its length, what is hidden would be the body; by its chunks, the next request. The edge goes by the
    // chunks (RFC 9112, 6.3), tells the instance nothing else, and the two agree on what follows.
    for fields in
        ["Content-Length: 4\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 4"]
    {
        let mut client = bed.client().await;
        client
            .send(format!(
                "POST /first HTTP/1.1\r\nHost: shop.localhost\r\n{fields}\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
                 GET /hidden HTTP/1.1\r\nHost: shop.localhost\r\n\r\n"
            ))
            .await;
        let reply = client.reply("POST").await;
        assert_eq!((reply.status, reply.field("connection")), (200, Some("close")), "{fields}");
        assert!(client.is_closed().await, "what follows is not read as a request");
    }
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen, ["/first 3", "/first 3"]);
}

#[tokio::test]
async fn chunks_that_are_none_break_the_request_off() {
    let bed = bed();
    bed.publish_web(|_| {}).await;
    let (seen, _instance) = noting(&bed).await;
    for chunks in [
        "g\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "-1\r\nabc\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nabc",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\rabc\r\n0\r\n\r\n",
    ] {
        let mut client = bed.client().await;
        let head = "POST / HTTP/1.1\r\nHost: shop.localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.send(format!("{head}{chunks}{HIDDEN}")).await;
        let status = client.try_reply("POST").await.map(|reply| reply.status);
        assert!(status.is_none_or(|status| status == 400), "{chunks:?}: {status:?}");
    }
    let seen = seen.lock().unwrap().clone();
    assert!(!seen.iter().any(|one| one.contains("hidden")), "{seen:?}");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let bed = bed();
    bed.publish_web(|_| {}).await;
    let (seen, _instance) = noting(&bed).await;
    let mut client = bed.client().await;
    let post = "POST /a HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 3\r\n\r\nabc";
    let chunked = "POST /b HTTP/1.1\r\nHost: shop.localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX: y\r\n\r\n";
    let get = "GET /c HTTP/1.1\r\nHost: shop.localhost\r\n\r\n";
    client.send([post, chunked, get].concat()).await;
    for _ in 0..3 {
        assert_eq!(client.reply("GET").await.status, 200);
    }
    assert_eq!(*seen.lock().unwrap(), ["/a 3", "/b 2", "/c 0"]);
}

#[tokio::test]
async fn an_answer_ends_where_it_says_and_what_follows_is_nobodys() {
    let bed = bed();
    bed.publish_web(|route| route.traffic.breaker.failures = 1_000).await;
    let (_, _instance) = noting(&bed).await;
    let mut client = bed.client().await;
    for (path, status, body) in [
        ("/both", 200, "abc"),
        ("/gzip", 502, ""),
        ("/lengths", 502, ""),
        ("/more", 200, "ok"),
        ("/none", 204, ""),
        ("/interim", 200, "ok"),
        ("/forever", 502, ""),
        ("/switch", 502, ""),
        ("/folded", 502, ""),
    ] {
        let reply = client.get(path).await;
        assert_eq!(reply.status, status, "{path}");
        if status != 502 {
            assert_eq!(reply.text(), body, "{path}");
            assert_eq!(reply.field("transfer-encoding").is_some(), path == "/both");
        }
        let next = client.get("/").await;
        assert_eq!(
            (next.status, next.text()),
            (200, "ok"),
            "what follows {path} is another request's answer"
        );
    }
}
