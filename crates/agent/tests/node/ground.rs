//! A node of its own for each test, in a network of its own, and the taking away of both.

use std::{
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering},
    },
    time::Duration,
};

use minato_agent::{Agent, Config, Deps, events::FileJournal};
use minato_identity::{Authority, Lifetimes};
use minato_image::pack::{Blob, PackRequest, Packed, pack};
use minato_model::{
    digest::Digest,
    event::{Event, Journal},
    ids::{Generation, InstanceId, NodeName, ReleaseKey},
    inventory::{Instance, InstanceState, Report, Standing},
    keys,
    manifest::{Protocol, Resources},
    network::AddressPlan,
    node::NodeView,
    release::{Release, ReleaseSpec},
    route::{Endpoint, Route},
    slice::{Share, Slice},
    time::Moment,
};
use minato_network::NodeId8;
use minato_registry::{Library, Limits};
use minato_state::{State, Write, sqlite};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{edge::Edge, outage::Sometimes};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(20);

static NEXT: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Ground {
    _folder: tempfile::TempDir,
    pub(crate) state: Arc<sqlite::Engine>,
    pub(crate) library: Arc<Library>,
    pub(crate) authority: Arc<Authority>,
    /// How far the node's clock is ahead of the machine's, in milliseconds.
    pub(crate) ahead: Arc<AtomicI64>,
    /// Whether the cluster state is away, for the agent.
    pub(crate) away: Arc<AtomicBool>,
    pub(crate) edge: Arc<Edge>,
    pub(crate) journal: Arc<FileJournal>,
    pub(crate) image: Digest,
    config: Config,
}

