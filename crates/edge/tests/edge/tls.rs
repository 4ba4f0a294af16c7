//! TLS at the door, with clients of rustls and with raw bytes.

mod ask;
mod cluster;
mod slow;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use http::Method;
use minato_edge::{Config, listen};
use minato_model::{
    manifest::Protocol,
    routing::Routing as _,
    time::Moment,
    tls::{Certificate, PrivateKey, Secured, Source},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    AlertDescription, ClientConfig, HandshakeKind, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    http2::{Link, call, chat, data, play, request},
    support::{Bed, Client, Instance, bed_of, within},
};

/// An authority of the test's own.
struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("ca {}", COUNT.fetch_add(1, SeqCst)));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn der(&self) -> Vec<u8> {
        self.0.der().to_vec()
    }

    /// A certificate for these names.
    fn signs(&self, names: &[&str]) -> Certificate {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names.clone()).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let (chain, key) = (vec![certificate.der().to_vec()], PrivateKey::new(key.serialize_der()));
        Certificate { hosts: names, chain, key, not_after: Moment(i64::MAX) }
    }

    /// A client that believes it, with these protocols.
    fn client(&self, protocols: &[&str]) -> ClientConfig {
        self.client_of(protocols, None, rustls::DEFAULT_VERSIONS)
    }

    fn client_of(
        &self,
        protocols: &[&str],
        shows: Option<&Certificate>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match shows {
            Some(own) => {
                let chain = own.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
                let key = PrivateKeyDer::try_from(own.key.expose().to_vec()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }
}

/// An edge with a door for TLS, and where that is.
struct Door {
    bed: Bed,
    address: SocketAddr,
    ca: Ca,
}

fn door() -> Door {
    door_with(|_| {})
}

fn door_with(change: impl FnOnce(&mut Config)) -> Door {
    let bind = || (0..20).find_map(|_| listen::bind("127.0.0.1:0".parse().unwrap(), 2).ok()).unwrap();
    let mut config = Config { https: bind(), ..Config::new(bind(), None) };
    change(&mut config);
    let address = config.https[0].local_addr().unwrap();
    Door { bed: bed_of(config), address, ca: Ca::new() }
}

impl Door {
    /// Shows these from now on.
    fn give(&self, certificates: Vec<Certificate>) {
        let secured = Secured { certificates, client_roots: Vec::new() };
        self.bed.handle.secure(Source::Files, Arc::new(secured));
    }

    /// `shop.localhost` with a certificate and an instance.
    async fn shop(&self) -> Instance {
        self.give(vec![self.ca.signs(&["shop.localhost"])]);
        self.bed.publish_web(|_| {}).await;
        let instance = Instance::start("one").await;
        self.bed.handle.admit(instance.endpoint.clone());
        instance
    }

    async fn connect(&self, config: &ClientConfig, host: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from(host.to_owned()).unwrap();
        within(TlsConnector::from(Arc::new(config.clone())).connect(name, stream)).await
    }

    /// A client of HTTP/1.1.
    async fn client(&self) -> Client<TlsStream<TcpStream>> {
        Client::on(self.connect(&self.ca.client(&["http/1.1"]), "shop.localhost").await.unwrap())
    }
}

/// The alert that ended a handshake.
fn alert(error: &std::io::Error) -> Option<AlertDescription> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    if let rustls::Error::AlertReceived(alert) = error { Some(*alert) } else { None }
}

#[tokio::test]
async fn a_request_over_tls_is_answered_and_says_so() {
    let door = door();
    let _instance = door.shop().await;
    for versions in [&[&rustls::version::TLS12], &[&rustls::version::TLS13]] {
        let config = door.ca.client_of(&["h2", "http/1.1"], None, versions);
        let stream = door.connect(&config, "shop.localhost").await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let config = door.ca.client_of(&[], None, versions);
        let stream = door.connect(&config, "shop.localhost").await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), None);
        let mut client = Client::on(stream);
        for _ in 0..3 {
            let reply = client.get("/echo").await;
            assert!(reply.text().contains("x-forwarded-proto: https\r\n"), "{}", reply.text());
        }
    }
    let plain = door.bed.get("/echo").await;
    assert!(plain.text().contains("x-forwarded-proto: http\r\n"), "{}", plain.text());
}

#[tokio::test]
async fn the_certificate_is_that_of_the_name_that_was_asked_for() {
    let door = door();
    let _instance = door.shop().await;
    let other = Ca::new();
    door.give(vec![door.ca.signs(&["shop.localhost", "www.shop.localhost"]), other.signs(&["b.localhost"])]);
    let config = door.ca.client(&[]);
    for host in ["shop.localhost", "www.shop.localhost", "WWW.shop.localhost"] {
        assert!(door.connect(&config, host).await.is_ok(), "{host}");
    }
    assert!(door.connect(&other.client(&[]), "b.localhost").await.is_ok());
    assert!(door.connect(&config, "b.localhost").await.is_err(), "it is another authority's");
    let error = door.connect(&config, "unknown.localhost").await.unwrap_err();
    assert_eq!(alert(&error), Some(AlertDescription::UnrecognisedName));
}

