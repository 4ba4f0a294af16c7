//! How many requests a client may send: the generic cell rate algorithm (ITU-T I.371, annex A), for
//! each client by itself.
//!
//! Of a client one figure is kept: the time at which its next request would come if it kept to its
//! rate, the "theoretical arrival time". A client whose time has passed is like one that was never seen,
//! so that whoever keeps to its rate costs nothing for long.
//!
//! The memory has a bound: 65,536 clients of a service, 1 MiB; it grows up to that only as clients come.
//! Where a new one finds no room, the one goes that has the least of its limit in use. So inventing
//! clients pushes out others who were invented: to have one forgotten that is over its limit takes as
//! many others in its set that are over it too, and which those are can't be known, for the hash has a
//! key of its own. Who is forgotten has its limit anew, and nobody is refused for what others did.

use std::{
    hash::{BuildHasher as _, Hash, RandomState},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use minato_model::traffic::{Rate, RateKey};

/// Nanoseconds since the edge started.
pub(crate) type Nanos = u64;

/// Parts with a lock of their own: more than there are edge threads, so that they seldom meet.
const SHARDS: usize = 16;
/// Clients that share a set; the least of them gives way.
const WAYS: usize = 8;
/// The most sets of a shard: with the two above, 65,536 clients.
const SETS_MAX: usize = 512;

/// The limit of one service, for all edge threads.
pub(crate) struct Limiter {
    rate: Rate,
    meter: Meter,
    /// That of the service as a whole.
    whole: AtomicU64,
    clients: Box<[Mutex<Shard>]>,
    hasher: RandomState,
}

impl Limiter {
    pub(crate) fn new(rate: Rate) -> Self {
        let shards = if rate.per == RateKey::Route { 0 } else { SHARDS };
        Self {
            meter: Meter::of(&rate),
            rate,
            whole: AtomicU64::new(0),
            clients: (0..shards).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
        }
    }

    pub(crate) fn rate(&self) -> &Rate {
        &self.rate
    }

    /// Counts a request of the service; or says when the next one may come.
    pub(crate) fn pass(&self, now: Nanos) -> Result<(), Duration> {
        let mut refused = None;
        let next = |time| match self.meter.next(time, now) {
            Ok(time) => Some(time),
            Err(wait) => {
                refused = Some(wait);
                None
            }
        };
        match self.whole.fetch_update(Relaxed, Relaxed, next) {
            Ok(_) => Ok(()),
            Err(_) => Err(refused.unwrap_or_default()),
        }
    }

    /// Counts a request of one client; or says when its next one may come.
    pub(crate) fn pass_client(&self, client: impl Hash, now: Nanos) -> Result<(), Duration> {
        let tag = self.hasher.hash_one(client);
        // The upper bits choose the shard, the lower ones the set.
        let shard = usize::try_from(tag >> 60).ok().and_then(|at| self.clients.get(at % SHARDS));
        let Some(shard) = shard else { return self.pass(now) };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let time = shard.time(tag, now);
        *time = self.meter.next(*time, now)?;
        Ok(())
    }
}

impl std::fmt::Debug for Limiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limiter").field("rate", &self.rate).finish_non_exhaustive()
    }
}

/// A limit as the algorithm wants it.
#[derive(Debug, Clone, Copy)]
struct Meter {
    /// From one request to the next at the steady rate.
    interval: Nanos,
    /// How much earlier than that a request may come.
    tolerance: Nanos,
}

impl Meter {
    fn of(rate: &Rate) -> Self {
        let every = u64::try_from(rate.every.as_nanos()).unwrap_or(u64::MAX / 4);
        let limit = u64::from(rate.limit.max(1));
        let interval = (every / limit).max(1);
        Self { interval, tolerance: interval.saturating_mul(limit - 1) }
    }

    /// The time after a request that passes now; or how long until one would pass.
    fn next(self, time: Nanos, now: Nanos) -> Result<Nanos, Duration> {
        let time = time.max(now);
        match time.saturating_sub(self.tolerance).checked_sub(now) {
            None | Some(0) => Ok(time.saturating_add(self.interval)),
            Some(early) => Err(Duration::from_nanos(early)),
        }
    }
}

/// A client: the hash of what tells it apart, and its time.
#[derive(Debug, Clone, Copy, Default)]
struct Client {
    tag: u64,
    time: Nanos,
}

/// A part of the clients, in sets.
#[derive(Debug, Default)]
struct Shard {
    /// A power of two of them, or none.
    sets: Vec<[Client; WAYS]>,
}

impl Shard {
    /// The client's time; one that isn't known is put in.
    fn time(&mut self, tag: u64, now: Nanos) -> &mut Nanos {
        while self.sets.is_empty() || (self.sets.len() < SETS_MAX && !self.has_room(tag, now)) {
            self.grow(now);
        }
        let at = self.set_of(tag);
        let client = place(&mut self.sets[at], tag, now);
        if client.tag != tag {
            *client = Client { tag, time: 0 };
        }
        &mut client.time
    }

    fn set_of(&self, tag: u64) -> usize {
        // Of 64 bits the lowest are as good as any.
        usize::try_from(tag % u64::try_from(self.sets.len().max(1)).unwrap_or(1)).unwrap_or(0)
    }

    /// Whether the client is known, or pushes out nobody who counts.
    fn has_room(&self, tag: u64, now: Nanos) -> bool {
        self.sets[self.set_of(tag)].iter().any(|client| client.tag == tag || client.time <= now)
    }

    /// Doubles the sets, and takes over who counts. Both parts of a set find room for all of it.
    fn grow(&mut self, now: Nanos) {
        let larger = vec![[Client::default(); WAYS]; (self.sets.len() * 2).max(1)];
        for client in std::mem::replace(&mut self.sets, larger).into_iter().flatten() {
            if client.time > now {
                let at = self.set_of(client.tag);
                *place(&mut self.sets[at], client.tag, now) = client;
            }
        }
    }
}

/// Where the client is; or else where it may be put: in place of who has the least of its limit in use.
fn place(set: &mut [Client; WAYS], tag: u64, now: Nanos) -> &mut Client {
    let known = set.iter().position(|client| client.tag == tag && client.time > now);
    let least = || (0..WAYS).min_by_key(|at| set[*at].time);
    let at = known.or_else(least).unwrap_or(0);
    &mut set[at]
}

#[cfg(test)]
mod tests;