/// Runs a test on a node. Every thread of its runtime is in a network that goes with them.
pub(crate) fn run<F: Future<Output = ()>>(test: impl FnOnce(Ground) -> F) {
    leave_the_hosts_network();
    let ground = Ground::new();
    // Dropped after the runtime: an agent that is still there would start another keeper.
    let _clean = Clean { id: ground.config.id, data: ground.config.data.clone() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let folder = ground.config.data.clone();
    runtime.block_on(async {
        if timeout(PATIENCE * 3, test(ground)).await.is_err() {
            panic!("the test took too long; the keeper: {}", keeper_log(&folder));
        }
    });
}

/// Takes away what a test that failed has left.
struct Clean {
    id: NodeId8,
    data: PathBuf,
}

impl Drop for Clean {
    fn drop(&mut self) {
        minato_runtime::keeper::clean(&self.id.to_string(), &self.data).unwrap();
    }
}

fn keeper_log(data: &Path) -> String {
    fs::read_to_string(data.join("keeper/log")).unwrap_or_default()
}

impl Ground {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        let packed = busybox(folder.path());
        packed.blobs().for_each(|blob| store(&data, blob));
        store_bytes(&data, &packed.digest, &mut packed.manifest.as_slice());
        let config = Config {
            node: "here".parse().unwrap(),
            // No two at a time have the same process id, of at most 22 bits.
            id: NodeId8::new((std::process::id() << 10) | NEXT.fetch_add(1, Ordering::Relaxed)),
            plan: AddressPlan::new(Ipv4Addr::new(10, 201, 0, 0)),
            exe: PathBuf::from(env!("CARGO_BIN_EXE_minato-agent-keeper")),
            pool: 64,
            data: data.clone(),
            zone: Some("a".to_owned()),
            baseline_after: minato_agent::BASELINE_AFTER,
        };
        let ahead = Arc::default();
        let lifetimes = Lifetimes::default();
        let authority = Authority::open(&data.join("identity"), &config.node, lifetimes, clock_of(&ahead));
        Self {
            authority: authority.unwrap(),
            ahead,
            away: Arc::default(),
            state: sqlite::Engine::open(&data.join("state.db"), sqlite::Config::default()).unwrap(),
            library: Library::open(&data.join("registry"), Limits::default()).unwrap(),
            edge: Arc::default(),
            journal: FileJournal::open(&data.join("events")).unwrap(),
            image: packed.digest,
            config,
            _folder: folder,
        }
    }

    pub(crate) fn data(&self) -> &Path {
        &self.config.data
    }

    /// What the node's clock says.
    pub(crate) fn now(&self) -> Moment {
        clock_of(&self.ahead)()
    }

    pub(crate) fn id(&self) -> String {
        self.config.id.to_string()
    }

    pub(crate) fn node(&self) -> NodeName {
        self.config.node.clone()
    }

    /// A server's agent, as it starts.
    pub(crate) async fn agent(&self) -> Arc<Agent> {
        let deps = Deps {
            state: Arc::new(Sometimes { state: Arc::clone(&self.state), away: Arc::clone(&self.away) }),
            library: Arc::clone(&self.library),
            routing: Arc::clone(&self.edge) as _,
            authority: Arc::clone(&self.authority),
            journal: Arc::clone(&self.journal) as _,
            clock: clock_of(&self.ahead),
        };
        Agent::start(self.config.clone(), deps).await.unwrap()
    }

    /// A slice of `shop/cart` with one release of this number, which runs this.
    pub(crate) fn slice(&self, generation: u64, number: u32, command: &[&str]) -> Slice {
        let spec = ReleaseSpec {
            digest: self.image.clone(),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            env: [("LOG".to_owned(), "info".to_owned())].into(),
            user: String::new(),
            port: 8080,
            protocol: Protocol::Http,
            writable: vec!["/var/cache".to_owned()],
            init: true,
            resources: Resources {
                cpu_millis: 500,
                cpu_max_millis: 0,
                memory: 64 << 20,
                pids: 64,
                files: 1024,
                scratch: 4 << 20,
            },
        };
        let release = Release {
            number,
            hash: minato_image::digest::of(&spec.canonical()).hex().to_owned(),
            spec,
            image: "shop/cart:1".parse().unwrap(),
            created_at: Moment(0),
        };
        Slice {
            service: key(number).service,
            generation: Generation(generation),
            route: Route {
                hosts: vec!["cart.localhost".to_owned()],
                paths: vec!["/".to_owned()],
                virtual_offset: 2,
                port: 8080,
                protocol: Protocol::Http,
                calls: None,
                timeout: Duration::from_secs(30),
                body_max: 1 << 20,
                concurrency: 10,
                concurrency_max: 40,
                listen: None,
                tls: Default::default(),
                traffic: minato_model::traffic::Policy::default(),
            },
            releases: vec![Share { release, weight: 1, min: 0, max: 3 }],
            idle: Duration::from_secs(60),
            drain: Duration::from_secs(5),
            drain_streams: Duration::from_secs(1),
            recycle: minato_model::manifest::Recycle::default(),
            health: None,
        }
    }

    pub(crate) async fn apply(&self, slice: &Slice) {
        let key = keys::slice(&self.config.node, &slice.service);
        let put = Write::Put { key, value: serde_json::to_vec(slice).unwrap() };
        self.state.commit(Vec::new(), vec![put]).await.unwrap();
    }

    pub(crate) async fn report(&self) -> Option<Report> {
        let key = keys::report(&self.config.node, &key(1).service);
        let (item, _) = self.state.get(&key).await.unwrap();
        item.map(|item| serde_json::from_slice(&item.value).unwrap())
    }

    /// Waits until the report on a release is so.
    pub(crate) async fn standing(&self, number: u32, is: impl Fn(&Standing) -> bool) -> Standing {
        let found = async || {
            let report = self.report().await?;
            report.releases.into_iter().find(|standing| standing.number == number).filter(|s| is(s))
        };
        self.until("standing", found).await
    }

    /// Waits until so many instances are admitted.
    pub(crate) async fn admitted(&self, count: usize) -> Vec<Endpoint> {
        let found = async || {
            let admitted: Vec<Endpoint> = self.edge.seen().admitted.values().cloned().collect();
            // Edges tell by it which instances are near.
            assert!(admitted.iter().all(|endpoint| endpoint.zone.as_deref() == Some("a")));
            Some(admitted).filter(|admitted| admitted.len() == count)
        };
        self.until("admitted", found).await
    }

    /// Waits until nothing of the node is there any more, as the edge was told.
    pub(crate) async fn forgotten(&self) {
        let found = async || self.edge.seen().introduced.is_empty().then_some(());
        self.until("forgotten", found).await;
    }

    pub(crate) async fn until<T>(&self, what: &str, found: impl AsyncFn() -> Option<T>) -> T {
        let look = async {
            loop {
                if let Some(found) = found().await {
                    return found;
                }
                sleep(Duration::from_millis(2)).await;
            }
        };
        let Ok(found) = timeout(PATIENCE, look).await else {
            let events: Vec<String> =
                self.events().iter().map(|e| format!("{} {} {}", e.kind, e.reason, e.data)).collect();
            panic!("not {what}: {events:#?}\n{}", keeper_log(&self.config.data));
        };
        found
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.journal.read(None, 1000).into_iter().map(|(_, event)| event).collect()
    }

    /// The kinds of all events of an instance, in order.
    pub(crate) fn kinds(&self, id: &InstanceId) -> Vec<String> {
        let events = self.events().into_iter();
        events.filter(|event| event.instance.as_ref() == Some(id)).map(|event| event.kind).collect()
    }
}

