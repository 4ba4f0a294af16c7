//! The one of two drawn at random that promises the earlier answer: its latency, by a moving average
//! that peaks count in at once, times what it carries.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{Search, least_request::of_two, mix, slow_start::WHOLE};
use crate::{clock::Micros, target::Target};

/// What was measured counts for 1/e after this time.
const DECAY: Duration = Duration::from_secs(10);
/// What each request costs, in microseconds, on an instance that hasn't answered any yet: it is
/// tried by one, and not by many before that one is answered.
const UNKNOWN: f64 = 1_000_000.0;

/// How long an instance takes until an answer begins. Kept only while the service asks for it. Two
/// threads that measure at the same moment may lose one of the two: it is an average.
#[derive(Debug, Default)]
pub(crate) struct Latency {
    /// In microseconds, as the bits of an `f64`; 0: nothing was measured yet.
    average: AtomicU64,
    at: AtomicU64,
}

impl Latency {
    /// An answer began after so long, or a failure did, which never makes an instance look faster.
    pub(crate) fn measured(&self, now: Micros, took: Micros, answered: bool) {
        let took = to_f64(took.max(1));
        let passed = now.saturating_sub(self.at.swap(now, Relaxed));
        let average = f64::from_bits(self.average.load(Relaxed));
        let average = if took > average {
            took
        } else if answered {
            took + (average - took) * remains(passed)
        } else {
            return;
        };
        self.average.store(average.to_bits(), Relaxed);
    }

    /// The average in microseconds as it has decayed until now: who is slow is tried again some time.
    fn get(&self, now: Micros) -> Option<f64> {
        let average = f64::from_bits(self.average.load(Relaxed));
        let passed = now.saturating_sub(self.at.load(Relaxed));
        // Never nothing, or what an instance carries would make no difference.
        (average > 0.0).then(|| (average * remains(passed)).max(1.0))
    }
}

/// How much of what was measured counts after this time.
fn remains(passed: Micros) -> f64 {
    (-to_f64(passed) / 1_000_000.0 / DECAY.as_secs_f64()).exp()
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of a century are exact")]
fn to_f64(micros: Micros) -> f64 {
    micros as f64
}

pub(super) fn choose<'t>(targets: &'t [Arc<Target>], search: &Search<'_>) -> Option<&'t Arc<Target>> {
    if search.has_slow_start() {
        let dither = mix(search.seeker.random);
        return of_two(targets, search, |a, b| {
            rising(b, search, dither >> 48) < rising(a, search, dither & 0xffff)
        });
    }
    of_two(targets, search, |a, b| cost(b, search.now, 1.0) < cost(a, search.now, 1.0))
}

/// What a request more would cost; `more` stands for it.
fn cost(target: &Target, now: Micros, more: f64) -> f64 {
    let in_flight = f64::from(target.in_flight());
    target.latency.get(now).map_or(in_flight * UNKNOWN, |latency| latency * (in_flight + more))
}

/// The same for an instance's part, with a dither of 16 bits for the request: see `least_request`.
fn rising(target: &Target, search: &Search<'_>, dither: u64) -> f64 {
    let part = f64::from(search.part(target)) / f64::from(WHOLE);
    cost(target, search.now, to_f64(dither + 1) / 65_536.0) / part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_count_at_once_and_fade() {
        let latency = Latency::default();
        let second = 1_000_000;
        assert_eq!(latency.get(5 * second), None);
        latency.measured(10 * second, 1_000, true);
        latency.measured(10 * second, 50_000, true);
        assert_eq!(latency.get(10 * second), Some(50_000.0));
        latency.measured(20 * second, 1_000, true);
        let after = latency.get(20 * second).unwrap();
        assert!((18_000.0..20_000.0).contains(&after), "1/e of the difference is left: {after}");
        assert!(latency.get(80 * second).unwrap() < 100.0, "who isn't asked is tried again");
    }

    #[test]
    fn a_failure_makes_nobody_look_fast() {
        let latency = Latency::default();
        latency.measured(1, 50_000, true);
        latency.measured(2, 10, false);
        assert_eq!(latency.get(2), Some(50_000.0));
        latency.measured(3, 90_000, false);
        assert_eq!(latency.get(3), Some(90_000.0));
    }
}
