//! A release as the edge sees it: its instances that may be given requests, and what it carries.
//!
//! Invariant: a place on an instance is held by exactly one [`Lease`], which gives it back when it
//! is dropped and hands it to who waits longest.

use std::sync::{
    Arc, Mutex, OnceLock, PoisonError,
    atomic::{
        AtomicBool, AtomicU32, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};

use arc_swap::ArcSwap;
use http::StatusCode;
use minato_model::{
    ids::ReleaseKey,
    route::Route,
    routing::{Flow, Load, Refusal, Wake},
};

use crate::{
    balance::{self, Algorithm, Method, Room, Seeker, Targets},
    clock::{Clock, Micros},
    hold::Queue,
    load::Peaks,
    observe::Stats,
    outlier::Outliers,
    shed::Carried,
    target::Target,
};

/// A release that requests may go to.
pub(crate) struct Release {
    pub(crate) key: ReleaseKey,
    pub(crate) clock: Clock,
    wake: Arc<dyn Wake>,
    targets: ArcSwap<Targets>,
    /// The edge's own.
    zone: Option<Arc<str>>,
    /// How its requests are spread, packed.
    method: AtomicU64,
    /// Whether the routes in force name it: else it is neither waited for nor woken.
    serves: AtomicBool,
    streams: AtomicU32,
    concurrency: AtomicU32,
    concurrency_max: AtomicU32,
    counts: Counts,
    pub(crate) waiting: AtomicU32,
    pub(crate) queue: Mutex<Queue>,
    /// The need that the agent was last told of, while it lasts.
    announced: AtomicU32,
    peaks: Peaks,
    stats: OnceLock<Box<Stats>>,
    /// Times that one of its instances was passed over for a while.
    pub(crate) ejections: AtomicU64,
    pub(crate) tcp: Tcp,
    pub(crate) outliers: Outliers,
    /// Tries after a request's first, and those that would have been too many.
    pub(crate) repeated: AtomicU64,
    pub(crate) over_budget: AtomicU64,
}

/// What each of its requests writes, by itself in memory, as with an instance's.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Counts {
    in_flight: AtomicU32,
    /// Requests that hold a place or wait for one. Counted by itself: the sum of the two would be
    /// one too many while a place is handed to who waits, and start an instance too many.
    total: AtomicU32,
    draws: AtomicU64,
    /// Whose turn it is, where each has its turn.
    turn: AtomicU64,
}

/// Connections of plain TCP, and what they carried.
#[derive(Debug, Default)]
pub(crate) struct Tcp {
    pub(crate) connections: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
}

impl Tcp {
    /// Connections, bytes from clients, bytes to them.
    pub(crate) fn figures(&self) -> [u64; 3] {
        [&self.connections, &self.received, &self.sent].map(|count| count.load(Relaxed))
    }
}

/// Why no instance of a release takes a request.
pub(crate) enum Shortage {
    /// None runs yet.
    Starting,
    /// None runs, and this is what the last start came to.
    Failed(Refusal),
    /// All refuse connections.
    Refusing,
    /// So many run, and each has as many requests as it may.
    Busy(usize),
}

/// A place on an instance.
pub(crate) struct Lease {
    release: Arc<Release>,
    target: Arc<Target>,
    stream: bool,
    /// Whether it decides about the instance's breaker.
    pub(crate) probe: bool,
}

impl Release {
    pub(crate) fn new(key: ReleaseKey, clock: Clock, wake: Arc<dyn Wake>) -> Self {
        Self {
            key,
            clock,
            wake,
            targets: ArcSwap::default(),
            zone: None,
            method: AtomicU64::new(0),
            serves: AtomicBool::new(false),
            streams: AtomicU32::new(0),
            concurrency: AtomicU32::new(1),
            concurrency_max: AtomicU32::new(1),
            counts: Counts::default(),
            waiting: AtomicU32::new(0),
            queue: Mutex::default(),
            announced: AtomicU32::new(0),
            peaks: Peaks::default(),
            stats: OnceLock::new(),
            ejections: AtomicU64::new(0),
            tcp: Tcp::default(),
            outliers: Outliers::default(),
            repeated: AtomicU64::new(0),
            over_budget: AtomicU64::new(0),
        }
    }

    /// The same, as an edge in this zone sees it.
    pub(crate) fn seen_from(self, zone: Option<Arc<str>>) -> Self {
        Self { zone, ..self }
    }

    /// Takes over how its requests are spread, and how much its instances may carry.
    pub(crate) fn configure(&self, route: &Route) {
        let concurrency = route.concurrency.max(1);
        self.concurrency.store(concurrency, SeqCst);
        self.concurrency_max.store(route.concurrency_max.max(concurrency), SeqCst);
        self.method.store(Method::of(&route.traffic).pack(), Relaxed);
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.shedder.set_timeout(route.timeout);
        drop(queue);
        self.outliers.configure(&route.traffic);
    }