#[tokio::test]
async fn versions_that_are_broken_are_refused() {
    let door = door();
    let _instance = door.shop().await;
    // A hello of TLS 1.0 and of 1.1, with ciphers of their time and the extension that names the host.
    for minor in [1, 2] {
        let name = b"\0\0\0\x13\0\x11\0\0\x0eshop.localhost";
        let mut hello = vec![3, minor];
        hello.extend([7; 32]);
        hello.extend([0, 0, 4, 0xc0, 0x09, 0xc0, 0x13, 1, 0]);
        hello.extend([0, u8::try_from(name.len()).unwrap()]);
        hello.extend(name);
        let mut message = vec![1, 0, 0, u8::try_from(hello.len()).unwrap()];
        message.extend(hello);
        let mut record = vec![22, 3, 1, 0, u8::try_from(message.len()).unwrap()];
        record.extend(message);
        let answer = raw(&door, &record).await;
        // protocol_version, or handshake_failure: they name no signatures that TLS 1.2 could have.
        assert!(matches!(answer[..], [21, _, _, 0, 2, 2, 40 | 70]), "{answer:?}");
    }
}

#[tokio::test]
async fn a_name_that_is_none_is_refused() {
    let door = door();
    let _instance = door.shop().await;
    for name in [&b"shop..localhost"[..], b"\xff\xfe", b"a b", b"", b"shop.localhost\0"] {
        let length = |more: usize| u16::try_from(name.len() + more).unwrap().to_be_bytes();
        let mut extensions = [&[0, 0][..], &length(5), &length(3), &[0], &length(0), name].concat();
        extensions.extend([0, 43, 0, 3, 2, 3, 4]);
        let mut hello = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 0x01, 1, 0]].concat();
        hello.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
        hello.extend(extensions);
        let message = [&[1, 0][..], &u16::try_from(hello.len()).unwrap().to_be_bytes(), &hello].concat();
        let record =
            [&[22, 3, 1][..], &u16::try_from(message.len()).unwrap().to_be_bytes(), &message].concat();
        let answer = raw(&door, &record).await;
        assert!(answer.len() == 7 && answer[0] == 21 && answer[5] == 2, "{name:?}: {answer:?}");
    }
}

#[tokio::test]
async fn protocols_that_nobody_speaks_are_refused() {
    let door = door();
    let _instance = door.shop().await;
    let error = door.connect(&door.ca.client(&["spdy/3", "acme-tls/1"]), "shop.localhost").await.unwrap_err();
    assert_eq!(alert(&error), Some(AlertDescription::NoApplicationProtocol));
    let error = door.connect(&door.ca.client(&["acme-tls/1"]), "shop.localhost").await.unwrap_err();
    assert_eq!(alert(&error), Some(AlertDescription::NoApplicationProtocol));
}

#[tokio::test]
async fn a_session_is_resumed_by_whichever_thread_and_after_a_new_certificate() {
    let door = door();
    let _instance = door.shop().await;
    for versions in [&[&rustls::version::TLS12], &[&rustls::version::TLS13]] {
        let config = door.ca.client_of(&["http/1.1"], None, versions);
        for round in 0..12 {
            let mut client = Client::on(door.connect(&config, "shop.localhost").await.unwrap());
            assert_eq!(client.get("/").await.text(), "one");
            let kind = client.stream.get_ref().1.handshake_kind().unwrap();
            assert_eq!(kind == HandshakeKind::Resumed, round > 0, "{kind:?} {round}");
            if round == 6 {
                door.give(vec![door.ca.signs(&["shop.localhost"])]);
            }
        }
    }
    let metrics = door.bed.handle.metrics();
    for (kind, count) in [("full", 2), ("resumed", 22), ("failed", 0)] {
        let line = format!("minato_edge_handshakes_total{{kind=\"{kind}\"}} {count}\n");
        assert!(metrics.contains(&line), "{metrics}");
    }
}

#[tokio::test]
async fn a_new_certificate_drops_no_connection() {
    let door = door();
    let _instance = door.shop().await;
    let mut before = door.client().await;
    assert_eq!(before.get("/").await.text(), "one");
    let other = Ca::new();
    door.give(vec![other.signs(&["shop.localhost"])]);
    assert_eq!(before.get("/").await.text(), "one");
    assert!(door.connect(&door.ca.client(&[]), "shop.localhost").await.is_err());
    let mut after = Client::on(door.connect(&other.client(&[]), "shop.localhost").await.unwrap());
    assert_eq!(after.get("/").await.text(), "one");
    // What can't be shown isn't: the key is another's.
    let mut wrong = other.signs(&["shop.localhost"]);
    wrong.key = other.signs(&["b.localhost"]).key;
    door.give(vec![wrong]);
    assert_eq!(before.get("/").await.text(), "one");
    let error = door.connect(&other.client(&[]), "shop.localhost").await.unwrap_err();
    assert_eq!(alert(&error), Some(AlertDescription::UnrecognisedName));
}

