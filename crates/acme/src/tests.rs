//! Authorities that lie, stall and break off: what comes of it is bounded, told, and costs no host what
//! it has.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use minato_identity::files;
use minato_model::{
    BoxFuture,
    event::{Event, Journal},
    ids::{InstanceId, ReleaseKey, ServiceKey},
    keys,
    route::{Endpoint, Table},
    routing::{Load, Refusal, Routing, Traffic},
    time::Moment,
    tls::{Challenges, Files, Secret, Secured, Source},
};
use minato_state::{State, Write, sqlite};
use rustls::{ServerConfig, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{Acme, Config, Deps, Proof};

const NOW: Moment = Moment(1_790_000_000_000);
const HOST: &str = "shop.minato.dev";

/// What an authority answers: to a method and a path, with its own address, a status, headers and a body.
type Script = fn(&str, &str, SocketAddr) -> Answer;

enum Answer {
    Says(u16, &'static str, String),
    /// Nothing, ever.
    Stalls,
    /// Ever more.
    Floods,
    /// Half of a head.
    BreaksOff,
}

struct Authority {
    address: SocketAddr,
    root: CertificateDer<'static>,
    asked: Arc<AtomicUsize>,
}

#[expect(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]
async fn authority(script: Script) -> Authority {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let root = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![root.clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, count) = (acceptor.clone(), Arc::clone(&count));
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.ok()?;
                let mut head = Vec::new();
                while !head.windows(4).any(|four| four == b"\r\n\r\n") {
                    head.push(stream.read_u8().await.ok()?);
                }
                count.fetch_add(1, Ordering::Relaxed);
                let head = String::from_utf8(head).ok()?;
                let mut words = head.split(' ');
                match script(words.next()?, words.next()?, address) {
                    Answer::Says(status, headers, body) => {
                        let text = format!(
                            "HTTP/1.1 {status} X\r\nReplay-Nonce: abcd\r\nContent-Length: {}\r\n{headers}\r\n{body}",
                            body.len()
                        );
                        stream.write_all(text.as_bytes()).await.ok()?;
                        stream.shutdown().await.ok()
                    }
                    Answer::Stalls => std::future::pending().await,
                    Answer::Floods => {
                        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok()?;
                        loop {
                            stream.write_all(&[b' '; 4096]).await.ok()?;
                        }
                    }
                    Answer::BreaksOff => stream.write_all(b"HTTP/1.1 200").await.ok(),
                }
            });
        }
    });
    Authority { address, root, asked }
}

/// The edge and the journal, which write down what they are told.
#[derive(Default)]
struct Heard {
    secured: Mutex<Vec<Arc<Secured>>>,
    challenges: Mutex<Vec<Arc<Challenges>>>,
    events: Mutex<Vec<Event>>,
}

impl Routing for Heard {
    fn secure(&self, source: Source, secured: Arc<Secured>) {
        assert_eq!(source, Source::Acme);
        self.secured.lock().unwrap().push(secured);
    }

    fn challenge(&self, challenges: Arc<Challenges>) {
        self.challenges.lock().unwrap().push(challenges);
    }

    fn publish(&self, _: Arc<Table>) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
    fn admit(&self, _: Endpoint) {}
    fn introduce(&self, _: &InstanceId, _: &ServiceKey, _: std::net::Ipv4Addr) {}
    fn reach(&self, _: &InstanceId, _: std::os::fd::OwnedFd) {}
    fn withdraw(&self, _: &InstanceId) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
    fn quiet(&self, _: &InstanceId) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
    fn streams_over(&self, _: &InstanceId) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
    fn end_streams(&self, _: &InstanceId) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
    fn forget(&self, _: &InstanceId) {}
    fn refuse(&self, _: &ReleaseKey, _: Option<Refusal>) {}
    fn load(&self, _: &ReleaseKey) -> Load {
        Load::default()
    }
    fn traffic(&self, _: &InstanceId) -> Traffic {
        Traffic::default()
    }
}

impl Journal for Heard {
    fn record(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }
    fn read(&self, _: Option<u64>, _: usize) -> Vec<(u64, Event)> {
        Vec::new()
    }
    fn grown(&self, _: u64) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
}

