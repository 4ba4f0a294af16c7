//! Instances that are spoken to over TLS, each side showing who it is.
#![expect(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]

use std::{
    net::Ipv4Addr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Method;
use minato_identity::{Authority, Holder, Issued, Lifetimes, verify};
use minato_model::{manifest::Protocol, routing::Routing as _, time::Moment};
use rustls::{
    HandshakeKind, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::UnixTime,
    server::{NoClientAuth, danger::ClientCertVerifier},
    time_provider::{DefaultTimeProvider, TimeProvider},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    http2::{self, Link},
    support::{
        Bed, Instance, Told, answer_all, bed_with, endpoint, entry, id, read_request, release, serve_raw,
        until, within,
    },
};

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
/// An instance may speak only one of them.
const VERSIONS: [&[&rustls::SupportedProtocolVersion]; 2] =
    [&[&rustls::version::TLS13], &[&rustls::version::TLS12]];

/// The wall clock, so many milliseconds off.
fn clock(offset: &Arc<AtomicI64>) -> minato_identity::Clock {
    let offset = Arc::clone(offset);
    Arc::new(move || {
        let now = i64::try_from(UnixTime::now().as_secs()).unwrap() * 1_000;
        Moment(now + offset.load(SeqCst))
    })
}

fn authority(directory: &Path, offset: i64) -> (Arc<Authority>, Arc<AtomicI64>) {
    let offset = Arc::new(AtomicI64::new(offset));
    let node = "one".parse().unwrap();
    let opened = Authority::open(directory, &node, Lifetimes::default(), clock(&offset));
    (opened.unwrap(), offset)
}

fn issue(authority: &Authority, name: &str) -> Issued {
    let (service, instance) = (release(1).service, id(name));
    let who = Holder { service: &service, instance: &instance, address: Ipv4Addr::LOCALHOST };
    authority.instance(&who, Duration::from_secs(3_600), authority.key().unwrap()).unwrap()
}

/// A cluster and its edge, with `shop/web` served over TLS.
struct Ground {
    directory: TempDir,
    authority: Arc<Authority>,
    /// How far its clock is off.
    offset: Arc<AtomicI64>,
    bed: Bed,
}

async fn ground() -> Ground {
    let directory = tempfile::tempdir().unwrap();
    let (authority, offset) = authority(directory.path(), 0);
    let known = Arc::clone(&authority);
    let bed = bed_with(None, |config| {
        config.authority = Some(known);
        config.limits.connect = Duration::from_millis(500);
    });
    bed.publish_web(|route| route.protocol = Protocol::Https).await;
    Ground { directory, authority, offset, bed }
}

/// How an instance speaks TLS.
struct Side {
    shows: Issued,
    asks: Arc<dyn ClientCertVerifier>,
    speaks: &'static [&'static str],
    versions: &'static [&'static rustls::SupportedProtocolVersion],
    /// Its clock.
    by: Option<Arc<Authority>>,
    /// Which of its connections it ends instead of agreeing upon anything.
    breaks: Option<usize>,
}

/// The same, and one that speaks HTTP/2.
const PAIRS: [(&[&rustls::SupportedProtocolVersion], &[&str]); 3] =
    [(VERSIONS[0], &["http/1.1"]), (VERSIONS[1], &["http/1.1"]), (VERSIONS[0], &["h2"])];

/// A clock as an authority has it.
#[derive(Debug)]
struct By(Arc<Authority>);

impl TimeProvider for By {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.now().0.try_into().unwrap())))
    }
}

impl Side {
    fn of(shows: Issued) -> Self {
        Self {
            shows,
            asks: Arc::new(NoClientAuth),
            speaks: &["http/1.1"],
            versions: rustls::DEFAULT_VERSIONS,
            by: None,
            breaks: None,
        }
    }

    /// Asks for a certificate by this authority.
    fn asks(mut self, authority: &Arc<Authority>) -> Self {
        self.by = Some(Arc::clone(authority));
        self.asks = verify::caller_verifier(authority.trust());
        self
    }