#[tokio::test]
async fn large_bodies_pass_both_ways() {
    let door = door();
    let _instance = door.shop().await;
    let mut client = door.client().await;
    let size = 20 << 20;
    let reply = client.get(&format!("/stream/{size}")).await;
    assert!(reply.whole && reply.body.len() == size && reply.body.iter().all(|byte| *byte == b'0'));
    let head = format!("POST /body HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: {size}\r\n\r\n");
    client.send(head).await;
    client.send(vec![b'x'; size]).await;
    assert_eq!(client.reply("POST").await.text(), size.to_string());
}

#[tokio::test]
async fn calls_and_websockets_pass_over_tls() {
    let door = door();
    door.give(vec![door.ca.signs(&["shop.localhost"])]);
    door.bed.publish_web(|route| route.protocol = Protocol::Grpc).await;
    let _instance = play(&door.bed, "one").await;
    let stream = door.connect(&door.ca.client(&["h2"]), "shop.localhost").await.unwrap();
    let mut link = Link::on(stream).await;
    let reply = link.ask(call("Count"), Some(vec![1; 300_000])).await.unwrap();
    assert_eq!(reply.text(), "300000");
    assert_eq!(reply.trailers.unwrap()["grpc-status"], "0");
    let reply = link.ask(request(Method::GET, "/fields"), None).await.unwrap();
    assert!(reply.text().contains("\"x-forwarded-proto\": \"https\""), "{}", reply.text());

    let (mut sends, mut body) = chat(&mut link).await;
    sends.send_data("hello".into(), false).unwrap();
    assert_eq!(data(&mut body).await.unwrap().unwrap(), "hello");

    // The same from a client of HTTP/1.1.
    let mut client = door.client().await;
    let key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let fields = format!("Connection: Upgrade\r\nUpgrade: websocket\r\n{key}");
    let reply = client.ask("GET", "/chat", &fields).await;
    assert_eq!((reply.status, reply.field("upgrade")), (101, Some("websocket")));
    client.send(vec![0x5a; 100_000]).await;
    assert_eq!(client.bytes(100_000).await, vec![0x5a; 100_000]);
}

#[tokio::test]
async fn a_farewell_ends_the_connection_and_nothing_else() {
    let door = door();
    let _instance = door.shop().await;
    // The client takes its leave, and the edge too.
    let mut client = door.client().await;
    assert_eq!(client.get("/").await.text(), "one");
    client.stream.get_mut().1.send_close_notify();
    client.stream.flush().await.unwrap();
    let mut rest = Vec::new();
    within(client.stream.read_to_end(&mut rest)).await.expect("close_notify comes before the end");
    assert_eq!(rest, b"");
    let mut client = door.client().await;
    client.send("GET / HTTP/1.1\r\nHost: shop.localhost\r\nConnection: close\r\n\r\n").await;
    assert_eq!(client.reply("GET").await.text(), "one");
    let mut rest = Vec::new();
    within(client.stream.read_to_end(&mut rest)).await.expect("close_notify comes before the end");
    assert_eq!(rest, b"");
    // What is no request is answered over TLS, and so is one that is too large.
    for (bytes, status) in [("\0\0\r\n\r\n".to_owned(), 400), (format!("GET /{}", "x".repeat(100_000)), 431)]
    {
        let mut client = door.client().await;
        client.send(bytes).await;
        let reply = client.reply("GET").await;
        assert!(reply.status == status || reply.status == 414, "{reply:?}");
        assert!(reply.code().is_some());
    }
}

/// What a client gets that sends these bytes, to the end.
async fn raw(door: &Door, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(door.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    drop(within(stream.read_to_end(&mut answer)).await);
    answer
}

#[tokio::test]
async fn what_is_no_handshake_gets_an_alert_or_a_word() {
    let door = door();
    let _instance = door.shop().await;
    let answer = raw(&door, b"GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("use https"), "{answer}");
    for (bytes, what) in [
        (&[22, 3, 1, 0, 2, 1, 0][..], "a hello that stops"),
        (&[21, 3, 3, 0, 2, 1, 0], "an alert"),
        (&[20, 3, 3, 0, 1, 1], "a change of ciphers"),
        (&[23, 3, 3, 0, 3, 1, 2, 3], "data"),
        (&[24, 3, 3, 0, 3, 1, 0, 1], "a heartbeat"),
        (&[22, 3, 3, 0, 4, 20, 0, 0, 0], "the end of a handshake"),
        (&[22, 3, 3, 255, 255, 1, 0, 0, 0], "a record that is too long"),
        (&[22, 9, 9, 0, 4, 1, 0, 0, 0], "a version that isn't"),
        (&[22, 3, 1, 0, 4, 1, 255, 255, 255], "a message that is too long"),
        (&[128, 46, 1, 0, 2], "a hello of SSL 2"),
        (b"\x00\x01garbage", "garbage"),
    ] {
        let mut stream = TcpStream::connect(door.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        drop(within(stream.read_to_end(&mut answer)).await);
        assert!(answer.is_empty() || answer[0] == 21, "{what}: {answer:?}");
    }
    assert_eq!(door.client().await.get("/").await.text(), "one");
}
