//! HTTP/2 on both sides, and what lives in it: gRPC and WebSockets.
#![expect(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    client::SendRequest,
    server::{Connection, SendResponse},
};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use minato_model::{manifest::Protocol, routing::Routing as _};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};

use crate::support::{Bed, Client, Instance, bed, bed_with, endpoint, id, release, serve_raw, until, within};

/// A client's connection.
pub(crate) struct Link {
    send: SendRequest<Bytes>,
    task: JoinHandle<Result<(), h2::Error>>,
}

/// An answer as a client got it.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Reply {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Link {
    pub(crate) async fn to(address: SocketAddr) -> Self {
        Self::on(TcpStream::connect(address).await.unwrap()).await
    }

    pub(crate) async fn on(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        Self { send, task: tokio::spawn(connection) }
    }

    /// Begins a request; `true`: it has no body.
    async fn begin(
        &mut self,
        request: Request<()>,
        whole: bool,
    ) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
        std::future::poll_fn(|cx| self.send.poll_ready(cx)).await.unwrap();
        self.send.send_request(request, whole).unwrap()
    }

    pub(crate) async fn ask(
        &mut self,
        request: Request<()>,
        body: Option<Vec<u8>>,
    ) -> Result<Reply, h2::Error> {
        let (response, stream) = self.begin(request, body.is_none()).await;
        let sending = body.map(|body| tokio::spawn(send(stream, body)));
        let reply = within(read(response)).await;
        if let Some(sending) = sending {
            sending.abort();
        }
        reply
    }

    pub(crate) async fn get(&mut self, path: &str) -> Reply {
        self.ask(request(Method::GET, path), None).await.unwrap()
    }
}

pub(crate) fn request(method: Method, path: &str) -> Request<()> {
    let uri = format!("http://shop.localhost{path}");
    Request::builder().method(method).uri(uri).version(http::Version::HTTP_2).body(()).unwrap()
}

/// A call of gRPC.
pub(crate) fn call(method: &str) -> Request<()> {
    let mut request = request(Method::POST, &format!("/test.Echo/{method}"));
    request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    request.headers_mut().insert("te", "trailers".parse().unwrap());
    request
}

/// Sends as the other side takes it.
async fn send(mut stream: SendStream<Bytes>, body: Vec<u8>) {
    let mut body = Bytes::from(body);
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let Some(Ok(room)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else { return };
        let piece = body.split_to(room.min(body.len()));
        if stream.send_data(piece, false).is_err() {
            return;
        }
    }
    drop(stream.send_data(Bytes::new(), true));
}

async fn read(response: h2::client::ResponseFuture) -> Result<Reply, h2::Error> {
    let (parts, mut body) = response.await?.into_parts();
    let mut all = Vec::new();
    while let Some(data) = data(&mut body).await {
        all.extend_from_slice(&data?);
    }
    let trailers = body.trailers().await?;
    Ok(Reply { status: parts.status, headers: parts.headers, body: all, trailers })
}

/// The next part of a body.
pub(crate) async fn data(body: &mut RecvStream) -> Option<Result<Bytes, h2::Error>> {
    let data = loop {
        let data = within(body.data()).await?;
        if !data.as_ref().is_ok_and(Bytes::is_empty) {
            break data;
        }
    };
    if let Ok(data) = &data {
        // The stream may be over, and nobody wait for room in it.
        drop(body.flow_control().release_capacity(data.len()));
    }
    Some(data)
}