    /// Lets requests wait for it, or no more. Those that do already have to be scattered.
    pub(crate) fn serve(&self, serves: bool) {
        self.serves.store(serves, SeqCst);
    }

    pub(crate) fn serves(&self) -> bool {
        self.serves.load(SeqCst)
    }

    /// Streams that its instances carry.
    pub(crate) fn streams(&self) -> u32 {
        self.streams.load(SeqCst)
    }

    /// What it counted at an edge of so many threads; made with its first request.
    pub(crate) fn stats(&self, threads: usize) -> &Stats {
        self.stats.get_or_init(|| Box::new(Stats::new(threads)))
    }

    /// What it counted, if it ever had a request.
    pub(crate) fn stats_if_any(&self) -> Option<&Stats> {
        self.stats.get().map(AsRef::as_ref)
    }

    /// What has come of its requests.
    pub(crate) fn flow(&self) -> Flow {
        let flow = self.stats_if_any().map(Stats::flow).unwrap_or_default();
        let passed_over =
            |target: &&Arc<Target>| !target.breaker.is_admitting() || target.is_suspended(self.clock);
        let tripped = self.targets.load().iter().filter(passed_over).count();
        Flow { tripped: u32::try_from(tripped).unwrap_or(u32::MAX), ..flow }
    }

    /// Why none of its instances has taken a request that waited until now.
    pub(crate) fn shortage(&self) -> Shortage {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let targets = self.targets.load();
        if targets.is_empty() {
            return queue.failure().cloned().map_or(Shortage::Starting, Shortage::Failed);
        }
        let refusing = targets.iter().filter(|target| target.is_suspended(self.clock)).count();
        if refusing == targets.len() { Shortage::Refusing } else { Shortage::Busy(targets.len() - refusing) }
    }

    /// A place, if there is one and nobody waits for it already; `key` is what tells the client apart, where
    /// that decides.
    pub(crate) fn lease(self: &Arc<Self>, avoid: Option<u64>, key: Option<u64>) -> Option<Lease> {
        if self.waiting.load(SeqCst) > 0 {
            return None;
        }
        let lease = self.pick(avoid, key)?;
        self.rose();
        Some(lease)
    }

    /// A place, even though others may wait.
    pub(crate) fn pick(self: &Arc<Self>, avoid: Option<u64>, key: Option<u64>) -> Option<Lease> {
        let room =
            Room { concurrency: self.concurrency.load(SeqCst), most: self.concurrency_max.load(SeqCst) };
        let targets = self.targets.load();
        let seeker = Seeker {
            method: self.method(),
            room,
            clock: self.clock,
            avoid,
            key,
            random: balance::mix(self.counts.draws.fetch_add(1, Relaxed)),
            turn: &self.counts.turn,
        };
        let target = Arc::clone(balance::pick(&targets, &seeker)?);
        self.counts.in_flight.fetch_add(1, SeqCst);
        let probe = target.breaker.is_probing();
        Some(Lease { release: Arc::clone(self), target, stream: false, probe })
    }

    pub(crate) fn targets(&self) -> Arc<Targets> {
        self.targets.load_full()
    }

    /// Requests that were given to an instance, tries after the first among them.
    pub(crate) fn given(&self) -> u64 {
        self.counts.draws.load(Relaxed)
    }

    /// An instance fails its probes: the agent replaces it.
    pub(crate) fn is_failing(&self, target: &Target) {
        self.wake.failing(&target.endpoint.instance);
    }

    fn method(&self) -> Method {
        Method::unpack(self.method.load(Relaxed))
    }

    /// Lets requests go to an instance, first those that wait.
    pub(crate) fn admit(self: &Arc<Self>, target: &Arc<Target>) {
        {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.admitted(self.clock.now());
            self.change(|targets| targets.push(Arc::clone(target)));
        }
        self.dispatch();
    }

    /// Lets no more requests go to an instance.
    pub(crate) fn withdraw(&self, target: &Target) {
        {
            // The queue's lock: whoever hands out places to waiters is through, or comes after.
            let _queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            target.withdraw();
            self.change(|targets| targets.retain(|other| other.serial != target.serial));
            self.leave_none_shut();
        }
        self.reconsider();
    }

