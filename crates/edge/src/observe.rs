//! What is counted of each request, and what is read from it.
//!
//! Every edge thread counts for itself, in memory of its own, so that threads never wait for one another's
//! cache lines; whoever reads adds them up.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use minato_model::{ids::ReleaseKey, routing::Flow};

use crate::log::Desk;

mod text;

pub(crate) use text::{Gauges, render};

/// Statuses with a counter of their own; the others share a map.
const COMMON: [u16; 16] = [200, 201, 202, 204, 206, 301, 302, 303, 304, 400, 401, 403, 404, 500, 502, 503];
/// Upper bounds of the buckets, in microseconds.
const BUCKETS: [u64; 15] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    5_000_000, 30_000_000,
];

/// What one release's requests came to.
#[derive(Debug)]
pub(crate) struct Stats {
    /// One for each edge thread, written by it alone.
    stripes: Box<[Stripe]>,
    /// Requests tried again. Seldom, so all threads share it.
    retries: AtomicU64,
}

/// Two lines of a cache at a time are what processors fetch.
#[repr(align(128))]
#[derive(Debug, Default)]
struct Stripe {
    common: [AtomicU64; COMMON.len()],
    buckets: [AtomicU64; BUCKETS.len() + 1],
    sum: AtomicU64,
    /// At most as many entries as there are statuses.
    others: Mutex<BTreeMap<u16, u64>>,
}

impl Stats {
    pub(crate) fn new(threads: usize) -> Self {
        Self { stripes: (0..threads).map(|_| Stripe::default()).collect(), retries: AtomicU64::new(0) }
    }

    /// A request of an edge thread ended after so many microseconds. No other thread says so in this
    /// one's name.
    pub(crate) fn count(&self, thread: usize, status: u16, micros: u64) {
        let Some(stripe) = self.stripes.get(thread) else { return };
        let common = COMMON.iter().position(|code| *code == status).and_then(|at| stripe.common.get(at));
        if let Some(counter) = common {
            add(counter, 1);
        } else {
            *stripe.others.lock().unwrap_or_else(PoisonError::into_inner).entry(status).or_default() += 1;
        }
        let bucket = BUCKETS.iter().position(|bound| micros <= *bound).unwrap_or(BUCKETS.len());
        if let Some(counter) = stripe.buckets.get(bucket) {
            add(counter, 1);
        }
        add(&stripe.sum, micros);
    }

    pub(crate) fn retried(&self) {
        self.retries.fetch_add(1, Relaxed);
    }

    pub(crate) fn retries(&self) -> u64 {
        self.retries.load(Relaxed)
    }

    /// How many there were of each status.
    pub(crate) fn codes(&self) -> BTreeMap<u16, u64> {
        let mut codes = BTreeMap::new();
        for stripe in &self.stripes {
            let others = stripe.others.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let common =
                COMMON.iter().zip(&stripe.common).map(|(code, counter)| (*code, counter.load(Relaxed)));
            for (code, count) in common.filter(|(_, count)| *count > 0).chain(others) {
                *codes.entry(code).or_default() += count;
            }
        }
        codes
    }

    /// How many took as long as each bucket says, and longer than the one before.
    pub(crate) fn buckets(&self) -> [u64; BUCKETS.len() + 1] {
        let mut sums = [0; BUCKETS.len() + 1];
        for stripe in &self.stripes {
            for (sum, counter) in sums.iter_mut().zip(&stripe.buckets) {
                *sum += counter.load(Relaxed);
            }
        }
        sums
    }

    /// The same as the agent reads it.
    pub(crate) fn flow(&self) -> Flow {
        let codes = self.codes();
        let bounds = BUCKETS.into_iter().chain([u64::MAX]);
        Flow {
            requests: codes.values().sum(),
            errors: codes.range(500..600).map(|(_, count)| count).sum(),
            retries: self.retries(),
            tripped: 0,
            durations: bounds.zip(self.buckets()).collect(),
        }
    }

    /// Microseconds of all together.
    fn sum(&self) -> u64 {
        self.stripes.iter().map(|stripe| stripe.sum.load(Relaxed)).sum()
    }
}