    fn config(self) -> ServerConfig {
        let clock: Arc<dyn TimeProvider> = match self.by {
            Some(authority) => Arc::new(By(authority)),
            None => Arc::new(DefaultTimeProvider),
        };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_details(provider, clock)
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_client_cert_verifier(self.asks)
            .with_single_cert(self.shows.chain, self.shows.key)
            .unwrap();
        config.alpn_protocols = self.speaks.iter().map(|name| name.as_bytes().to_vec()).collect();
        config.ticketer = aws_lc_rs::Ticketer::new().unwrap();
        config
    }
}

/// What an instance saw.
#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    full: AtomicUsize,
    resumed: AtomicUsize,
    requests: Arc<AtomicUsize>,
    /// Who called: the identity, and the certificate's serial number with what follows it.
    callers: Mutex<Vec<(String, Vec<u8>)>>,
}

struct Played {
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

impl Drop for Played {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Played {
    fn handshakes(&self) -> (usize, usize) {
        (self.seen.full.load(SeqCst), self.seen.resumed.load(SeqCst))
    }

    fn requests(&self) -> usize {
        self.seen.requests.load(SeqCst)
    }

    fn callers(&self) -> Vec<(String, Vec<u8>)> {
        self.seen.callers.lock().unwrap().clone()
    }
}

/// An instance that the test plays: it answers as those of plain HTTP do, or its connections are handed over
/// after their first request.
async fn play(
    bed: &Bed,
    name: &str,
    side: Side,
    hand: Option<mpsc::UnboundedSender<TlsStream<TcpStream>>>,
) -> Played {
    let breaks = side.breaks;
    let acceptor = TlsAcceptor::from(Arc::new(side.config()));
    let seen = Arc::new(Seen::default());
    let (noted, name_too) = (Arc::clone(&seen), name.to_owned());
    let (address, task) = serve_raw(move |mut stream| {
        let broken = breaks == Some(noted.connections.fetch_add(1, SeqCst));
        let (acceptor, noted, name, hand) =
            (acceptor.clone(), Arc::clone(&noted), name_too.clone(), hand.clone());
        async move {
            if broken {
                drop(stream.read(&mut [0; 4096]).await);
                return;
            }
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let session = stream.get_ref().1;
            let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
            if resumed { &noted.resumed } else { &noted.full }.fetch_add(1, SeqCst);
            if let Some(shown) = session.peer_certificates().and_then(|chain| chain.first()) {
                let id = verify::spiffe_of(shown).unwrap().to_string();
                noted.callers.lock().unwrap().push((id, shown.to_vec()));
            }
            if session.alpn_protocol() == Some(b"h2") {
                return answer_http2(stream, Arc::clone(&noted.requests)).await;
            }
            match hand {
                Some(hand) => {
                    if read_request(&mut stream, &mut Vec::new()).await.is_some() {
                        drop(hand.send(stream));
                    }
                }
                None => answer_all(stream, name, Arc::clone(&noted.requests)).await,
            }
        }
    })
    .await;
    bed.handle.admit(endpoint(name, release(1), address));
    Played { seen, task }
}

async fn answer_http2(stream: TlsStream<TcpStream>, requests: Arc<AtomicUsize>) {
    let mut connection: h2::server::Connection<_, Bytes> = h2::server::handshake(stream).await.unwrap();
    let mut all = tokio::task::JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        all.spawn(http2::answer(request, respond, requests.fetch_add(1, SeqCst)));
    }
}

/// Why the edge doesn't trust an instance.
async fn told_distrust(bed: &mut Bed, name: &str) -> String {
    loop {
        if let Told::Distrust(instance, reason) = bed.next_told().await {
            assert_eq!(instance, id(name));
            return reason;
        }
    }
}

#[tokio::test]
async fn each_side_knows_the_other() {
    let Ground { authority, bed, directory: _directory, .. } = ground().await;
    let side = Side::of(issue(&authority, "one")).asks(&authority);
    let played = play(&bed, "one", side, None).await;
    let mut client = bed.client().await;
    let reply = client.get("/echo").await;
    assert_eq!((reply.status, reply.field("x-instance")), (200, Some("one")));
    assert!(reply.text().starts_with("GET /echo HTTP/1.1\r\nhost: shop.localhost\r\n"), "{}", reply.text());
    let edge = format!("spiffe://{}/node/one/edge", authority.cluster());
    assert_eq!(played.callers().iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), [edge]);
    for _ in 0..10 {
        assert_eq!(client.get("/").await.text(), "one");
    }
    assert_eq!(played.handshakes(), (1, 0), "the connection is kept");
    assert_eq!(client.get("/chunked").await.text(), "abcdefg");
}

