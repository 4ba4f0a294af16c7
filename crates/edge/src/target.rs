//! An instance as the edge sees it: what it carries now, and whether it may be given more.

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use minato_model::{route::Endpoint, routing::Traffic};
use tokio::sync::Notify;

use crate::{
    balance::{Latency, Rise},
    breaker::Breaker,
    clock::{Clock, Micros, micros},
    key,
    upstream::tls::Place,
};

/// How long an instance that refused a connection is passed over at first; doubles with each
/// refusal in a row. Short, because only the agent's look decides about it.
const SUSPENSION: Duration = Duration::from_millis(50);
/// The longest.
const SUSPENSION_DOUBLINGS: u32 = 5;

/// When it answered last is known so exactly, in microseconds.
const ANSWERED_STEP: Micros = 1_000;

/// An instance that was admitted.
#[derive(Debug)]
pub(crate) struct Target {
    /// Unique in this process: an instance admitted again is another target.
    pub(crate) serial: u64,
    pub(crate) endpoint: Endpoint,
    pub(crate) admitted_at: Micros,
    /// What hashing places it by: the same on every node.
    pub(crate) seed: u64,
    /// Since when it is given its part.
    pub(crate) rise: Rise,
    pub(crate) latency: Latency,
    counts: Counts,
    /// For each edge thread, since when the oldest of its requests waits for an answer; 0: none does.
    pub(crate) oldest: Box<[AtomicU64]>,
    withdrawn: AtomicBool,
    suspended_until: AtomicU64,
    refusals: AtomicU32,
    /// A withdrawn one carries less.
    quieter: Notify,
    streams_end: AtomicBool,
    ending: Notify,
    pub(crate) breaker: Breaker,
    /// How it is spoken to over TLS.
    pub(crate) terms: Place,
    /// Its network namespace, until it is withdrawn: an open descriptor of it keeps it.
    door: Mutex<Option<Arc<OwnedFd>>>,
}

/// What each of its requests writes, by itself in memory: all threads do, and what they only read shall not
/// go from one to the other with it.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Counts {
    carried: AtomicU64,
    requests: AtomicU64,
    errors: AtomicU64,
    /// When an answer began last, to the millisecond; 0: it gave none yet.
    answered_at: AtomicU64,
}

/// What an instance carries, in one word of memory: streams in the upper half, all requests in the
/// lower.
#[derive(Debug, Clone, Copy)]
struct Carried(u64);

const STREAM: u64 = 1 << 32;

impl Carried {
    fn in_flight(self) -> u32 {
        u32::try_from(self.0 % STREAM).unwrap_or(u32::MAX)
    }

    fn streams(self) -> u32 {
        u32::try_from(self.0 / STREAM).unwrap_or(u32::MAX)
    }
}

impl Target {
    /// An instance that was admitted just now, to an edge of so many threads.
    pub(crate) fn new(serial: u64, endpoint: Endpoint, admitted_at: Micros, threads: usize) -> Self {
        Self {
            serial,
            seed: key::hash(endpoint.instance.as_str().as_bytes()),
            endpoint,
            admitted_at,
            rise: Rise::from(admitted_at),
            latency: Latency::default(),
            counts: Counts::default(),
            oldest: (0..threads).map(|_| AtomicU64::new(0)).collect(),
            withdrawn: AtomicBool::new(false),
            suspended_until: AtomicU64::new(0),
            refusals: AtomicU32::new(0),
            quieter: Notify::new(),
            streams_end: AtomicBool::new(false),
            ending: Notify::new(),
            breaker: Breaker::default(),
            terms: Place::default(),
            door: Mutex::default(),
        }
    }

    /// The same, reached from within its network namespace.
    pub(crate) fn behind(mut self, namespace: Option<Arc<OwnedFd>>) -> Self {
        self.door = Mutex::new(namespace);
        self
    }

    /// Its network namespace, if that is known and it may have new connections.
    pub(crate) fn door(&self) -> Option<Arc<OwnedFd>> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn carried(&self) -> Carried {
        Carried(self.counts.carried.load(SeqCst))
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.carried().in_flight()
    }

    /// Takes a place if fewer than `limit` are taken.
    pub(crate) fn take(&self, limit: u32) -> bool {
        if !self.breaker.enter() {
            return false;
        }
        let more = |carried| (Carried(carried).in_flight() < limit).then(|| carried + 1);
        let taken = self.counts.carried.fetch_update(SeqCst, SeqCst, more).is_ok();
        if taken {
            self.counts.requests.fetch_add(1, SeqCst);
        } else if self.breaker.is_probing() {
            self.breaker.probe_over();
        }
        taken
    }

    /// Requests that it has been given, and those of them that it failed.
    pub(crate) fn figures(&self) -> [u64; 2] {
        [self.counts.requests.load(Relaxed), self.counts.errors.load(Relaxed)]
    }

    /// The same of the last ten seconds, without those that it still has.
    pub(crate) fn lately(&self) -> [u64; 2] {
        let [given, failed] = self.breaker.window.grown(self.figures());
        [given.saturating_sub(u64::from(self.in_flight())), failed]
    }

    /// It gets its part again, from nothing where parts rise.
    pub(crate) fn recovered(&self, now: Micros) {
        self.rise.anew(now);
    }

