//! Which instance of a release gets a request, among those that have room.
//!
//! Whatever the algorithm, the order is the same: those of the edge's own zone up to what each is
//! meant to hold, then those of others, then beyond that whoever has shown that it answers, and at
//! last the one to avoid. Who is passed over for a while gets nothing.

mod ewma;
mod hash;
mod least_request;
mod round_robin;
mod slow_start;
mod targets;

use std::sync::{Arc, atomic::AtomicU64};

use minato_model::traffic::{Balance, Policy};

pub(crate) use self::{ewma::Latency, slow_start::Rise, targets::Targets};
use crate::{
    clock::{Clock, Micros, micros},
    target::Target,
};

/// How much an instance may be given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// What it is meant to hold.
    pub(crate) concurrency: u32,
    /// What it may hold once it has shown that it answers.
    pub(crate) most: u32,
}

/// How the requests of a service are spread. The default is all zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Method {
    pub(crate) algorithm: Algorithm,
    /// For how long a new instance's part rises.
    pub(crate) slow_start: Micros,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Algorithm {
    #[default]
    LeastRequest,
    Ewma,
    RoundRobin,
    Hash,
}

impl Method {
    pub(crate) fn of(policy: &Policy) -> Self {
        let algorithm = match policy.balance {
            Balance::LeastRequest => Algorithm::LeastRequest,
            Balance::Ewma => Algorithm::Ewma,
            Balance::RoundRobin => Algorithm::RoundRobin,
            Balance::Hash(_) => Algorithm::Hash,
        };
        Self { algorithm, slow_start: micros(policy.slow_start) }
    }

    /// As one word, which can be read and replaced at any time.
    pub(crate) fn pack(self) -> u64 {
        let algorithm = match self.algorithm {
            Algorithm::LeastRequest => 0,
            Algorithm::Ewma => 1,
            Algorithm::RoundRobin => 2,
            Algorithm::Hash => 3,
        };
        self.slow_start << 2 | algorithm
    }

    pub(crate) fn unpack(word: u64) -> Self {
        let algorithm = match word & 3 {
            0 => Algorithm::LeastRequest,
            1 => Algorithm::Ewma,
            2 => Algorithm::RoundRobin,
            _ => Algorithm::Hash,
        };
        Self { algorithm, slow_start: word >> 2 }
    }
}

/// A request that looks for an instance.
pub(crate) struct Seeker<'a> {
    pub(crate) method: Method,
    pub(crate) room: Room,
    pub(crate) clock: Clock,
    /// Taken only where it is the last.
    pub(crate) avoid: Option<u64>,
    /// What tells its client apart, where that decides.
    pub(crate) key: Option<u64>,
    pub(crate) random: u64,
    /// Whose turn it is.
    pub(crate) turn: &'a AtomicU64,
}

/// A look at some instances under one limit.
struct Search<'a> {
    seeker: &'a Seeker<'a>,
    /// Beyond what instances are meant to hold.
    beyond: bool,
    /// Only where the time matters.
    now: Micros,
}

/// Takes a place on an instance; `None`: none has room.
pub(crate) fn pick<'t>(targets: &'t Targets, seeker: &Seeker<'_>) -> Option<&'t Arc<Target>> {
    let timed = seeker.method.slow_start != 0 || seeker.method.algorithm == Algorithm::Ewma;
    pick_at(targets, seeker, if timed { seeker.clock.recent() } else { 0 })
}

fn pick_at<'t>(targets: &'t Targets, seeker: &Seeker<'_>, now: Micros) -> Option<&'t Arc<Target>> {
    let within = Search { seeker, beyond: false, now };
    let beyond = Search { seeker, beyond: true, now };
    if let (Algorithm::Hash, Some(key)) = (seeker.method.algorithm, seeker.key) {
        // The same instance from every zone.
        let chosen = hash::choose(targets, key, &within).or_else(|| hash::choose(targets, key, &beyond));
        return chosen.or_else(|| last(targets, seeker));
    }
    let (near, far) = targets.by_distance();
    within
        .choose(near)
        .or_else(|| within.choose(far))
        .or_else(|| beyond.choose(targets))
        .or_else(|| last(targets, seeker))
}

/// Rather the one to avoid than none.
fn last<'t>(targets: &'t Targets, seeker: &Seeker<'_>) -> Option<&'t Arc<Target>> {
    let last = targets.iter().find(|target| Some(target.serial) == seeker.avoid)?;
    (!last.is_suspended(seeker.clock) && last.take(seeker.room.concurrency)).then_some(last)
}

impl Search<'_> {
    fn choose<'t>(&self, targets: &'t [Arc<Target>]) -> Option<&'t Arc<Target>> {
        match self.seeker.method.algorithm {
            // Without a key nothing is lost by the best choice there is.
            Algorithm::LeastRequest | Algorithm::Hash => least_request::choose(targets, self),
            Algorithm::Ewma => ewma::choose(targets, self),
            Algorithm::RoundRobin => round_robin::choose(targets, self),
        }
    }

    /// How much the instance may carry, if it may be given more.
    fn open(&self, target: &Target) -> Option<u32> {
        let Seeker { room, avoid, clock, .. } = *self.seeker;
        let limit = match self.beyond {
            false => room.concurrency,
            true if target.has_answered() => room.most,
            true => return None,
        };
        (target.in_flight() < limit && Some(target.serial) != avoid && !target.is_suspended(clock))
            .then_some(limit)
    }

    /// Whether some may get less than their part for a while.
    fn has_slow_start(&self) -> bool {
        self.seeker.method.slow_start != 0
    }

    /// The part that an instance gets of its own, of [`slow_start::WHOLE`].
    fn part(&self, target: &Target) -> u32 {
        target.rise.part(self.now, self.seeker.method.slow_start)
    }
}

/// One step of splitmix64 (Steele, Lea, Flood 2014): even bits from a counter.
pub(crate) fn mix(counter: u64) -> u64 {
    let mut z = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