/// Someone who isn't the instance.
async fn nobody(ground: &Ground, who: &str) -> (Option<Played>, JoinHandle<()>) {
    let Ground { authority: own, bed, directory, .. } = ground;
    let elsewhere = tempfile::tempdir().unwrap();
    let shows = match who {
        "another" => issue(own, "two"),
        "foreign" => issue(&authority(elsewhere.path(), 0).0, "one"),
        "expired" => {
            let issued = issue(own, "one");
            ground.offset.store(3 * DAY, SeqCst);
            issued
        }
        "early" => issue(&authority(directory.path(), 3 * DAY).0, "one"),
        "host" => own.hosts(&["web.shop.internal".to_owned()], &[]).unwrap(),
        _ => {
            let (address, task) = serve_raw(|mut stream| async move {
                let mut some = [0; 16];
                drop(stream.read(&mut some).await);
                drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n").await);
                // What isn't read would reset the connection.
                while stream.read(&mut some).await.is_ok_and(|length| length > 0) {}
            })
            .await;
            bed.handle.admit(endpoint("one", release(1), address));
            return (None, task);
        }
    };
    (Some(play(bed, "one", Side::of(shows), None).await), tokio::spawn(async {}))
}

#[tokio::test]
async fn who_is_not_the_instance_is_sent_nothing() {
    for (who, kind, names) in [
        ("another", "its certificate is not its own", "/instance/two, and spiffe://"),
        ("foreign", "its certificate is not by this cluster's authority", ""),
        ("expired", "its certificate has expired", " at 20"),
        ("early", "its certificate is not valid yet", "is not valid before 20"),
        ("host", "its certificate is not its own", "no identity"),
        ("plain", "it doesn't speak TLS", ""),
    ] {
        let mut ground = ground().await;
        let (played, task) = nobody(&ground, who).await;
        let reply = ground.bed.client().await.ask("POST", "/", "Content-Length: 0\r\n").await;
        assert_eq!((reply.status, reply.code()), (502, Some("upstream")), "{who}");
        assert!(reply.text().contains(kind), "{who}: {}", reply.text());
        let reason = told_distrust(&mut ground.bed, "one").await;
        assert!(reason.contains(names), "{who}: {reason}");
        if let Some(played) = &played {
            assert_eq!((played.requests(), played.seen.connections.load(SeqCst)), (0, 1), "{who}");
        }
        // Another instance gets all that this one can't have.
        let good = play(&ground.bed, "two", Side::of(issue(&ground.authority, "two")), None).await;
        for _ in 0..20 {
            assert_eq!(ground.bed.get("/").await.text(), "two", "{who}");
        }
        assert_eq!(good.requests(), 20, "{who}");
        assert!(played.is_none_or(|played| played.requests() == 0), "{who}");
        task.abort();
    }
}

