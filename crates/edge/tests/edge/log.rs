//! The access log, as it is in its file.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use minato_edge::log::{AccessLog, Format};
use minato_model::{routing::Routing as _, time::Moment};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{
    Bed, Client, Instance, bed_with, endpoint, entry, field, read_request, release, serve_raw, until, within,
};

/// An edge with a log.
struct Logged {
    bed: Bed,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Logged {
    fn start(sample: f64, format: Format) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let log = AccessLog {
            format,
            path: path.clone(),
            sample,
            max_bytes: 1 << 20,
            clock: || Moment(1_795_506_012_000),
        };
        Self { bed: bed_with(None, |config| config.access_log = Some(log)), path, _folder: folder }
    }

    /// One instance of `shop/web`.
    async fn web(&self) -> Instance {
        self.bed.publish_web(|_| {}).await;
        let instance = Instance::start("one").await;
        self.bed.handle.admit(instance.endpoint.clone());
        instance
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.path).unwrap_or_default()
    }

    /// Waits for so many lines; there are no more.
    async fn lines(&self, count: usize) -> Vec<Value> {
        until(|| self.text().lines().count() >= count).await;
        let lines: Vec<Value> = self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), count, "{lines:?}");
        lines
    }

    /// The same by their paths: each connection may be another thread's.
    async fn by_path<const N: usize>(&self, paths: [&str; N]) -> [Value; N] {
        let lines = self.lines(N).await;
        paths.map(|path| lines.iter().find(|line| line["path"] == path).expect(path).clone())
    }
}

#[tokio::test]
async fn a_request_is_one_line_with_all_that_is_known_of_it() {
    let logged = Logged::start(1.0, Format::Json);
    let _instance = logged.web().await;
    let mut client = logged.bed.client().await;
    let fields = "X-Request-Id: r-1\r\nAuthorization: Bearer secret\r\nCookie: secret\r\n";
    assert_eq!(client.ask("GET", "/hello?token=secret", fields).await.text(), "one");
    assert_eq!(client.ask("HEAD", "/head", "").await.status, 200);
    assert_eq!(client.get("/chunked").await.text(), "abcdefg");
    let lines = logged.lines(3).await;
    let line = &lines[0];
    for (key, value) in [
        ("client", "127.0.0.1"),
        ("method", "GET"),
        ("host", "shop.localhost"),
        ("path", "/hello"),
        ("protocol", "HTTP/1.1"),
        ("app", "shop"),
        ("service", "web"),
        ("instance", "one"),
        ("request_id", "r-1"),
    ] {
        assert_eq!(line[key], value, "{key}");
    }
    for (key, value) in [("status", 200), ("bytes", 3), ("release", 1), ("attempts", 1)] {
        assert_eq!(line[key], value, "{key}");
    }
    assert!(line["time"].as_str().unwrap().starts_with("2026-11-24T07:"), "{line}");
    let (whole, first) = (line["duration_ms"].as_f64().unwrap(), line["upstream_ms"].as_f64().unwrap());
    assert!(0.0 <= first && first <= whole && whole > 0.0, "{line}");
    assert!(line.get("flag").is_none() && line.get("cold_ms").is_none(), "{line}");
    assert_eq!((&lines[1]["bytes"], lines[1].get("flag")), (&0.into(), None), "{}", lines[1]);
    assert_eq!((&lines[2]["bytes"], lines[2].get("flag")), (&7.into(), None), "{}", lines[2]);
    assert!(!logged.text().contains("secret"));
}

#[tokio::test]
async fn answers_of_the_edge_say_why() {
    let logged = Logged::start(1.0, Format::Json);
    let instance = logged.web().await;
    let mut client = logged.bed.client().await;
    client.send("GET /x HTTP/1.1\r\nHost: nobody.localhost\r\n\r\n").await;
    assert_eq!(client.reply("GET").await.status, 404);
    assert_eq!(logged.bed.get("/garbage").await.status, 502);
    assert!(!logged.bed.get("/half").await.whole);
    let lines = logged.by_path(["/x", "/garbage", "/half"]).await;
    assert_eq!((&lines[0]["flag"], &lines[0]["status"]), (&"no_route".into(), &404.into()));
    assert!(lines[0].get("app").is_none() && lines[0].get("attempts").is_none());
    assert_eq!((&lines[1]["flag"], &lines[1]["instance"]), (&"upstream".into(), &"one".into()));
    assert_eq!((&lines[2]["flag"], &lines[2]["bytes"]), (&"upstream_broke".into(), &4.into()));
    drop(instance);
}