    /// Only under the queue's lock.
    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Target>>)) {
        let mut targets = self.targets.load().to_vec();
        change(&mut targets);
        self.targets.store(Arc::new(Targets::new(targets, self.zone.as_deref())));
    }

    /// What it carries while so many wait.
    pub(crate) fn carried(&self, waiting: u32) -> Carried {
        Carried { waiting, in_flight: self.counts.in_flight.load(SeqCst).saturating_sub(self.streams()) }
    }

    /// Whether another instance of it is on its way.
    pub(crate) fn is_starting(&self) -> bool {
        self.wake.is_starting(&self.key)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.targets.load().is_empty() && self.counts.total.load(SeqCst) == 0
    }

    pub(crate) fn load(&self) -> Load {
        let in_flight = self.counts.in_flight.load(SeqCst);
        let waiting = self.waiting.load(SeqCst);
        let total = self.counts.total.load(SeqCst);
        let now = self.clock.now();
        Load { in_flight, waiting, peak: self.peaks.peak(now).max(total), idle: self.peaks.idle(now, total) }
    }

    /// `ceil((in flight + waiting) / concurrency)`.
    fn need(&self, total: u32) -> u32 {
        total.div_ceil(self.concurrency.load(SeqCst))
    }

    /// A request came: tells the agent, if that needs more instances.
    pub(crate) fn rose(&self) {
        let total = self.counts.total.fetch_add(1, SeqCst) + 1;
        self.peaks.note(self.clock.recent(), total);
        self.announce(total);
    }

    /// A request is done with.
    pub(crate) fn fell(&self) {
        let before = self.counts.total.fetch_sub(1, SeqCst);
        self.peaks.note(self.clock.recent(), before);
        let need = self.need(before.saturating_sub(1));
        if need < self.announced.load(SeqCst) {
            self.announced.store(need, SeqCst);
            // What rose in between was measured against the higher figure.
            self.announce(self.counts.total.load(SeqCst));
        }
    }

    fn announce(&self, total: u32) {
        let need = self.need(total);
        if need > self.announced.load(SeqCst) && self.announced.fetch_max(need, SeqCst) < need {
            self.ask();
        }
    }

    /// There are fewer instances, or the limits are others: tells the agent what is needed now.
    pub(crate) fn reconsider(&self) {
        self.announced.store(self.need(self.counts.total.load(SeqCst)), SeqCst);
        self.ask();
    }

    /// Asks for instances if there are too few. What a withdrawn one still carries needs no other.
    fn ask(&self) {
        if !self.serves() {
            return;
        }
        let total = self.counts.total.load(SeqCst);
        let targets = self.targets.load();
        let carried: u32 = targets.iter().map(|target| target.in_flight()).sum();
        let need = self.need(total.min(carried + self.waiting.load(SeqCst)));
        if need > u32::try_from(targets.len()).unwrap_or(u32::MAX) {
            self.wake.wake(&self.key, need);
        }
    }
}

impl std::fmt::Debug for Release {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Release").field("key", &self.key).field("load", &self.load()).finish_non_exhaustive()
    }
}

impl Lease {
    pub(crate) fn target(&self) -> &Arc<Target> {
        &self.target
    }

    pub(crate) fn release(&self) -> &Arc<Release> {
        &self.release
    }

    /// The instance began to answer.
    pub(crate) fn answered(&self, status: StatusCode) {
        if status.is_server_error() {
            self.target.failed();
        }
        self.judge(status);
        if self.target.answered(self.release.clock.recent()) {
            // It may be given more now.
            self.release.dispatch();
        }
    }

    /// What the instance was asked came to something after so long: an answer, or a failure of its own.
    pub(crate) fn took(&self, since: Micros, answered: bool) {
        if self.release.method().algorithm == Algorithm::Ewma {
            let now = self.release.clock.now();
            self.target.latency.measured(now, now.saturating_sub(since), answered);
        }
    }

    /// The answer may last.
    pub(crate) fn begin_stream(&mut self) {
        if !self.stream {
            self.stream = true;
            self.release.streams.fetch_add(1, SeqCst);
            self.target.begin_stream();
        }
    }

    /// Gives the place back without having used it.
    pub(crate) fn return_unused(self) {
        self.target.unused();
    }

    /// Connecting was refused: the agent looks, and until then the instance is passed over.
    pub(crate) fn refused(self) {
        let until = self.target.suspend(self.release.clock);
        self.release.ejections.fetch_add(1, Relaxed);
        self.release.wake.suspect(&self.target.endpoint.instance);
        self.failed();
        let release = Arc::clone(&self.release);
        let at = release.clock.instant(until);
        // Who waits is looked after when the moment is over, should the agent find nothing wrong.
        drop(tokio::task::spawn_local(async move {
            tokio::time::sleep_until(at).await;
            release.dispatch();
        }));
        self.return_unused();
    }

    /// The connection broke before an answer: the agent looks.
    pub(crate) fn broke(&self) {
        self.release.wake.suspect(&self.target.endpoint.instance);
    }

    /// It isn't who it should be: the agent is told why.
    pub(crate) fn distrusted(&self, reason: &str) {
        let (instance, release) = (&self.target.endpoint.instance, &self.target.endpoint.release);
        if self.target.terms.is_news(reason) {
            tracing::warn!(%instance, %release, reason, "an instance is not trusted");
        }
        self.release.wake.distrust(instance, reason);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.stream {
            self.release.streams.fetch_sub(1, SeqCst);
        }
        if self.probe && self.target.breaker.is_probing() {
            // Its client left, or it was never sent: nothing was decided.
            self.target.breaker.probe_over();
        }
        self.target.give_back(self.stream);
        self.release.counts.in_flight.fetch_sub(1, SeqCst);
        self.release.fell();
        self.release.dispatch();
    }
}