#[tokio::test]
async fn an_instance_that_does_not_know_the_edge_is_named() {
    for (versions, speaks) in PAIRS {
        let Ground { authority: own, mut bed, directory: _directory, .. } = ground().await;
        let elsewhere = tempfile::tempdir().unwrap();
        let (foreign, _) = authority(elsewhere.path(), 0);
        let side = Side { versions, speaks, ..Side::of(issue(&own, "one")).asks(&foreign) };
        let played = play(&bed, "one", side, None).await;
        let reply = bed.client().await.ask("POST", "/", "Content-Length: 0\r\n").await;
        assert_eq!((reply.status, reply.code()), (502, Some("upstream")));
        assert!(reply.text().contains("it doesn't accept the edge's certificate"), "{}", reply.text());
        told_distrust(&mut bed, "one").await;
        assert_eq!(played.requests(), 0);
        // Nothing was looked at, so another one may have it, whatever it is.
        let _good = play(&bed, "two", Side::of(issue(&own, "two")), None).await;
        for _ in 0..10 {
            let reply = bed.client().await.ask("POST", "/", "Content-Length: 0\r\n").await;
            assert_eq!(reply.text(), "two");
        }
    }
}

#[tokio::test]
async fn sessions_are_resumed_by_whichever_thread() {
    for versions in VERSIONS {
        let Ground { authority, bed, directory: _directory, .. } = ground().await;
        let side = Side { versions, ..Side::of(issue(&authority, "one")).asks(&authority) };
        let played = play(&bed, "one", side, None).await;
        for round in 0..12 {
            // The instance ends each connection.
            let reply = bed.get("/goodbye").await;
            assert_eq!((reply.status, reply.text()), (200, "until the end"), "{round}");
        }
        assert_eq!(played.handshakes(), (1, 11));
        let metrics = bed.edge.metrics();
        for line in ["{kind=\"full\"} 1\n", "{kind=\"resumed\"} 11\n", "{kind=\"failed\"} 0\n"] {
            assert!(metrics.contains(&format!("minato_upstream_handshakes_total{line}")), "{metrics}");
        }
        let callers = played.callers();
        assert!(callers.iter().all(|caller| *caller == callers[0]), "it knows whom it speaks to again");
    }
}

#[tokio::test]
async fn who_ends_a_connection_instead_of_a_session_is_asked_once_more() {
    let Ground { authority, bed, directory: _directory, .. } = ground().await;
    let side = Side { breaks: Some(1), ..Side::of(issue(&authority, "one")) };
    let played = play(&bed, "one", side, None).await;
    assert_eq!(bed.get("/goodbye").await.status, 200);
    let reply = bed.client().await.ask("POST", "/", "Content-Length: 0\r\n").await;
    assert_eq!((reply.status, reply.text()), (200, "one"));
    assert_eq!((played.handshakes(), played.seen.connections.load(SeqCst)), ((2, 0), 3));
}