/// An instance that speaks HTTP/2 and answers by what the path asks for.
pub(crate) struct Played {
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

pub(crate) async fn play(bed: &Bed, name: &str) -> Played {
    let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (opened, asked) = (Arc::clone(&connections), Arc::clone(&requests));
    let (address, task) = serve_raw(move |stream| {
        opened.fetch_add(1, SeqCst);
        let asked = Arc::clone(&asked);
        async move {
            let mut builder = h2::server::Builder::new();
            builder.enable_connect_protocol();
            let mut connection: Connection<_, Bytes> = builder.handshake(stream).await.unwrap();
            let mut all = tokio::task::JoinSet::new();
            while let Some(Ok((request, respond))) = connection.accept().await {
                let nth = asked.fetch_add(1, SeqCst);
                match request.uri().path() {
                    "/die" => return,
                    "/leave" => connection.graceful_shutdown(),
                    _ => {}
                }
                all.spawn(answer(request, respond, nth));
            }
        }
    })
    .await;
    bed.handle.admit(endpoint(name, release(1), address));
    Played { connections, requests, task }
}

fn grpc_head() -> Response<()> {
    Response::builder().header("content-type", "application/grpc").body(()).unwrap()
}

fn outcome(status: &'static str) -> HeaderMap {
    HeaderMap::from_iter([("grpc-status".parse().unwrap(), status.parse().unwrap())])
}

pub(crate) async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, nth: usize) {
    let path = request.uri().path().to_owned();
    if request.method() == Method::CONNECT {
        let protocol = request.extensions().get::<h2::ext::Protocol>().unwrap();
        assert_eq!(protocol.as_str(), "websocket");
        return echo(request.into_body(), respond.send_response(Response::new(()), false).unwrap(), None)
            .await;
    }
    match path.as_str() {
        "/test.Echo/Bidi" => {
            let stream = respond.send_response(grpc_head(), false).unwrap();
            echo(request.into_body(), stream, Some(outcome("0"))).await;
        }
        "/test.Echo/Unavailable" => {
            let mut head = grpc_head();
            head.headers_mut().extend(outcome("14"));
            respond.send_response(head, true).unwrap();
        }
        "/refuse" if nth == 0 => respond.send_reset(Reason::REFUSED_STREAM),
        "/hold" => {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from_static(b"begun"), false).unwrap();
            std::future::pending::<()>().await;
        }
        "/fields" => {
            let text = format!("{} {:?}", request.uri(), request.headers());
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(text.into(), true).unwrap();
        }
        "/early" => {
            let head = Response::builder().status(403).body(()).unwrap();
            respond.send_response(head, true).unwrap();
        }
        path => {
            let grpc = path.starts_with("/test.Echo/");
            let (mut body, mut length) = (request.into_body(), 0);
            while let Some(Ok(data)) = data(&mut body).await {
                length += data.len();
            }
            let head = if grpc { grpc_head() } else { Response::new(()) };
            let mut stream = respond.send_response(head, false).unwrap();
            stream.send_data(length.to_string().into(), false).unwrap();
            stream.send_trailers(outcome("0")).unwrap();
        }
    }
}

/// Sends back what comes, and at its end the trailers.
async fn echo(mut body: RecvStream, mut stream: SendStream<Bytes>, trailers: Option<HeaderMap>) {
    while let Some(Ok(data)) = data(&mut body).await {
        stream.send_data(data, false).unwrap();
    }
    match trailers {
        Some(trailers) => stream.send_trailers(trailers).unwrap(),
        None => stream.send_data(Bytes::new(), true).unwrap(),
    }
}

async fn bed_of(protocol: Protocol) -> Bed {
    let bed = bed();
    bed.publish_web(|route| route.protocol = protocol).await;
    bed
}

#[tokio::test]
async fn requests_share_a_connection_and_reach_an_instance_of_http1() {
    let bed = bed_of(Protocol::Http).await;
    let instance = Instance::start("one").await;
    bed.handle.admit(instance.endpoint.clone());
    let mut link = Link::to(bed.address).await;
    let reply = link.get("/").await;
    assert_eq!((reply.status, reply.text()), (StatusCode::OK, "one"));
    assert!(!reply.headers.contains_key("connection"));
    // One that waits holds up none.
    let (slow, _) = link.begin(request(Method::GET, "/slow/300"), true).await;
    for _ in 0..20 {
        assert_eq!(link.get("/").await.text(), "one");
    }
    assert_eq!(within(read(slow)).await.unwrap().status, 200);
    assert_eq!(link.get("/chunked").await.text(), "abcdefg");
    assert_eq!(link.get("/stream/3000000").await.body.len(), 3_000_000);
    let head = link.ask(request(Method::HEAD, "/head"), None).await.unwrap();
    assert_eq!((head.headers["content-length"].to_str().unwrap(), head.body.len()), ("12345", 0));
    let mut echo = request(Method::GET, "/echo");
    echo.headers_mut().append("cookie", "a=1".parse().unwrap());
    echo.headers_mut().append("cookie", "b=2".parse().unwrap());
    let echo = link.ask(echo, None).await.unwrap();
    assert!(echo.text().contains("\r\ncookie: a=1; b=2\r\n"), "{}", echo.text());
    assert!(echo.text().starts_with("GET /echo HTTP/1.1\r\nhost: shop.localhost\r\n"), "{}", echo.text());
    assert_eq!(
        bed.edge.metrics().lines().find(|l| l.starts_with("minato_edge_connections ")),
        Some("minato_edge_connections 1")
    );
}