#[tokio::test]
async fn a_client_that_leaves_is_told_apart() {
    let logged = Logged::start(1.0, Format::Json);
    let _instance = logged.web().await;
    let size = 64 << 20;
    let mut client = logged.bed.client().await;
    client.send(format!("GET /stream/{size} HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")).await;
    client.bytes(1_000).await;
    drop(client);
    let lines = logged.lines(1).await;
    assert_eq!((&lines[0]["flag"], &lines[0]["status"]), (&"client_gone".into(), &200.into()));
    assert!(lines[0]["bytes"].as_u64().unwrap() < size);

    let mut client = logged.bed.client().await;
    client.send("GET /slow/20000 HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    logged.bed.in_flight(&release(1), 1).await;
    drop(client);
    let lines = logged.lines(2).await;
    assert_eq!((&lines[1]["flag"], &lines[1]["status"]), (&"client_gone".into(), &499.into()));
    assert_eq!((&lines[1]["service"], &lines[1]["release"]), (&"web".into(), &1.into()));

    logged.bed.publish(vec![entry("shop/web", |_| {}, &[(2, 1)])]).await;
    let mut client = logged.bed.client().await;
    client.send("GET /held HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    logged.bed.waiting(&release(2), 1).await;
    drop(client);
    let lines = logged.lines(3).await;
    assert_eq!((&lines[2]["flag"], &lines[2]["release"]), (&"client_gone".into(), &2.into()));
    let counted = r#"minato_requests_total{app="shop",service="web",release="2",code="499"} 1"#;
    assert!(logged.bed.handle.metrics().contains(counted));
}

#[tokio::test]
async fn who_waited_for_a_start_and_who_was_tried_twice_say_so() {
    let logged = Logged::start(1.0, Format::Json);
    logged.bed.publish_web(|_| {}).await;
    let mut client = logged.bed.client().await;
    client.send("GET /cold HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    logged.bed.waiting(&release(1), 1).await;
    // The first connection breaks, the next answers.
    let connections = Arc::new(AtomicUsize::new(0));
    let (address, _task) = serve_raw(move |mut stream| {
        let first = connections.fetch_add(1, SeqCst) == 0;
        async move {
            drop(read_request(&mut stream, &mut Vec::new()).await);
            if !first {
                stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            }
        }
    })
    .await;
    logged.bed.handle.admit(endpoint("one", release(1), address));
    assert_eq!(client.reply("GET").await.status, 204);
    let line = &logged.lines(1).await[0];
    assert!(line["cold_ms"].as_f64().unwrap() > 0.0, "{line}");
    assert_eq!(line["attempts"], 2);
}

#[tokio::test]
async fn what_is_no_request_is_logged_too() {
    let logged = Logged::start(0.0, Format::Json);
    let mut client = logged.bed.client().await;
    client.send("no request\r\n\r\n").await;
    assert_eq!(client.reply("GET").await.status, 400);
    let line = &logged.lines(1).await[0];
    assert_eq!((&line["flag"], &line["status"]), (&"bad_request".into(), &400.into()));
    assert!(line.get("path").is_none() && line.get("method").is_none(), "{line}");
    let counted = r#"minato_requests_total{app="",service="",release="",code="400"} 1"#;
    assert!(logged.bed.handle.metrics().contains(counted));
}

#[tokio::test]
async fn a_websocket_is_logged_when_it_ends() {
    let logged = Logged::start(1.0, Format::Json);
    logged.bed.publish_web(|_| {}).await;
    let (address, _task) = serve_raw(|mut stream| async move {
        read_request(&mut stream, &mut Vec::new()).await.unwrap();
        let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: x\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).await.unwrap();
        stream.write_all(b"answered").await.unwrap();
    })
    .await;
    logged.bed.handle.admit(endpoint("ws", release(1), address));
    let mut client = logged.bed.client().await;
    assert_eq!(client.ask("GET", "/ws", "Connection: Upgrade\r\nUpgrade: x\r\n").await.status, 101);
    client.send("asks").await;
    assert_eq!(client.bytes(8).await, b"answered");
    assert!(client.is_closed().await);
    drop(client);
    let lines = logged.lines(1).await;
    assert_eq!((&lines[0]["status"], &lines[0]["instance"]), (&101.into(), &"ws".into()));
    assert_eq!((&lines[0]["bytes"], &lines[0]["received"]), (&8.into(), &4.into()));
}

#[tokio::test]
async fn a_trace_passes_or_is_begun_and_is_logged() {
    let logged = Logged::start(1.0, Format::Json);
    let _instance = logged.web().await;
    let mut client = logged.bed.client().await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    let passed = client.ask("GET", "/echo", &format!("Traceparent: {parent}\r\nTracestate: a=1\r\n")).await;
    assert_eq!(
        (field(passed.text(), "traceparent"), field(passed.text(), "tracestate")),
        (Some(parent), Some("a=1"))
    );
    let mut begun = Vec::new();
    for fields in [
        String::new(),
        "Traceparent: 00-1-2-03\r\nTracestate: a=1\r\n".to_owned(),
        format!("Traceparent: {parent}\r\nTraceparent: {parent}\r\n"),
    ] {
        let reply = client.ask("GET", "/echo", &fields).await;
        let own = field(reply.text(), "traceparent").unwrap().to_owned();
        assert!(own.len() == 55 && own.starts_with("00-") && own.ends_with("-01") && own != parent, "{own}");
        assert_eq!(reply.text().matches("traceparent").count(), 1);
        assert_eq!(field(reply.text(), "tracestate"), None);
        begun.push(own.split('-').nth(1).unwrap().to_owned());
    }
    let lines = logged.lines(4).await;
    assert_eq!(lines[0]["trace_id"], "0af7651916cd43dd8448eb211c80319c");
    let ids: Vec<_> = lines[1..].iter().map(|line| line["trace_id"].as_str().unwrap()).collect();
    assert_eq!(ids, begun);
    assert!(ids[0] != ids[1] && ids[1] != ids[2], "{ids:?}");
}

#[tokio::test]
async fn each_stream_of_http2_is_a_line() {
    let logged = Logged::start(1.0, Format::Json);
    let _instance = logged.web().await;
    let stream = TcpStream::connect(logged.bed.address).await.unwrap();
    let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
    let mut all = tokio::task::JoinSet::new();
    all.spawn(connection);
    let ask = |path: &str| {
        let uri = format!("http://shop.localhost{path}");
        http::Request::builder().uri(uri).version(http::Version::HTTP_2).body(()).unwrap()
    };
    let (slow, mut taken_back) = send.send_request(ask("/slow/20000"), true).unwrap();
    logged.bed.in_flight(&release(1), 1).await;
    let (answer, _) = send.send_request(ask("/quick?token=secret"), true).unwrap();
    assert_eq!(within(answer).await.unwrap().status(), 200);
    taken_back.send_reset(h2::Reason::CANCEL);
    drop(slow);
    let [slow, quick] = logged.by_path(["/slow/20000", "/quick"]).await;
    for line in [&slow, &quick] {
        assert_eq!((&line["protocol"], &line["host"]), (&"HTTP/2".into(), &"shop.localhost".into()));
    }
    assert_eq!((&quick["status"], quick.get("flag")), (&200.into(), None));
    assert_eq!((&slow["status"], &slow["flag"]), (&499.into(), &"client_gone".into()));
    all.abort_all();
}

#[tokio::test]
async fn what_a_call_of_grpc_came_to_is_logged() {
    let logged = Logged::start(0.0, Format::Json);
    logged.bed.publish_web(|_| {}).await;
    let (address, _task) = serve_raw(|mut stream| async move {
        read_request(&mut stream, &mut Vec::new()).await.unwrap();
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: grpc-status\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(b"3\r\nabc\r\n0\r\ngrpc-status: 14\r\n\r\n").await.unwrap();
    })
    .await;
    logged.bed.handle.admit(endpoint("rpc", release(1), address));
    assert_eq!(logged.bed.get("/").await.status, 200);
    let line = &logged.lines(1).await[0];
    assert_eq!((&line["status"], &line["grpc_status"], &line["bytes"]), (&200.into(), &14.into(), &3.into()));
}

#[tokio::test]
async fn a_sample_of_nothing_still_holds_what_failed() {
    let logged = Logged::start(0.0, Format::Json);
    let _instance = logged.web().await;
    let mut client = logged.bed.client().await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(logged.bed.get("/garbage").await.status, 502);
    assert_eq!(logged.lines(1).await[0]["flag"], "upstream");
}

#[tokio::test]
async fn the_end_of_the_edge_leaves_no_line_behind() {
    let logged = Logged::start(1.0, Format::Common);
    let _instance = logged.web().await;
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..4 {
        let mut client = logged.bed.client().await;
        for _ in 0..25 {
            assert_eq!(client.get("/a%20b\"?c").await.status, 200);
        }
        clients.push(client);
    }
    let Logged { bed, path, _folder } = logged;
    drop(clients);
    within(bed.edge.drain(std::time::Duration::from_secs(5))).await;
    let text = std::fs::read_to_string(path).unwrap();
    assert_eq!(text.lines().count(), 100);
    for line in text.lines() {
        let rest = line.strip_prefix("127.0.0.1 - - [24/Nov/2026:07:").expect(line);
        assert!(
            rest.contains("\"GET /a%20b\\\" HTTP/1.1\" 200 3 \"-\" \"-\" shop.localhost shop/web@1 one "),
            "{line}"
        );
    }
}