#[tokio::test]
async fn new_credentials_are_shown_and_nothing_that_is_open_breaks() {
    let ground = ground().await;
    let Ground { authority, bed, offset, .. } = &ground;
    let played = play(bed, "one", Side::of(issue(authority, "one")).asks(authority), None).await;
    let mut client = bed.client().await;
    client.send("GET /slow/400 HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    until(|| played.requests() == 1).await;
    let edge = |played: &Played| played.callers().into_iter().map(|(_, shown)| shown).collect::<Vec<_>>();
    // Less than half of the certificate's life later: the same.
    offset.store(11 * HOUR, SeqCst);
    assert_eq!(bed.get("/goodbye").await.status, 200);
    assert_eq!(edge(&played)[0], edge(&played)[1]);
    // More: another one, and no session by the old one.
    offset.store(13 * HOUR, SeqCst);
    assert_eq!(bed.get("/goodbye").await.status, 200);
    assert_ne!(edge(&played)[0], edge(&played)[2]);
    assert_eq!(played.handshakes().0, 3 - played.handshakes().1);
    assert_eq!(client.reply("GET").await.status, 200, "what was open goes on");
}

#[tokio::test]
async fn a_rotation_breaks_nothing_that_is_open_and_counts_for_what_comes() {
    let Ground { authority, bed, offset, directory: _directory } = ground().await;
    let old = play(&bed, "one", Side::of(issue(&authority, "one")).asks(&authority), None).await;
    let mut client = bed.client().await;
    client.send("GET /slow/500 HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    until(|| old.requests() == 1).await;
    let before = authority.bundle().serial;
    offset.store(31 * DAY, SeqCst);
    authority.rotate().unwrap();
    assert!(authority.bundle().serial > before);
    // Its sessions ended with the roots, and its certificate ended meanwhile.
    let new = play(&bed, "two", Side::of(issue(&authority, "two")).asks(&authority), None).await;
    for _ in 0..10 {
        assert_eq!(bed.get("/").await.text(), "two");
    }
    assert!(new.callers().iter().all(|(id, _)| id.ends_with("/node/one/edge")));
    assert_eq!((client.reply("GET").await.status, old.handshakes()), (200, (1, 0)));
}

#[tokio::test]
async fn bodies_pass_both_ways() {
    for speaks in [&["http/1.1"][..], &["h2", "http/1.1"]] {
        let Ground { authority, bed, directory: _directory, .. } = ground().await;
        let _played = play(&bed, "one", Side { speaks, ..Side::of(issue(&authority, "one")) }, None).await;
        let mut link = Link::to(bed.address).await;
        let reply = link.ask(http2::request(Method::POST, "/body"), Some(vec![7; 1 << 20])).await.unwrap();
        assert_eq!(reply.text(), "1048576");
        let mut client = bed.client().await;
        let head = "POST /body HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 1048576\r\n\r\n";
        client.send(head).await;
        client.send(vec![7; 1 << 20]).await;
        assert_eq!(client.reply("POST").await.text(), "1048576");
        client
            .send("POST /body HTTP/1.1\r\nHost: shop.localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        for _ in 0..16 {
            client.send("10000\r\n").await;
            client.send(vec![7; 1 << 16]).await;
            client.send("\r\n").await;
        }
        client.send("0\r\n\r\n").await;
        assert_eq!(client.reply("POST").await.text(), "1048576");
        if speaks.len() == 1 {
            let reply = client.get("/stream/1048576").await;
            assert!(reply.whole && reply.body == vec![b'0'; 1 << 20]);
            assert_eq!(link.get("/stream/5000000").await.body.len(), 5_000_000);
        }
    }
}

#[tokio::test]
async fn an_instance_of_http2_is_spoken_to_so_and_carries_calls() {
    let Ground { authority, bed, directory: _directory, .. } = ground().await;
    let speaks = &["h2", "http/1.1"];
    let played = play(&bed, "one", Side { speaks, ..Side::of(issue(&authority, "one")) }, None).await;
    let mut link = Link::to(bed.address).await;
    let reply = link.ask(http2::call("Count"), Some(vec![1; 1_000])).await.unwrap();
    assert_eq!((reply.status.as_u16(), reply.text()), (200, "1000"));
    assert_eq!(reply.trailers.unwrap()["grpc-status"], "0");
    assert!(link.get("/fields").await.text().starts_with("https://shop.localhost/fields "));
    for _ in 0..20 {
        assert_eq!(bed.get("/").await.status, 200);
    }
    let (full, resumed) = played.handshakes();
    assert!(full + resumed <= 2, "one connection for each thread: {full} {resumed}");
    assert_eq!(played.requests(), 22);
}

#[tokio::test]
async fn an_end_that_was_not_said_is_none() {
    let Ground { authority, bed, directory: _directory, .. } = ground().await;
    let _played = play(&bed, "one", Side::of(issue(&authority, "one")), None).await;
    let said = bed.get("/goodbye").await;
    assert_eq!((said.whole, said.text()), (true, "until the end"));
    let cut = bed.get("/close").await;
    assert_eq!((cut.status, cut.whole), (200, false), "{cut:?}");
    // Where it is known how much was to come, the end doesn't matter.
    assert!(bed.get("/").await.whole);
    assert!(!bed.get("/half").await.whole);
}

#[tokio::test]
async fn a_websocket_passes_and_each_half_ends_by_itself() {
    let Ground { authority, bed, directory: _directory, .. } = ground().await;
    let (give, mut given) = mpsc::unbounded_channel();
    // It would rather speak HTTP/2, where it knows no WebSockets.
    let side = Side { speaks: &["h2", "http/1.1"], ..Side::of(issue(&authority, "one")) };
    let _played = play(&bed, "one", side, Some(give)).await;
    let mut client = bed.client().await;
    client
        .send("GET / HTTP/1.1\r\nHost: shop.localhost\r\nConnection: Upgrade\r\nUpgrade: some\r\n\r\n")
        .await;
    let mut instance = within(given.recv()).await.unwrap();
    let switch = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: some\r\n\r\nfirst";
    instance.write_all(switch).await.unwrap();
    assert_eq!(client.reply("GET").await.status, 101);
    assert_eq!(client.bytes(5).await, b"first");
    client.send("there").await;
    let mut five = [0; 5];
    within(instance.read_exact(&mut five)).await.unwrap();
    assert_eq!(&five, b"there");
    client.stream.shutdown().await.unwrap();
    assert_eq!(within(instance.read(&mut five)).await.unwrap(), 0, "its end was said by TLS too");
    instance.write_all(&vec![7; 300_000]).await.unwrap();
    instance.shutdown().await.unwrap();
    assert_eq!(client.bytes(300_000).await.len(), 300_000);
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn who_asks_for_a_change_that_an_instance_of_http2_does_not_know_does_it_no_harm() {
    let Ground { authority, mut bed, directory: _directory, .. } = ground().await;
    let _played =
        play(&bed, "one", Side { speaks: &["h2"], ..Side::of(issue(&authority, "one")) }, None).await;
    for (protocol, status) in [("other", 200), ("websocket", 502)] {
        let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";
        let fields = format!("Connection: Upgrade\r\nUpgrade: {protocol}\r\n{key}");
        assert_eq!(bed.client().await.ask("GET", "/", &fields).await.status, status, "{protocol}");
    }
    assert_eq!(bed.get("/").await.status, 200);
    assert_eq!(bed.handle.traffic(&id("one")).errors, 0);
    assert!(bed.told.try_recv().is_err(), "nothing is said of it");
}

#[tokio::test]
async fn an_answer_may_come_before_the_request_has_ended() {
    let Ground { authority, bed, directory: _directory, .. } = ground().await;
    let (give, mut given) = mpsc::unbounded_channel();
    let _played = play(&bed, "one", Side::of(issue(&authority, "one")), Some(give)).await;
    let mut client = bed.client().await;
    client.send("PUT / HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 2\r\n\r\nab").await;
    let mut instance = within(given.recv()).await.unwrap();
    instance.write_all(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n").await.unwrap();
    instance.write_all(b"HTTP/1.1 403 No\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
    let reply = client.reply("PUT").await;
    assert_eq!((reply.status, reply.text()), (403, "no"));
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_given_up() {
    let mut ground = ground().await;
    let web = |route: &mut minato_model::route::Route| {
        route.protocol = Protocol::Https;
        route.timeout = Duration::from_secs(2);
    };
    ground.bed.publish(vec![entry("shop/web", web, &[(1, 1)])]).await;
    let (address, _task) = serve_raw(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    ground.bed.handle.admit(endpoint("one", release(1), address));
    let reply = ground.bed.get("/").await;
    assert_eq!((reply.status, reply.code()), (504, Some("timeout")));
    assert_eq!(ground.bed.next_told().await, Told::Suspect(id("one")));
    let _good = play(&ground.bed, "two", Side::of(issue(&ground.authority, "two")), None).await;
    for _ in 0..3 {
        assert_eq!(ground.bed.get("/").await.text(), "two");
    }
}

/// After a handshake that went well; whether the answer had begun makes no difference.
#[tokio::test]
async fn what_is_no_record_breaks_one_answer_and_nothing_else() {
    let Ground { authority, bed, directory: _directory, .. } = ground().await;
    let (give, mut given) = mpsc::unbounded_channel();
    let played = play(&bed, "one", Side::of(issue(&authority, "one")), Some(give)).await;
    let record = |kind: u8, content: &[u8]| {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[kind, 3, 3][..], &length, content].concat()
    };
    let wrong = [
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec(),
        record(23, b""),
        record(23, &[0; 15]),
        record(23, &[7; 1_000]),
        [&record(23, b"")[..3], &[0xff, 0xff], &[7; 66_000]].concat(),
        record(21, &[2, 40]),
        record(21, &[1, 0]),
        record(22, &[0, 0, 0, 0]),
        record(22, &[4, 0xff, 0xff, 0xff]),
        record(20, &[1]).repeat(200),
        record(99, b"?"),
        record(23, &[7; 100])[..50].to_vec(),
        vec![0x80, 0x2e, 1, 3, 1],
    ];
    for (number, wrong) in wrong.iter().enumerate() {
        for begun in [false, true] {
            let mut client = bed.client().await;
            client.send("POST / HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 0\r\n\r\n").await;
            let mut instance = within(given.recv()).await.unwrap();
            if begun {
                instance.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfive").await.unwrap();
            }
            let below = instance.get_mut().0;
            below.write_all(wrong).await.unwrap();
            below.shutdown().await.unwrap();
            let reply = client.reply("POST").await;
            let expected = if begun { (200, false) } else { (502, true) };
            assert_eq!((reply.status, reply.whole), expected, "{number} {begun}: {}", reply.text());
        }
    }
    assert_eq!(played.requests(), 0);
    let mut client = bed.client().await;
    client.send("GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    let mut instance = within(given.recv()).await.unwrap();
    instance.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nwell").await.unwrap();
    assert_eq!(client.reply("GET").await.text(), "well");
}

/// Who should begin with a handshake.
#[tokio::test]
async fn what_is_no_handshake_is_named_and_breaks_no_thread() {
    for wrong in [
        &b"\x15\x03\x03\x00\x02\x02\x28"[..],
        b"\x16\x03\x03\xff\xff",
        b"\x16\x03\x03\x00\x04\x02\xff\xff\xff",
        b"\x17\x03\x03\x00\x01x",
        b"\x16\x03\x03\x00\x04\x00\x00\x00\x00",
        b"\x14\x03\x03\x00\x01\x01\x14\x03\x03\x00\x01\x01",
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"\x00",
        b"",
    ] {
        let Ground { authority, bed, directory: _directory, .. } = ground().await;
        let (address, _task) = serve_raw(move |mut stream| async move {
            let mut some = [0; 4096];
            drop(stream.read(&mut some).await);
            drop(stream.write_all(wrong).await);
            drop(stream.shutdown().await);
            while stream.read(&mut some).await.is_ok_and(|length| length > 0) {}
        })
        .await;
        bed.handle.admit(endpoint("one", release(1), address));
        let reply = bed.client().await.ask("POST", "/", "Content-Length: 0\r\n").await;
        assert_eq!((reply.status, reply.code()), (502, Some("upstream")), "{wrong:?}");
        let _good = play(&bed, "two", Side::of(issue(&authority, "two")), None).await;
        for _ in 0..4 {
            assert_eq!(bed.get("/").await.text(), "two", "{wrong:?}");
        }
    }
}

#[tokio::test]
async fn without_an_authority_nothing_is_sent() {
    let bed = bed_with(None, |_| {});
    bed.publish_web(|route| route.protocol = Protocol::Https).await;
    let instance = Instance::start("one").await;
    bed.handle.admit(instance.endpoint.clone());
    let reply = bed.get("/").await;
    assert_eq!((reply.status, reply.code()), (502, Some("upstream")));
    assert_eq!(instance.connections.load(SeqCst), 0);
}
