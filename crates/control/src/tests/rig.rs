//! A control with everything around it: SQLite's state, images by tag, and a node whose agent is
//! played: it reports what a real one would, of instances that don't exist.
#![expect(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use minato_identity::{Bundle, Tokens, Trust};
use minato_model::{
    BoxFuture,
    code::{Code, Problem},
    digest::Digest,
    event::{Event, Journal},
    ids::{AppName, InstanceId, NodeName, ReleaseNumber, ServiceKey},
    images::{Images, ResolvedImage},
    inventory::{Failure, Instance, InstanceState, Preparation, Report, Standing},
    keys,
    network::AddressPlan,
    node::{Life, LogLine, LogQuery, NodeRecord, NodeView, Nodes, Phases},
    plan::Plan,
    reference::ImageReference,
    slice::Slice,
    time::Moment,
    top::{InstanceTop, Machine, PhaseTop, Pool, Process, ServiceTop, Starts, Top, Used},
};
use minato_state::{Write, list_all, sqlite};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    Control, Deps, Roots,
    apply::{self, Applied, File, Wishes},
    status::{self, RolloutStatus},
    world::World,
};

pub(super) const NOW: Moment = Moment(1_790_000_000_000);
pub(super) const TOKEN: &str = "0123456789abcdef";

/// How the played node treats an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// It exits at once.
    Crashes,
    /// It is never ready, and never fails.
    Hangs,
    /// It can't be unpacked.
    Unpackable,
    /// It is being unpacked, for ever.
    Unpacks,
}

/// What the test says of the world, and what the world was seen to do.
#[derive(Default)]
pub(super) struct Play {
    /// How much later than [`NOW`] control's clock is.
    pub(super) later: Duration,
    images: BTreeMap<String, ResolvedImage>,
    manners: BTreeMap<Digest, Manner>,
    /// How many instances each service's requests keep busy.
    load: BTreeMap<ServiceKey, u32>,
    events: Vec<Event>,
    /// Weights of releases, in the order in which they came, of each service.
    weights: BTreeMap<ServiceKey, Vec<Vec<(ReleaseNumber, u32)>>>,
}

pub(super) struct Surroundings {
    play: Mutex<Play>,
    grown: Notify,
}

impl Images for Surroundings {
    fn resolve(&self, reference: &ImageReference) -> BoxFuture<'_, Result<ResolvedImage, Problem>> {
        let found = self.play.lock().unwrap().images.get(&reference.to_string()).cloned();
        let missing = format!("there is no image {reference}");
        Box::pin(async move { found.ok_or_else(|| Problem::new(Code::ImageMissing, missing)) })
    }
}

impl Journal for Surroundings {
    fn record(&self, event: Event) {
        self.play.lock().unwrap().events.push(event);
        self.grown.notify_waiters();
    }

    fn read(&self, after: Option<u64>, limit: usize) -> Vec<(u64, Event)> {
        let events = self.play.lock().unwrap().events.clone();
        let numbered = (1u64..).zip(events).filter(|(number, _)| after.is_none_or(|after| *number > after));
        let mut found: Vec<_> = numbered.collect();
        match after {
            None => found.drain(..found.len().saturating_sub(limit)).for_each(drop),
            Some(_) => found.truncate(limit),
        }
        found
    }

    fn grown(&self, above: u64) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            loop {
                let waiting = self.grown.notified();
                if self.play.lock().unwrap().events.len() as u64 > above {
                    return;
                }
                waiting.await;
            }
        })
    }
}

impl Nodes for Surroundings {
    fn all(&self) -> Vec<(NodeName, Arc<dyn NodeView>)> {
        vec![(node(), Arc::new(View))]
    }
}

struct View;