#[tokio::test]
async fn large_bodies_pass_as_fast_as_they_are_taken() {
    for protocol in [Protocol::Http, Protocol::H2c] {
        let bed = bed_of(protocol).await;
        let http1 = Instance::start("one").await;
        let _http2 = match protocol {
            Protocol::Http => {
                bed.handle.admit(http1.endpoint.clone());
                None
            }
            Protocol::H2c | Protocol::Grpc | Protocol::Tcp | Protocol::Https => Some(play(&bed, "one").await),
        };
        let mut link = Link::to(bed.address).await;
        let body = vec![7; 5_000_000];
        let reply = link.ask(request(Method::POST, "/body"), Some(body.clone())).await.unwrap();
        assert_eq!(reply.text(), "5000000");
        let mut lengthy = request(Method::POST, "/body");
        lengthy.headers_mut().insert("content-length", "5000000".parse().unwrap());
        assert_eq!(link.ask(lengthy, Some(body)).await.unwrap().text(), "5000000");
    }
}

#[tokio::test]
async fn an_instance_that_reads_nothing_holds_its_client_up() {
    let bed = bed_of(Protocol::Http).await;
    let (address, _task) = serve_raw(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    bed.handle.admit(endpoint("one", release(1), address));
    let mut link = Link::to(bed.address).await;
    let (_response, mut stream) = link.begin(request(Method::POST, "/"), false).await;
    let mut sent = 0;
    let stuck = async {
        loop {
            stream.reserve_capacity(64 * 1024);
            let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
            stream.send_data(vec![0; room].into(), false).unwrap();
            sent += room;
        }
    };
    tokio::time::timeout(Duration::from_millis(500), stuck).await.unwrap_err();
    assert!(sent < 64 << 20, "{sent}");
}

#[tokio::test]
async fn who_is_meant_is_said_once() {
    let bed = bed_of(Protocol::Http).await;
    let instance = Instance::start("one").await;
    bed.handle.admit(instance.endpoint.clone());
    let mut link = Link::to(bed.address).await;
    for (host, status) in [("shop.localhost", 200), ("other.localhost", 400)] {
        let mut request = request(Method::GET, "/");
        request.headers_mut().insert("host", host.parse().unwrap());
        assert_eq!(link.ask(request, None).await.unwrap().status, status);
    }
    let refused = link.get(&format!("/{}", "x".repeat(17_000))).await;
    assert_eq!(
        (refused.status, &refused.headers["minato-code"]),
        (StatusCode::URI_TOO_LONG, &"uri_too_long".parse().unwrap())
    );
    let mut connect = request(Method::CONNECT, "/");
    *connect.uri_mut() = "shop.localhost:80".parse().unwrap();
    assert_eq!(link.ask(connect, None).await.unwrap().status, 400);
    assert_eq!(link.get("/").await.text(), "one");
}

#[tokio::test]
async fn a_preface_may_come_in_pieces() {
    let bed = bed_of(Protocol::Http).await;
    let instance = Instance::start("one").await;
    bed.handle.admit(instance.endpoint.clone());
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    let mut wire = TcpStream::connect(bed.address).await.unwrap();
    let address = bed.address;
    let pump = tokio::spawn(async move {
        let mut byte = [0];
        // The first bytes one by one, the rest as it comes.
        for _ in 0..30 {
            tokio::io::AsyncReadExt::read_exact(&mut near, &mut byte).await.unwrap();
            wire.write_all(&byte).await.unwrap();
            tokio::task::yield_now().await;
        }
        drop(tokio::io::copy_bidirectional(&mut near, &mut wire).await);
    });
    let (send, connection) = h2::client::handshake(far).await.unwrap();
    let mut link = Link { send, task: tokio::spawn(connection) };
    assert_eq!(link.get("/").await.text(), "one");
    pump.abort();
    // What only begins like it is HTTP/1, and refused.
    let mut client = Client::connect(address).await;
    client.send("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n").await;
    assert_eq!(client.reply("GET").await.status, 400);
}

#[tokio::test]
async fn half_a_preface_is_waited_for_as_a_head_is() {
    let bed = bed_with(None, |config| config.limits.head = Duration::from_millis(100));
    let mut client = bed.client().await;
    client.send("PRI * HTTP/2.0\r\n").await;
    assert_eq!(client.reply("GET").await.status, 408);
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn an_instance_is_spoken_to_in_http2_over_one_connection() {
    let bed = bed_of(Protocol::H2c).await;
    let played = play(&bed, "one").await;
    let mut link = Link::to(bed.address).await;
    let reply = link.get("/").await;
    assert_eq!((reply.text(), &reply.trailers), ("0", &Some(outcome("0"))));
    let (held, _) = link.begin(request(Method::GET, "/hold"), true).await;
    let (_, mut held) = within(held).await.unwrap().into_parts();
    assert_eq!(&data(&mut held).await.unwrap().unwrap()[..], b"begun");
    for _ in 0..10 {
        assert_eq!(link.get("/").await.text(), "0");
    }
    assert_eq!(played.connections.load(SeqCst), 1);
    let mut asked = request(Method::GET, "/fields?q=1");
    asked.headers_mut().insert("te", "trailers".parse().unwrap());
    let fields = link.ask(asked, None).await.unwrap();
    assert!(fields.text().starts_with("http://shop.localhost/fields?q=1 "), "{}", fields.text());
    for field in
        ["\"te\": \"trailers\"", "\"x-forwarded-for\": \"127.0.0.1\"", "\"x-forwarded-proto\": \"http\""]
    {
        assert!(fields.text().contains(field), "{}", fields.text());
    }
    // A client of HTTP/1 likewise; an early answer ends a body that goes on.
    let mut client = bed.client().await;
    assert_eq!(client.get("/").await.text(), "0");
    assert_eq!(
        link.ask(request(Method::POST, "/early"), Some(vec![0; 2_000_000])).await.unwrap().status,
        403
    );
    drop(held);
    bed.in_flight(&release(1), 0).await;
}

#[tokio::test]
async fn what_an_instance_has_not_looked_at_is_asked_again() {
    let bed = bed_of(Protocol::H2c).await;
    let played = play(&bed, "one").await;
    let mut link = Link::to(bed.address).await;
    // Not idempotent, but refused unseen.
    let reply = link.ask(request(Method::POST, "/refuse"), None).await.unwrap();
    assert_eq!((reply.status, played.requests.load(SeqCst)), (StatusCode::OK, 2));
    // It says that it leaves, and what comes goes over another connection.
    assert_eq!(link.get("/leave").await.text(), "0");
    let before = played.connections.load(SeqCst);
    for _ in 0..3 {
        assert_eq!(link.ask(request(Method::POST, "/"), None).await.unwrap().status, 200);
    }
    assert_eq!(played.connections.load(SeqCst), before + 1);
    assert_eq!(played.requests.load(SeqCst), 6);
}

#[tokio::test]
async fn an_instance_that_is_killed_breaks_what_it_had_begun() {
    let bed = bed_of(Protocol::H2c).await;
    let played = play(&bed, "one").await;
    let mut link = Link::to(bed.address).await;
    let (held, _) = link.begin(request(Method::GET, "/hold"), true).await;
    let (_, mut held) = within(held).await.unwrap().into_parts();
    assert_eq!(&data(&mut held).await.unwrap().unwrap()[..], b"begun");
    played.task.abort();
    assert_eq!(data(&mut held).await.unwrap().unwrap_err().reason(), Some(Reason::INTERNAL_ERROR));
    bed.handle.withdraw(&id("one")).await;
    let _next = play(&bed, "two").await;
    assert_eq!(link.get("/").await.text(), "0", "the client's connection lives on");
}

#[tokio::test]
async fn calls_are_passed_with_their_outcome() {
    let bed = bed_of(Protocol::Grpc).await;
    let _played = play(&bed, "one").await;
    let mut link = Link::to(bed.address).await;
    let reply = link.ask(call("Unary"), Some(vec![0; 12])).await.unwrap();
    assert_eq!((reply.text(), &reply.trailers), ("12", &Some(outcome("0"))));
    let (response, mut stream) = link.begin(call("Bidi"), false).await;
    let (head, mut body) = within(response).await.unwrap().into_parts();
    assert_eq!(head.headers["content-type"], "application/grpc");
    for message in ["one", "two", "three"] {
        stream.send_data(message.into(), false).unwrap();
        assert_eq!(data(&mut body).await.unwrap().unwrap(), message);
    }
    until(|| bed.handle.traffic(&id("one")).streams == 1).await;
    stream.send_data(Bytes::new(), true).unwrap();
    assert!(data(&mut body).await.is_none());
    assert_eq!(within(body.trailers()).await.unwrap(), Some(outcome("0")));
    bed.in_flight(&release(1), 0).await;
    // It counts as a failure, though it was answered with 200.
    let reply = link.ask(call("Unavailable"), Some(vec![0; 5])).await.unwrap();
    assert_eq!((reply.status, reply.headers["grpc-status"].to_str().unwrap()), (StatusCode::OK, "14"));
    assert_eq!(bed.handle.traffic(&id("one")).errors, 1);
    // A client of HTTP/1 gets the outcome if it takes trailers.
    let mut client = bed.client().await;
    let fields = "content-type: application/grpc\r\ncontent-length: 5\r\n";
    client.send("POST /test.Echo/Unary HTTP/1.1\r\nHost: shop.localhost\r\nTE: trailers\r\nConnection: te\r\ntransfer-encoding: chunked\r\ncontent-type: application/grpc\r\n\r\n1\r\nx\r\n0\r\n\r\n").await;
    let wire = within(async {
        let mut wire = String::new();
        while !wire.ends_with("\r\n\r\n") || !wire.contains("0\r\n") {
            wire.push(char::from(client.bytes(1).await[0]));
        }
        wire
    });
    let wire = wire.await;
    assert!(
        wire.contains("\r\ntrailer: grpc-status") && wire.ends_with("1\r\n1\r\n0\r\ngrpc-status: 0\r\n\r\n"),
        "{wire}"
    );
    let mut client = bed.client().await;
    client.send(format!("POST /test.Echo/Unary HTTP/1.1\r\nHost: shop.localhost\r\n{fields}\r\n")).await;
    assert_eq!(client.reply("POST").await.code(), Some("bad_request"));
}

#[tokio::test]
async fn what_the_edge_says_to_a_call_is_an_outcome_too() {
    let bed = bed_of(Protocol::Grpc).await;
    let mut link = Link::to(bed.address).await;
    let mut late = call("Unary");
    late.headers_mut().insert("grpc-timeout", "50m".parse().unwrap());
    let reply = link.ask(late, Some(vec![0; 5])).await.unwrap();
    let field = |reply: &Reply, name: &str| reply.headers[name].to_str().unwrap().to_owned();
    assert_eq!((reply.status, reply.body.len()), (StatusCode::OK, 0));
    assert_eq!(field(&reply, "grpc-status"), "4");
    assert_eq!(
        (field(&reply, "minato-code"), field(&reply, "minato-origin")),
        ("timeout".into(), "cluster".into())
    );
    assert!(field(&reply, "grpc-message").contains("50ms"), "{reply:?}");
    assert_eq!(field(&reply, "content-type"), "application/grpc");
    let mut nobodys = call("Unary");
    *nobodys.uri_mut() = "http://other.localhost/test.Echo/Unary".parse().unwrap();
    let reply = link.ask(nobodys, Some(vec![0; 5])).await.unwrap();
    assert_eq!((reply.status, field(&reply, "grpc-status")), (StatusCode::OK, "12".to_owned()));
}

#[tokio::test]
async fn a_call_that_lasts_is_ended_with_an_outcome() {
    let bed = bed_of(Protocol::Grpc).await;
    let _played = play(&bed, "one").await;
    let mut link = Link::to(bed.address).await;
    let (response, mut stream) = link.begin(call("Bidi"), false).await;
    let (_, mut body) = within(response).await.unwrap().into_parts();
    stream.send_data("x".into(), false).unwrap();
    assert_eq!(data(&mut body).await.unwrap().unwrap(), "x");
    until(|| bed.handle.traffic(&id("one")).streams == 1).await;
    bed.handle.withdraw(&id("one")).await;
    within(bed.handle.quiet(&id("one"))).await;
    within(bed.handle.end_streams(&id("one"))).await;
    assert!(data(&mut body).await.is_none());
    let trailers = within(body.trailers()).await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "14");
    within(bed.handle.streams_over(&id("one"))).await;
}

/// Asks for a WebSocket in a stream.
async fn websocket(link: &mut Link) -> (Response<RecvStream>, SendStream<Bytes>) {
    // The server's settings say whether it may be asked for.
    until(|| link.send.is_extended_connect_protocol_enabled()).await;
    let mut connect = request(Method::CONNECT, "/chat");
    connect.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    connect.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
    let (response, stream) = link.begin(connect, false).await;
    (within(response).await.unwrap(), stream)
}

/// An instance of HTTP/1.1 that takes a WebSocket and sends back what comes; `accept`: as it should.
async fn echoing(bed: &Bed, accept: bool) -> JoinHandle<()> {
    let (address, task) = serve_raw(move |mut stream| async move {
        let mut rest = Vec::new();
        let asked = crate::support::read_request(&mut stream, &mut rest).await.unwrap();
        let field = |name| crate::support::field(&asked.head, name);
        assert!(asked.head.starts_with("GET /chat HTTP/1.1\r\n"), "{}", asked.head);
        assert_eq!((field("upgrade"), field("connection")), (Some("websocket"), Some("upgrade")));
        assert_eq!(field("sec-websocket-version"), Some("13"));
        let key = if accept { field("sec-websocket-key").unwrap() } else { "AAAAAAAAAAAAAAAAAAAAAA==" };
        let accept = accept_of(key);
        let head = format!("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {accept}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let (mut read, mut write) = stream.split();
        drop(tokio::io::copy(&mut read, &mut write).await);
    })
    .await;
    bed.handle.admit(endpoint("one", release(1), address));
    task
}

/// What answers a key (RFC 6455, 4.2.2).
fn accept_of(key: &str) -> String {
    use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

pub(crate) async fn chat(link: &mut Link) -> (SendStream<Bytes>, RecvStream) {
    let (response, mut stream) = websocket(link).await;
    assert_eq!(response.status(), 200, "{response:?}");
    assert!(!response.headers().contains_key("sec-websocket-accept"));
    let mut body = response.into_body();
    for frame in [&[0x82, 0x81, 0, 0, 0, 0, b'x'][..], &[0x82, 0x80, 0, 0, 0, 0][..]] {
        stream.send_data(Bytes::from_static(frame), false).unwrap();
        assert_eq!(data(&mut body).await.unwrap().unwrap(), frame);
    }
    (stream, body)
}

#[tokio::test]
async fn a_websocket_in_a_stream_reaches_instances_of_both_protocols() {
    for protocol in [Protocol::Http, Protocol::H2c] {
        let bed = bed_of(protocol).await;
        let (_one, _other) = match protocol {
            Protocol::Http => (Some(echoing(&bed, true).await), None),
            Protocol::H2c | Protocol::Grpc | Protocol::Tcp | Protocol::Https => {
                (None, Some(play(&bed, "one").await))
            }
        };
        let mut link = Link::to(bed.address).await;
        let (mut stream, mut body) = chat(&mut link).await;
        until(|| bed.handle.traffic(&id("one")).streams == 1).await;
        // The client says that it is through, and the instance agrees.
        stream.send_data(Bytes::new(), true).unwrap();
        assert!(data(&mut body).await.is_none());
        until(|| bed.handle.traffic(&id("one")).in_flight == 0).await;
        // Taken away, the instance's WebSockets are closed in their own words.
        let (_stream, mut body) = chat(&mut link).await;
        until(|| bed.handle.traffic(&id("one")).streams == 1).await;
        bed.handle.withdraw(&id("one")).await;
        let over = bed.handle.end_streams(&id("one"));
        assert_eq!(&data(&mut body).await.unwrap().unwrap()[..], [0x88, 2, 0x03, 0xe9]);
        drop(body);
        within(over).await;
    }
}

#[tokio::test]
async fn a_websocket_of_http1_reaches_an_instance_of_http2() {
    let bed = bed_of(Protocol::H2c).await;
    let _played = play(&bed, "one").await;
    let mut client = bed.client().await;
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    let fields = format!(
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
    );
    let reply = client.ask("GET", "/chat", &fields).await;
    assert_eq!(reply.status, 101);
    assert_eq!(reply.field("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    client.send([0x82, 0x81, 0, 0, 0, 0, b'x']).await;
    assert_eq!(client.bytes(7).await, [0x82, 0x81, 0, 0, 0, 0, b'x']);
}

#[tokio::test]
async fn what_is_no_websocket_is_not_taken_for_one() {
    let bed = bed_of(Protocol::Http).await;
    let _task = echoing(&bed, false).await;
    let mut link = Link::to(bed.address).await;
    let (response, _) = websocket(&mut link).await;
    assert_eq!(
        (response.status(), &response.headers()["minato-code"]),
        (StatusCode::BAD_GATEWAY, &"upstream".parse().unwrap())
    );
    // An answer of 200 to an upgrade is none.
    bed.handle.withdraw(&id("one")).await;
    let instance = Instance::start("two").await;
    bed.handle.admit(instance.endpoint.clone());
    let (response, _) = websocket(&mut link).await;
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_edge_says_goodbye_and_answers_what_it_has() {
    let bed = bed_of(Protocol::Http).await;
    let instance = Instance::start("one").await;
    bed.handle.admit(instance.endpoint.clone());
    let mut link = Link::to(bed.address).await;
    let mut idle = Link::to(bed.address).await;
    assert_eq!(idle.get("/").await.text(), "one");
    let (slow, _) = link.begin(request(Method::GET, "/slow/300"), true).await;
    bed.in_flight(&release(1), 1).await;
    let draining = tokio::spawn(bed.edge.drain(Duration::from_secs(10)));
    within(idle.task).await.unwrap().unwrap();
    assert_eq!(within(read(slow)).await.unwrap().status, 200);
    within(link.task).await.unwrap().unwrap();
    within(draining).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retired_edge_sends_its_clients_to_the_successor() {
    let bed = bed_of(Protocol::Http).await;
    let instance = Instance::start("one").await;
    bed.handle.admit(instance.endpoint.clone());
    let mut link = Link::to(bed.address).await;
    let (slow, _) = link.begin(request(Method::GET, "/slow/300"), true).await;
    bed.in_flight(&release(1), 1).await;
    let retiring = tokio::spawn(bed.edge.retire(Duration::from_secs(10), std::future::pending()));
    assert_eq!(within(read(slow)).await.unwrap().status, 200);
    within(link.task).await.unwrap().unwrap();
    within(retiring).await.unwrap();
}

#[tokio::test]
async fn no_tunnel_of_http2_is_made_within_http1() {
    let bed = bed_of(Protocol::Http).await;
    let instance = Instance::start("one").await;
    bed.handle.admit(instance.endpoint.clone());
    let mut client = bed.client().await;
    let fields =
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: H2C\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n";
    let reply = client.ask("GET", "/echo", fields).await;
    assert_eq!(reply.status, 200);
    assert!(
        !reply.text().contains("upgrade") && !reply.text().contains("http2-settings"),
        "{}",
        reply.text()
    );
}

#[tokio::test]
async fn a_held_request_is_answered_when_an_instance_comes_and_forgotten_when_it_is_taken_back() {
    let bed = bed_of(Protocol::H2c).await;
    let mut link = Link::to(bed.address).await;
    let (held, _) = link.begin(request(Method::GET, "/"), true).await;
    let (_gone, mut back) = link.begin(request(Method::POST, "/"), false).await;
    bed.waiting(&release(1), 2).await;
    back.send_reset(Reason::CANCEL);
    bed.waiting(&release(1), 1).await;
    let _played = play(&bed, "one").await;
    assert_eq!(within(read(held)).await.unwrap().text(), "0");
    bed.in_flight(&release(1), 0).await;
}

#[tokio::test]
async fn a_client_that_calls_and_waits_has_its_own_time() {
    let bed = bed();
    bed.publish_web(|route| {
        route.protocol = Protocol::Grpc;
        route.timeout = Duration::from_secs(1);
    })
    .await;
    let _played = play(&bed, "one").await;
    let mut link = Link::to(bed.address).await;
    // The instance answers when it has the whole, which its client takes longer for than an answer may.
    let (response, mut stream) = link.begin(call("Unary"), false).await;
    bed.in_flight(&release(1), 1).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    stream.send_data("late".into(), true).unwrap();
    assert_eq!(within(read(response)).await.unwrap().text(), "4");
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_one_that_only_takes_back_is_cut() {
    let bed = bed_with(None, |config| config.limits.idle = Duration::from_millis(200));
    bed.publish_web(|_| {}).await;
    let idle = Link::to(bed.address).await;
    within(idle.task).await.unwrap().unwrap();
    // No instance is there: each waits until it is taken back.
    let mut link = Link::to(bed.address).await;
    within(async {
        while std::future::poll_fn(|cx| link.send.poll_ready(cx)).await.is_ok() {
            let Ok((_response, mut stream)) = link.send.send_request(request(Method::GET, "/"), true) else {
                break;
            };
            tokio::task::yield_now().await;
            stream.send_reset(Reason::CANCEL);
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn who_takes_one_answer_and_not_the_other_keeps_no_instance_busy() {
    let bed = bed_with(None, |config| config.limits.stream_idle = Duration::from_millis(300));
    bed.publish_web(|_| {}).await;
    let instance = Instance::start("one").await;
    bed.handle.admit(instance.endpoint.clone());
    let mut link = Link::to(bed.address).await;
    let (stuck, _) = link.begin(request(Method::GET, "/stream/30000000"), true).await;
    let (_, stuck) = within(stuck).await.unwrap().into_parts();
    bed.in_flight(&release(1), 1).await;
    let asking = tokio::spawn(async move {
        // The connection is in use meanwhile.
        while link.ask(request(Method::GET, "/slow/20"), None).await.is_ok_and(|reply| reply.status == 200) {}
    });
    until(|| instance.requests.load(SeqCst) > 1 && bed.handle.traffic(&id("one")).in_flight <= 1).await;
    until(|| bed.handle.traffic(&id("one")).in_flight == 0).await;
    asking.abort();
    drop(stuck);
}

#[tokio::test]
async fn bodies_and_trailers_of_http1_are_as_they_were() {
    let bed = bed_of(Protocol::Http).await;
    let (address, _task) = serve_raw(|mut stream| async move {
        let mut rest = Vec::new();
        while let Some(asked) = crate::support::read_request(&mut stream, &mut rest).await {
            let te = crate::support::field(&asked.head, "te").unwrap_or("none");
            let answer = format!("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\nx-te: {te}\r\n\r\n1\r\na\r\n0\r\nx-sum: 7\r\ncontent-length: 9\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    bed.handle.admit(endpoint("one", release(1), address));
    let mut link = Link::to(bed.address).await;
    let mut asked = request(Method::POST, "/");
    asked.headers_mut().insert("te", "trailers".parse().unwrap());
    // Nobody says 100 here; what is sent at once arrives.
    asked.headers_mut().insert("expect", "100-continue".parse().unwrap());
    let reply = link.ask(asked, Some(vec![1; 100_000])).await.unwrap();
    assert_eq!(
        (reply.status, reply.text(), &reply.headers["x-te"]),
        (StatusCode::OK, "a", &"trailers".parse().unwrap())
    );
    let sum = HeaderMap::from_iter([("x-sum".parse().unwrap(), "7".parse().unwrap())]);
    assert_eq!(reply.trailers, Some(sum));
    let mut client = bed.client().await;
    client.send("GET / HTTP/1.1\r\nHost: shop.localhost\r\nTE: trailers\r\nConnection: te\r\n\r\n").await;
    let mut wire = String::new();
    while !wire.ends_with("0\r\nx-sum: 7\r\n\r\n") {
        wire.push(char::from(client.bytes(1).await[0]));
    }
    assert!(wire.starts_with("HTTP/1.1 200 OK\r\n") && wire.contains("\r\ntrailer: x-sum\r\n"), "{wire}");
}

#[tokio::test]
async fn a_connection_that_the_instance_closed_unused_costs_no_request() {
    let bed = bed_of(Protocol::H2c).await;
    let (close, closed) = (Arc::new(tokio::sync::Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (told, done) = (Arc::clone(&close), Arc::clone(&closed));
    let (address, _task) = serve_raw(move |stream| {
        let (told, done) = (Arc::clone(&told), Arc::clone(&done));
        async move {
            // One request a connection, and then it is closed without a word.
            let mut connection: Connection<_, Bytes> = h2::server::handshake(stream).await.unwrap();
            let (request, respond) = connection.accept().await.unwrap().unwrap();
            let answered = tokio::spawn(answer(request, respond, 1));
            tokio::select! {
                () = told.notified() => {}
                _ = connection.accept() => {}
            }
            drop((answered, connection));
            done.fetch_add(1, SeqCst);
        }
    })
    .await;
    bed.handle.admit(endpoint("one", release(1), address));
    let mut link = Link::to(bed.address).await;
    for count in 1..=5 {
        // Not idempotent, and its body begun: it could not be asked again.
        assert_eq!(link.ask(request(Method::POST, "/"), Some(vec![1])).await.unwrap().status, 200);
        close.notify_one();
        until(|| closed.load(SeqCst) == count).await;
    }
}