    /// What has a place turns out to be a stream.
    pub(crate) fn begin_stream(&self) {
        self.counts.carried.fetch_add(STREAM, SeqCst);
        self.became_quieter();
    }

    /// Gives a place back, that of a stream or another.
    pub(crate) fn give_back(&self, stream: bool) {
        self.counts.carried.fetch_sub(if stream { STREAM + 1 } else { 1 }, SeqCst);
        self.became_quieter();
    }

    fn became_quieter(&self) {
        if self.is_withdrawn() {
            self.quieter.notify_waiters();
        }
    }

    /// A place was taken, but never used.
    pub(crate) fn unused(&self) {
        self.counts.requests.fetch_sub(1, SeqCst);
    }

    /// It began to answer: it works. Whether it may be given more than before because of it.
    pub(crate) fn answered(&self, now: Micros) -> bool {
        let recovered = self.refusals.load(SeqCst) != 0;
        if recovered {
            self.refusals.store(0, SeqCst);
            self.suspended_until.store(0, SeqCst);
            self.rise.anew(now);
        }
        let last = self.counts.answered_at.load(SeqCst);
        let first = last == 0 && self.counts.answered_at.swap(now, SeqCst) == 0;
        if now > last + ANSWERED_STEP {
            self.counts.answered_at.store(now, Relaxed);
        }
        first || recovered
    }

    pub(crate) fn has_answered(&self) -> bool {
        self.counts.answered_at.load(SeqCst) != 0
    }

    /// It failed a request: gave no answer, or a 5xx.
    pub(crate) fn failed(&self) {
        self.counts.errors.fetch_add(1, SeqCst);
    }

    pub(crate) fn withdraw(&self) {
        self.withdrawn.store(true, SeqCst);
        self.door.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.quieter.notify_waiters();
    }

    pub(crate) fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(SeqCst)
    }

    /// Resolves when it has been withdrawn.
    pub(crate) async fn until_withdrawn(&self) {
        // Made before the look: from here on no word is missed.
        let told = self.quieter.notified();
        if !self.is_withdrawn() {
            told.await;
        }
    }

    /// Passes it over for a moment, because it refused a connection; returns until when.
    pub(crate) fn suspend(&self, clock: Clock) -> Micros {
        let refusals = self.refusals.fetch_add(1, SeqCst);
        let until = clock.now() + (micros(SUSPENSION) << refusals.min(SUSPENSION_DOUBLINGS));
        self.suspended_until.fetch_max(until, SeqCst);
        until
    }

    /// Whether it is passed over now: it refused a connection just before, or its breaker is open.
    pub(crate) fn is_suspended(&self, clock: Clock) -> bool {
        let until = self.suspended_until.load(Relaxed);
        (until != 0 && until > clock.recent()) || self.breaker.is_shut(|| clock.recent())
    }

    /// Resolves when it carries nothing but streams.
    pub(crate) async fn quiet(&self) {
        self.carries(|carried| carried.in_flight() == carried.streams()).await;
    }

    /// Resolves when it carries no stream.
    pub(crate) async fn streams_over(&self) {
        self.carries(|carried| carried.streams() == 0).await;
    }

    async fn carries(&self, so: impl Fn(Carried) -> bool) {
        loop {
            let changed = self.quieter.notified();
            if so(self.carried()) {
                return;
            }
            changed.await;
        }
    }

    /// Lets its streams end, those that begin later too.
    pub(crate) fn end_streams(&self) {
        self.streams_end.store(true, SeqCst);
        self.ending.notify_waiters();
    }

    pub(crate) fn must_streams_end(&self) -> bool {
        self.streams_end.load(SeqCst)
    }

    /// Resolves when its streams shall end.
    pub(crate) async fn streams_end(&self) {
        let ending = self.ending.notified();
        if !self.must_streams_end() {
            ending.await;
        }
    }

    pub(crate) fn traffic(&self, clock: Clock) -> Traffic {
        let now = clock.now();
        let since = |at: Micros| Duration::from_micros(now.saturating_sub(at));
        let waits = self.oldest.iter().map(|at| at.load(Relaxed)).filter(|at| *at != 0);
        let answered_at = self.counts.answered_at.load(SeqCst);
        let carried = self.carried();
        Traffic {
            requests: self.counts.requests.load(SeqCst),
            in_flight: carried.in_flight(),
            streams: carried.streams(),
            errors: self.counts.errors.load(SeqCst),
            oldest: waits.min().map(since),
            answered: (answered_at != 0).then(|| since(answered_at)),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn target(serial: u64) -> Target {
        let endpoint = Endpoint {
            instance: format!("i{serial}").parse().unwrap(),
            release: minato_model::ids::ReleaseKey { service: "shop/web".parse().unwrap(), number: 1 },
            address: std::net::Ipv4Addr::LOCALHOST,
            port: 1,
            cold: None,
            pooled: None,
            zone: None,
            protocol: None,
        };
        Target::new(serial, endpoint, 1, 1)
    }

    #[tokio::test(start_paused = true)]
    async fn a_suspension_ends_by_itself_and_grows() {
        let clock = Clock::start();
        let target = target(1);
        let first = target.suspend(clock) - clock.now();
        let second = target.suspend(clock) - clock.now();
        assert_eq!(second, 2 * first);
        assert!(target.is_suspended(clock));
        tokio::time::advance(SUSPENSION * 3).await;
        assert!(!target.is_suspended(clock));
    }
}