impl NodeView for View {
    fn instances(&self) -> BoxFuture<'_, Vec<Instance>> {
        Box::pin(async { vec![instance()] })
    }

    fn life(&self, id: &InstanceId) -> BoxFuture<'_, Option<Life>> {
        let known = id.as_str().starts_with("crashed") || id.as_str() == "instance01";
        Box::pin(async move {
            known.then(|| Life {
                instance: instance(),
                asked_by: "request".to_owned(),
                pooled: Some(true),
                slot_ms: Some(0.05),
                phases: Phases {
                    taken: Some(0.1),
                    mounted: Some(0.25),
                    executed: Some(1.5),
                    listening: None,
                },
                end: Some("exit status 3".to_owned()),
                last_lines: vec!["no such database".to_owned()],
                findings: vec!["it listens on 127.0.0.1 only".to_owned()],
            })
        })
    }

    fn logs(&self, query: LogQuery) -> BoxFuture<'_, Vec<LogLine>> {
        Box::pin(async move {
            let first = query.after.map_or(0, |after| after.line + 1);
            (first..first + 2)
                .map(|line| LogLine {
                    position: minato_model::node::LogPosition { at: NOW, instance: instance().id, line },
                    release: 1,
                    stream: minato_model::node::Stream::Stdout,
                    text: format!("line {line}"),
                })
                .collect()
        })
    }

    fn metrics(&self) -> String {
        "minato_instances{state=\"ready\"} 1\n".to_owned()
    }

    fn top(&self) -> BoxFuture<'_, Top> {
        Box::pin(async { top() })
    }
}

/// A look at the node, with one of everything.
fn top() -> Top {
    let Instance { id, app, service, release, state, .. } = instance();
    let used = Used { cpu: Some(0.25), memory: Some(9 << 20), requests: 7, in_flight: 1, ..Used::default() };
    let (app_, service_) = (app.clone(), service.clone());
    Top {
        node: node(),
        at: NOW,
        since_ms: Some(2_000),
        machine: Machine::default(),
        server: Process::default(),
        keeper: Some(Process::default()),
        pool: Pool::default(),
        starts: Starts {
            phases: vec![PhaseTop { phase: "taken".to_owned(), p50_ms: 0.1, p99_ms: 3.0 }],
            ..Starts::default()
        },
        held: 0,
        services: vec![ServiceTop {
            app: app_,
            service: service_,
            instances: 1,
            ready: 1,
            tripped: 0,
            held: 0,
            ended: Some(10.0),
            error_share: Some(0.1),
            p50_ms: Some(1.5),
            p99_ms: Some(20.0),
            retries: Some(0.0),
            used,
        }],
        at_rest: 2,
        instances: vec![InstanceTop {
            id,
            app,
            service,
            release,
            state,
            age_ms: 60_000,
            memory_max: 128 << 20,
            pids_max: 256,
            used,
        }],
    }
}

pub(super) fn instance() -> Instance {
    Instance {
        id: "instance01".parse().unwrap(),
        app: "shop".parse().unwrap(),
        service: "web".parse().unwrap(),
        release: 1,
        image: digest(1),
        state: InstanceState::Ready,
        reason: "a request came".to_owned(),
        address: None,
        node: node(),
        pid: Some(4711),
        started_at: NOW,
        requests: 7,
        in_flight: 1,
        identity: None,
    }
}

pub(super) fn node() -> NodeName {
    "node-1".parse().unwrap()
}

pub(super) fn key(text: &str) -> ServiceKey {
    text.parse().unwrap()
}

pub(super) fn digest(n: u8) -> Digest {
    format!("sha256:{}", format!("{n:02x}").repeat(32)).parse().unwrap()
}

pub(super) struct Rig {
    pub(super) control: Control,
    pub(super) world: Arc<Surroundings>,
    pub(super) state: Arc<sqlite::Engine>,
    folder: Arc<tempfile::TempDir>,
    stop: CancellationToken,
    _ends_with_it: DropGuard,
}