/// Adds to what only this thread writes.
fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(more), Relaxed);
}

/// Figures of the edge as a whole.
#[derive(Debug)]
pub(crate) struct Totals {
    /// Requests that no service was found for, or that weren't fit to be passed on.
    pub(crate) unrouted: Stats,
    /// The access log's.
    pub(crate) log: Arc<Desk>,
    /// Streams that didn't end by themselves: their instance, or the edge, went away.
    pub(crate) streams_ended: AtomicU64,
    /// Handshakes with instances: whole, of sessions that were resumed, in vain.
    pub(crate) handshakes: [AtomicU64; 3],
    /// Handshakes with clients, likewise.
    pub(crate) at_door: [AtomicU64; 3],
    /// Connections accepted.
    pub(crate) accepted: AtomicU64,
    /// Connections to instances, of each edge thread.
    upstream: Box<[AtomicUsize]>,
    /// Why requests came to something else than an instance's whole answer; one map for each edge thread,
    /// with as many entries as there are reasons.
    flags: Box<[Mutex<BTreeMap<&'static str, u64>>]>,
}

impl Totals {
    pub(crate) fn new(threads: usize) -> Self {
        Self {
            unrouted: Stats::new(threads),
            log: Arc::default(),
            streams_ended: AtomicU64::new(0),
            handshakes: [const { AtomicU64::new(0) }; 3],
            at_door: [const { AtomicU64::new(0) }; 3],
            accepted: AtomicU64::new(0),
            upstream: (0..threads).map(|_| AtomicUsize::new(0)).collect(),
            flags: (0..threads).map(|_| Mutex::default()).collect(),
        }
    }

    /// How many connections to instances an edge thread has.
    pub(crate) fn set_upstream(&self, thread: usize, connections: usize) {
        if let Some(upstream) = self.upstream.get(thread) {
            upstream.store(connections, Relaxed);
        }
    }

    /// Connections to instances, a second ago at most.
    fn upstream(&self) -> usize {
        self.upstream.iter().map(|upstream| upstream.load(Relaxed)).sum()
    }

    /// A request of an edge thread came to something else than an instance's whole answer.
    pub(crate) fn flag(&self, thread: usize, flag: &'static str) {
        if let Some(flags) = self.flags.get(thread) {
            *flags.lock().unwrap_or_else(PoisonError::into_inner).entry(flag).or_default() += 1;
        }
    }

    fn flags(&self) -> BTreeMap<&'static str, u64> {
        let mut sums = BTreeMap::new();
        for flags in &self.flags {
            for (flag, count) in &*flags.lock().unwrap_or_else(PoisonError::into_inner) {
                *sums.entry(*flag).or_default() += count;
            }
        }
        sums
    }
}

/// Figures of one release.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures<'a> {
    pub(crate) key: &'a ReleaseKey,
    pub(crate) stats: &'a Stats,
    /// Streams that are open.
    pub(crate) streams: u32,
    /// Requests that instances have.
    pub(crate) in_flight: u32,
    /// Times that an instance was passed over for a while.
    pub(crate) ejections: u64,
    /// Those that are passed over now.
    pub(crate) tripped: u32,
    /// Tries that would have been too many.
    pub(crate) over_budget: u64,
    /// Of plain TCP: connections, bytes from clients, bytes to them.
    pub(crate) tcp: [u64; 3],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_count_for_themselves_and_are_added_up() {
        let stats = Stats::new(2);
        stats.count(0, 200, 500);
        stats.count(1, 200, 40_000_000);
        stats.count(1, 418, 1_000);
        stats.count(2, 200, 1);
        assert_eq!(stats.codes(), BTreeMap::from([(200, 2), (418, 1)]));
        let buckets = stats.buckets();
        assert_eq!(
            (buckets[2], buckets[3], buckets[BUCKETS.len()], buckets.iter().sum::<u64>()),
            (1, 1, 1, 3)
        );
        assert_eq!(stats.sum(), 40_001_500);
        assert_eq!(align_of::<Stripe>(), 128);
    }
}