pub(crate) fn key(number: u32) -> ReleaseKey {
    ReleaseKey { service: "shop/cart".parse().unwrap(), number }
}

pub(crate) async fn instance(agent: &Agent, state: InstanceState) -> Option<Instance> {
    agent.instances().await.into_iter().find(|instance| instance.state == state)
}

/// What an instance answers to `GET path`.
pub(crate) async fn get(endpoint: &Endpoint, path: &str) -> String {
    let mut stream = TcpStream::connect((endpoint.address, endpoint.port)).await.unwrap();
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// An image of busybox with a page and a health page, which serves both.
fn busybox(folder: &Path) -> Packed {
    let busybox = Path::new("/bin/busybox");
    assert!(busybox.exists(), "these tests need /bin/busybox: apt-get install busybox-static");
    let root = folder.join("root");
    for folder in ["bin", "etc", "www", "var/cache"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    for name in ["sh", "httpd", "nc", "sleep", "env", "cat"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
    fs::write(root.join("www/index.html"), "hello from the cart\n").unwrap();
    let command = ["/bin/httpd", "-f", "-p", "8080", "-h", "/www"];
    let request = PackRequest {
        source: root,
        entrypoint: command.map(str::to_owned).to_vec(),
        ..PackRequest::default()
    };
    pack(&request).unwrap()
}

fn store(data: &Path, blob: &Blob) {
    store_bytes(data, &blob.digest, &mut *blob.open().unwrap());
}

/// Puts content where the registry keeps it.
fn store_bytes(data: &Path, digest: &Digest, content: &mut dyn io::Read) {
    let folder = data.join("registry/blobs").join(digest.algorithm().name()).join(&digest.hex()[..2]);
    fs::create_dir_all(&folder).unwrap();
    io::copy(content, &mut fs::File::create(folder.join(digest.hex())).unwrap()).unwrap();
}

fn clock_of(ahead: &Arc<AtomicI64>) -> minato_agent::Clock {
    let ahead = Arc::clone(ahead);
    Arc::new(move || Moment(clock().0 + ahead.load(Ordering::Relaxed)))
}

fn clock() -> Moment {
    #[expect(clippy::disallowed_methods, reason = "the test owns the time of day, and takes the real one")]
    let now = std::time::SystemTime::now();
    Moment(i64::try_from(now.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis()).unwrap())
}

/// This thread and all that it starts get a network of their own, which goes with them.
fn leave_the_hosts_network() {
    // SAFETY: no descriptor or memory is shared or parted; this thread's later sockets are elsewhere.
    #[expect(unsafe_code, reason = "a flag that parts descriptors would be unsound; this one doesn't")]
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
}