impl Rig {
    /// With a node and running reconcilers.
    pub(super) async fn start() -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let play = Mutex::default();
        Self::with(folder, Arc::new(Surroundings { play, grown: Notify::new() })).await
    }

    async fn with(folder: Arc<tempfile::TempDir>, world: Arc<Surroundings>) -> Self {
        let path: PathBuf = folder.path().join("state.db");
        let state = sqlite::Engine::open(&path, sqlite::Config::default()).unwrap();
        let clock = Arc::clone(&world);
        let control = Control::new(Deps {
            state: Arc::clone(&state) as _,
            nodes: Arc::clone(&world) as _,
            images: Arc::clone(&world) as _,
            journal: Arc::clone(&world) as _,
            clock: Arc::new(move || NOW.plus(clock.play.lock().unwrap().later)),
            extra_metrics: Arc::new(|| "extra 1\n".to_owned()),
            tokens: Arc::new(Tokens::new(TOKEN, Arc::new(|| NOW))),
            allowed_hosts: Vec::new(),
            http: Some("127.0.0.1:8080".parse().unwrap()),
            https: Some("127.0.0.1:8443".parse().unwrap()),
            issuance: None,
            roots: Roots { cluster: "minato-0a1b2c3d".to_owned(), trust: roots() },
        });
        let stop = CancellationToken::new();
        join(&*state).await;
        tokio::spawn(agent(Arc::clone(&state), Arc::clone(&world), stop.clone()));
        let (running, token) = (control.clone(), stop.clone());
        tokio::spawn(async move { running.run(token).await });
        Self { control, world, state, folder, _ends_with_it: stop.clone().drop_guard(), stop }
    }

    /// As after a `kill -9`: nothing in memory is left, the state is.
    pub(super) async fn restart(self) -> Self {
        self.stop.cancel();
        self.state.close().await;
        Self::with(Arc::clone(&self.folder), Arc::clone(&self.world)).await
    }

    pub(super) fn play<T>(&self, change: impl FnOnce(&mut Play) -> T) -> T {
        change(&mut self.world.play.lock().unwrap())
    }

    /// Gives a tag an image.
    pub(super) fn image(&self, reference: &str, n: u8) {
        self.play(|play| {
            play.images.insert(
                reference.to_owned(),
                ResolvedImage {
                    digest: digest(n),
                    user: String::new(),
                    ports: vec![8080],
                    volumes: Vec::new(),
                    has_command: true,
                },
            )
        });
    }

    pub(super) fn manner(&self, n: u8, manner: Option<Manner>) {
        self.play(|play| match manner {
            Some(manner) => play.manners.insert(digest(n), manner),
            None => play.manners.remove(&digest(n)),
        });
    }

    pub(super) fn load(&self, service: &str, instances: u32) {
        self.play(|play| play.load.insert(key(service), instances));
    }

    pub(super) fn weights(&self, service: &str) -> Vec<Vec<(ReleaseNumber, u32)>> {
        self.play(|play| play.weights.get(&key(service)).cloned().unwrap_or_default())
    }

    pub(super) fn events(&self, kind: &str) -> Vec<Event> {
        self.play(|play| play.events.iter().filter(|event| event.kind == kind).cloned().collect())
    }

    pub(super) async fn try_apply(&self, text: &str, wishes: Wishes) -> Result<Applied, Problem> {
        apply::apply(&self.control.core, &files(text), &wishes).await
    }

    /// Applies what must be applied; gives the changes as `action what`.
    pub(super) async fn apply(&self, text: &str) -> Vec<String> {
        changes(&self.try_apply(text, Wishes::default()).await.unwrap().plans)
    }

    pub(super) async fn plan(&self, text: &str) -> Plan {
        apply::plan(&self.control.core, &files(text)).await.unwrap().remove(0)
    }

    pub(super) async fn delete(&self, app: &str) -> Result<Vec<String>, Problem> {
        let app: AppName = app.parse().unwrap();
        Ok(changes(&apply::delete(&self.control.core, &app).await?))
    }

    pub(super) async fn read(&self) -> World {
        World::read(&*self.state).await.unwrap()
    }

    pub(super) async fn slice(&self, service: &str) -> Option<Slice> {
        let world = self.read().await;
        world.slices.into_iter().find(|(place, _)| place.service == key(service)).map(|(_, kept)| kept.value)
    }

    pub(super) async fn status(&self, service: &str) -> status::ServiceStatus {
        let world = self.read().await;
        let key = key(service);
        let declared = world.service(&key).unwrap().clone();
        status::status(&self.control.core, &world, &key, &declared).await.unwrap()
    }

    /// Waits until the service's status fits.
    pub(super) async fn until(&self, service: &str, fits: impl Fn(&status::ServiceStatus) -> bool) {
        let looked = async {
            while !fits(&self.status(service).await) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(20), looked).await.is_err() {
            panic!("{service} is {:?}", self.status(service).await);
        }
    }

    /// Waits until the roll-out fits.
    pub(super) async fn rollout(
        &self,
        service: &str,
        fits: impl Fn(&RolloutStatus) -> bool,
    ) -> RolloutStatus {
        let looked = async {
            loop {
                if let Some(rollout) = self.status(service).await.rollout.filter(&fits) {
                    return rollout;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        match tokio::time::timeout(Duration::from_secs(20), looked).await {
            Ok(rollout) => rollout,
            Err(_) => panic!("the roll-out of {service} is {:?}", self.status(service).await),
        }
    }

    /// Waits until this release is stable, and all that it replaced is gone.
    pub(super) async fn stable(&self, service: &str, release: ReleaseNumber) {
        self.rollout(service, |rollout| rollout.state == "stable" && rollout.release == release).await;
    }
}

pub(super) fn files(text: &str) -> Vec<File> {
    vec![File { name: "shop.toml".to_owned(), text: text.to_owned(), tls: BTreeMap::new() }]
}

fn changes(plans: &[Plan]) -> Vec<String> {
    let all = plans.iter().flat_map(|plan| &plan.changes);
    all.map(|change| {
        let action = serde_json::to_value(change.action).unwrap();
        format!("{} {}", action.as_str().unwrap(), change.what)
    })
    .collect()
}

/// The node says who it is.
async fn join(state: &dyn minato_state::State) {
    let record = NodeRecord {
        name: node(),
        platform: "linux/amd64".to_owned(),
        network: AddressPlan::new([10, 77, 0, 0].into()),
        version: "0".to_owned(),
        started_at: NOW,
    };
    put(state, keys::node(&node()), &record).await;
}

async fn put(state: &dyn minato_state::State, key: String, value: &impl serde::Serialize) {
    let value = serde_json::to_vec(value).unwrap();
    state.commit(Vec::new(), vec![Write::Put { key, value }]).await.unwrap();
}

/// Plays the agent: whatever the node is told is so at once, and is reported.
async fn agent(state: Arc<sqlite::Engine>, world: Arc<Surroundings>, stop: CancellationToken) {
    let state: &dyn minato_state::State = &*state;
    while !stop.is_cancelled() {
        let Ok((slices, _)) = list_all(state, &keys::slices_of(&node())).await else { return };
        let Ok((reports, _)) = list_all(state, &keys::reports_of(&node())).await else { return };
        let mut told = BTreeSet::new();
        for item in slices {
            let slice: Slice = serde_json::from_slice(&item.value).unwrap();
            let report = world.report(&slice);
            let place = keys::report(&node(), &slice.service);
            let value = serde_json::to_vec(&report).unwrap();
            if !reports.iter().any(|item| item.key == place && item.value == value) {
                let write = Write::Put { key: place.clone(), value };
                if state.commit(Vec::new(), vec![write]).await.is_err() {
                    return;
                }
            }
            told.insert(place);
        }
        for gone in reports.into_iter().filter(|item| !told.contains(&item.key)) {
            if state.commit(Vec::new(), vec![Write::Delete { key: gone.key }]).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

impl Surroundings {
    fn report(&self, slice: &Slice) -> Report {
        let mut play = self.play.lock().unwrap();
        let weights: Vec<_> =
            slice.releases.iter().map(|share| (share.release.number, share.weight)).collect();
        assert!(
            weights.iter().any(|(_, weight)| *weight > 0),
            "{} has nowhere to go: {weights:?}",
            slice.service
        );
        let seen = play.weights.entry(slice.service.clone()).or_default();
        if seen.last() != Some(&weights) {
            seen.push(weights);
        }
        let load = play.load.get(&slice.service).copied().unwrap_or(0);
        let standing = |share: &minato_model::slice::Share| {
            let manner = play.manners.get(&share.release.spec.digest).copied();
            let needed = if share.weight > 0 { load.max(share.min) } else { share.min };
            let wanted = needed.min(share.max);
            let failing = (manner == Some(Manner::Crashes) && wanted > 0).then(|| Failure {
                // Another one each time that it is tried.
                instance: format!("crashed{}", slice.generation).parse().unwrap(),
                code: Code::Exited,
                reason: "it exited with status 3".to_owned(),
                at: NOW,
                in_a_row: 3,
                next: Some(NOW.plus(Duration::from_secs(5))),
            });
            let preparation = match manner {
                Some(Manner::Unpackable) => {
                    Preparation::Failed { code: Code::ImageRefused, reason: "a device in layer 1".to_owned() }
                }
                Some(Manner::Unpacks) => Preparation::Preparing,
                _ => Preparation::Prepared,
            };
            let running = if manner.is_some() { 0 } else { wanted };
            Standing { number: share.release.number, preparation, ready: running, running, failing }
        };
        let releases = slice.releases.iter().map(standing).collect();
        Report { service: slice.service.clone(), generation: slice.generation, releases }
    }
}

/// A bundle of one root.
fn roots() -> Trust {
    let key = rcgen::KeyPair::generate().unwrap();
    let root = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    Arc::new(Bundle::new(7, vec![root.into()]).unwrap()).into()
}
