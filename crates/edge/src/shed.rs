//! Who waits in vain is told soon: when more requests come than the instances can answer, all of them
//! would be answered late, for the queue only grows. Then those are turned away that have waited too long,
//! and the others are answered in time.
//!
//! The controller is of CoDel's kind (Nichols and Jacobson, RFC 8289), as a queue of requests has it that can
//! be told no (Maurer, "Fail at Scale", 2015). A burst leaves a queue that empties again: in each interval
//! somebody waits for a short time only. Under overload even the one who waited least waited long. So when
//! in an interval
//! - everybody who got a place had waited for longer than a target,
//! - the queue isn't about to empty by itself, and
//! - no instance is being started that could help,
//!
//! then whoever has waited for twice the target when a place comes free is turned away, until an interval in
//! which nobody had to be. The place goes to the next, and never to nobody.
//!
//! What is too long depends on the program: the target is the time that it has a request for, measured by
//! how many places come free (Little's law), but no less than 50 ms, and no more than a quarter of the
//! route's time-out. Waiting counts from when an instance was admitted last: the wait for a start is never
//! held against anyone.

use std::time::Duration;

use crate::clock::{Micros, micros};

/// What is looked at together, and at least one place that came free: long enough that a burst is over.
const INTERVAL: Micros = 250_000;
/// A wait that is no trouble, however fast the program.
const TARGET_LEAST: Micros = 50_000;
/// A queue that loses this part of itself in an interval empties by itself, within some four seconds.
const EMPTYING: u32 = 16;

/// The controller of a release's queue; used under its lock.
#[derive(Debug)]
pub(crate) struct Shedder {
    timeout: Micros,
    admitted_at: Micros,
    interval: Option<Interval>,
    /// When a place was given last.
    last: Micros,
    /// Whoever has waited for longer is turned away; `None`: nobody is.
    most: Option<Micros>,
}

/// What was seen since it began.
#[derive(Debug)]
struct Interval {
    began: Micros,
    /// How many waited then.
    waited: u32,
    served: u32,
    turned_away: u32,
    /// The shortest wait of one who got a place.
    shortest: Micros,
}

impl Interval {
    fn begin(now: Micros, waiting: u32) -> Self {
        Self { began: now, waited: waiting, served: 0, turned_away: 0, shortest: Micros::MAX }
    }

    fn is_emptying(&self, waiting: u32) -> bool {
        self.waited.saturating_sub(waiting).saturating_mul(EMPTYING) >= self.waited
    }
}

/// What a release carries as somebody who waited gets a place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Carried {
    /// Still waiting.
    pub(crate) waiting: u32,
    /// On instances, streams not counted.
    pub(crate) in_flight: u32,
}

impl Default for Shedder {
    fn default() -> Self {
        Self { timeout: 30_000_000, admitted_at: 0, interval: None, last: 0, most: None }
    }
}

impl Shedder {
    pub(crate) fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = micros(timeout);
    }

    /// There is one instance more: all is different now.
    pub(crate) fn admitted(&mut self, now: Micros) {
        *self = Self { timeout: self.timeout, admitted_at: now, ..Self::default() };
    }

    /// Somebody begins to wait where nobody did.
    pub(crate) fn begin(&mut self, now: Micros) {
        if now.saturating_sub(self.last) > INTERVAL {
            (self.interval, self.most) = (None, None);
        }
    }

    /// Whether who has waited since then, and could have a place now, is turned away instead.
    pub(crate) fn turns_away(&mut self, since: Micros, now: Micros) -> bool {
        let waited = self.waited(since, now);
        let late = self.most.is_some_and(|most| waited > most);
        if let Some(interval) = self.interval.as_mut().filter(|_| late) {
            interval.turned_away += 1;
        }
        late
    }

    /// Who has waited since then gets a place now. `starting` tells whether an instance is being started.
    pub(crate) fn serves(
        &mut self,
        since: Micros,
        now: Micros,
        carried: Carried,
        starting: impl FnOnce() -> bool,
    ) {
        let waited = self.waited(since, now);
        self.last = now;
        let Some(interval) = &mut self.interval else {
            self.interval = Some(Interval::begin(now, carried.waiting));
            return;
        };
        interval.served += 1;
        interval.shortest = interval.shortest.min(waited);
        let lasted = now.saturating_sub(interval.began);
        if lasted < INTERVAL {
            return;
        }
        let takes = lasted * u64::from(carried.in_flight) / u64::from(interval.served);
        let target = takes.max(TARGET_LEAST).min(self.timeout / 4);
        let overloaded = match self.most {
            None => interval.shortest > target && !interval.is_emptying(carried.waiting),
            Some(_) => interval.turned_away > 0,
        };
        self.most = (overloaded && !starting()).then_some(2 * target);
        self.interval = Some(Interval::begin(now, carried.waiting));
    }

    fn waited(&self, since: Micros, now: Micros) -> Micros {
        now.saturating_sub(since.max(self.admitted_at))
    }
}

/// When one who was turned away may come again: not all at the same time.
pub(crate) fn come_again(number: u64) -> Duration {
    Duration::from_secs(1 + number % 3)
}

#[cfg(test)]
mod tests;
