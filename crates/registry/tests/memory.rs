//! Memory stays flat while 1 GB comes and goes. Alone in its process: the peak counts for all of it.
#![expect(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{net::SocketAddr, sync::Arc};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt as _;
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use minato_image::digest::Hasher;
use minato_model::digest::Algorithm;
use minato_registry::{Access, Library, Limits, router};
use tokio::net::{TcpListener, TcpStream};

const TOKEN: &str = "the-api-token-of-this-test";
const PIECE: usize = 64 << 10;
const PIECES: usize = (1 << 30) / PIECE;
/// A few pieces of 1 MiB, the sockets' buffers and the allocator's own; the content is 32 times more.
const GROWTH_KIB_MAX: u64 = 32 << 10;

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

async fn send(address: SocketAddr, method: &str, path: &str, body: Body) -> Response<Incoming> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", address.to_string())
        .header("authorization", format!("Bearer {TOKEN}"))
        .body(body)
        .unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let response = sender.send_request(request).await.unwrap();
    assert!(response.status().is_success(), "{response:?}");
    response
}

fn content(pieces: usize) -> impl Iterator<Item = Bytes> {
    // Each piece is another, so that none can be taken for one that was there.
    (0..pieces as u64).map(|number| Bytes::from(number.to_le_bytes().repeat(PIECE / 8)))
}

async fn push_and_pull(address: SocketAddr, pieces: usize) {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    content(pieces).for_each(|piece| hasher.update(&piece));
    let digest = hasher.finish();
    let begun = send(address, "POST", "/v2/big/blobs/uploads/", Body::empty()).await;
    let at = begun.headers()["location"].to_str().unwrap().to_owned();
    let body = Body::from_stream(stream::iter(content(pieces).map(Ok::<_, std::io::Error>)));
    send(address, "PATCH", &at, body).await;
    send(address, "PUT", &format!("{at}?digest={digest}"), Body::empty()).await;

    let mut body = send(address, "GET", &format!("/v2/big/blobs/{digest}"), Body::empty()).await.into_body();
    let mut hasher = Hasher::new(Algorithm::Sha256);
    while let Some(frame) = body.frame().await {
        hasher.update(frame.unwrap().data_ref().unwrap());
    }
    assert_eq!(hasher.finish(), digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_flat_while_a_gigabyte_is_pushed_and_pulled() {
    let folder = tempfile::tempdir().unwrap();
    let library = Library::open(folder.path(), Limits::default()).unwrap();
    let tokens = Arc::new(minato_identity::Tokens::new(TOKEN, Arc::new(|| minato_model::time::Moment(0))));
    let access = Access { tokens, anonymous_push: false, hosts: Vec::new(), secure: false };
    let service = router(Arc::clone(&library), access).into_make_service_with_connect_info::<SocketAddr>();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, service).await });

    push_and_pull(address, 16).await;
    let before = peak_kib();
    push_and_pull(address, PIECES).await;
    let growth = peak_kib() - before;
    server.abort();
    assert!(growth < GROWTH_KIB_MAX, "the peak grew by {growth} KiB");
}