/// A slice of a service with the host.
async fn declare(state: &dyn State) {
    let route = serde_json::json!({
        "hosts": [HOST], "paths": ["/"], "virtual_offset": 2, "port": 80, "protocol": "http", "calls": null,
        "timeout": { "secs": 1, "nanos": 0 }, "body_max": 1, "concurrency": 1, "concurrency_max": 1,
    });
    let slice = serde_json::json!({
        "service": "shop/web", "generation": 1, "route": route, "releases": [],
        "idle": { "secs": 1, "nanos": 0 }, "drain": { "secs": 1, "nanos": 0 }, "health": null,
    });
    let key = keys::slice(&"here".parse().unwrap(), &"shop/web".parse().unwrap());
    state.commit(Vec::new(), vec![Write::Put { key, value: slice.to_string().into_bytes() }]).await.unwrap();
}

struct Ground {
    folder: tempfile::TempDir,
    state: Arc<sqlite::Engine>,
    heard: Arc<Heard>,
    authority: Authority,
}

impl Ground {
    async fn new(script: Script) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = sqlite::Engine::open(folder.path(), sqlite::Config::default()).unwrap();
        declare(&*state).await;
        Self { folder, state, heard: Arc::default(), authority: authority(script).await }
    }

    fn acme(&self) -> Arc<Acme> {
        let config = Config {
            directory: format!("https://{}/directory", self.authority.address),
            contact: Vec::new(),
            hosts: None,
            roots: vec![self.authority.root.clone()],
            proof: Some(Proof::Http01),
            folder: self.folder.path().join("acme"),
            node: "here".parse().unwrap(),
        };
        let (state, routing, journal) =
            (self.state.clone() as _, self.heard.clone() as _, self.heard.clone() as _);
        Acme::open(config, Deps { state, routing, journal, clock: Arc::new(|| NOW) }).unwrap()
    }

    /// Runs until the first event, and until the turn is given back.
    async fn event(&self, acme: &Arc<Acme>) -> Event {
        let stop = CancellationToken::new();
        let told = async {
            loop {
                let event = self.heard.events.lock().unwrap().first().cloned();
                if let Some(event) = event
                    && self.state.get(keys::ACME_ORDER).await.unwrap().0.is_none()
                {
                    return event;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            event = told => event,
            () = Arc::clone(acme).run(stop) => unreachable!("it runs until it is told"),
        }
    }
}

fn says(status: u16, body: impl Into<String>) -> Answer {
    Answer::Says(status, "", body.into())
}

/// All that comes before an order's authorization.
fn usual(method: &str, path: &str, own: SocketAddr) -> Option<Answer> {
    let answer = match (method, path) {
        (_, "/directory") => says(
            200,
            format!(
                r#"{{"newNonce":"https://{own}/nonce","newAccount":"https://{own}/account","newOrder":"https://{own}/order"}}"#
            ),
        ),
        ("HEAD", "/nonce") => says(200, ""),
        (_, "/account") => {
            Answer::Says(201, "Location: https://127.0.0.1/me\r\n", "{\"status\":\"valid\"}".to_owned())
        }
        (_, "/order") => Answer::Says(
            201,
            "Location: https://127.0.0.1/order/1\r\n",
            format!(
                r#"{{"status":"pending","authorizations":["https://{own}/authorization"],"finalize":"https://{own}/finalize"}}"#
            ),
        ),
        _ => return None,
    };
    Some(answer)
}

fn authorization(identifier: &str, token: &str, own: SocketAddr) -> Answer {
    says(
        200,
        format!(
            r#"{{"status":"pending","identifier":{{"type":"dns","value":"{identifier}"}},"challenges":[{{"type":"http-01","url":"https://{own}/challenge","token":"{token}","status":"pending"}}]}}"#
        ),
    )
}

#[tokio::test]
async fn whatever_an_authority_says_a_host_is_told_why_and_the_next_try_waits() {
    let lies: [(&str, Script); 9] = [
        ("not valid JSON", |_, _, _| says(200, "<html>")),
        ("deep", |_, _, _| says(200, "[".repeat(100_000))),
        ("broken off", |_, _, _| Answer::BreaksOff),
        ("flood", |_, _, _| Answer::Floods),
        ("elsewhere", |_, _, _| {
            says(200, r#"{"newNonce":"http://127.0.0.1:1/","newAccount":"","newOrder":""}"#)
        }),
        ("rate limited", |method, path, own| match path {
            "/order" => says(429, r#"{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many"}"#),
            _ => usual(method, path, own).unwrap(),
        }),
        ("another host", |method, path, own| {
            usual(method, path, own).unwrap_or_else(|| authorization("victim.example", "abc", own))
        }),
        ("a token that is a path", |method, path, own| {
            usual(method, path, own).unwrap_or_else(|| authorization(HOST, "../../etc", own))
        }),
        ("a long token", |method, path, own| {
            usual(method, path, own).unwrap_or_else(|| authorization(HOST, &"a".repeat(5_000), own))
        }),
    ];
    for (lie, script) in lies {
        let ground = Ground::new(script).await;
        let acme = ground.acme();
        let event = tokio::time::timeout(Duration::from_secs(20), ground.event(&acme)).await.expect(lie);
        assert_eq!(event.kind, "acme_failed", "{lie}");
        assert!(event.reason.len() < 1_500, "{lie}: {}", event.reason);
        let known = acme.issuance(HOST).unwrap();
        assert!(known.leaf.is_none() && known.failure.is_some(), "{lie}");
        let waits = known.next.unwrap().since(NOW);
        let least = if lie == "rate limited" { 3_600 } else { 40 };
        assert!(waits >= Duration::from_secs(least), "{lie}: {waits:?}");
        let shown = ground.heard.challenges.lock().unwrap().last().cloned();
        assert!(shown.is_none_or(|last| *last == Challenges::default()), "{lie}: nothing is left in force");
        assert_eq!(
            ground.state.get(keys::ACME_ORDER).await.unwrap().0,
            None,
            "{lie}: the turn is given back"
        );
        let again = ground.acme().issuance(HOST).unwrap();
        assert_eq!(again, known, "{lie}: a server that starts again waits as well");
        assert_eq!(event.service.unwrap().as_str(), "web");
        let asked = ground.authority.asked.load(Ordering::Relaxed);
        assert!(asked < 20, "{lie}: {asked}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_stalls_is_given_up() {
    let ground = Ground::new(|_, _, _| Answer::Stalls).await;
    let acme = ground.acme();
    let begun = tokio::time::Instant::now();
    let event = ground.event(&acme).await;
    assert!(event.reason.contains("no answer within 30 s"), "{}", event.reason);
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[tokio::test]
async fn what_a_host_has_is_presented_from_the_start_and_stays_whatever_comes() {
    let ground = Ground::new(|_, _, _| says(500, "no")).await;
    let mut params = rcgen::CertificateParams::new([HOST.to_owned()]).unwrap();
    let at = |moment: Moment| rcgen::date_time_ymd(1970, 1, 1) + moment.since(Moment(0));
    // At 80 of 90 days it is due, and not over.
    let begins = Moment(NOW.0 - 80 * 86_400_000);
    (params.not_before, params.not_after) = (at(begins), at(begins.plus(Duration::from_secs(90 * 86_400))));
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    let kept = Files {
        certificate: Some(certificate),
        key: Some(Secret::new(key.serialize_pem())),
        client_ca: None,
    };
    let leaf = files::read(&kept).unwrap().presented.certificate;
    let folder = ground.folder.path().join("acme");
    crate::store::Store::open(&folder).unwrap().keep(HOST, &kept).unwrap();
    let acme = ground.acme();
    assert_eq!(ground.heard.secured.lock().unwrap()[0].certificates[0].hosts, [HOST]);
    let event = ground.event(&acme).await;
    assert_eq!(event.kind, "acme_failed", "it is due");
    let known = acme.issuance(HOST).unwrap();
    assert_eq!(known.leaf, leaf);
    assert!(known.failure.is_some());
    assert_eq!(ground.heard.secured.lock().unwrap().len(), 1, "nothing else is presented");
}
