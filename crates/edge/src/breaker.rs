//! Whether an instance is given requests.
//!
//! ```text
//! Admitting ─ it fails ─▶ Tripped ─ for a while ─▶ Probing ─ one request goes well ─▶ Admitting
//!                            ▲                        └─ it fails: for twice as long ─┐
//!                            └─────────────────────────────────────────────────────────┘
//! ```
//!
//! A success on an instance that is Admitting costs one look at memory that seldom changes.

use std::{
    sync::atomic::{
        AtomicBool, AtomicU32, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
    time::Duration,
};

use crate::{
    clock::{Micros, micros},
    window::Window,
};

/// The longest that an instance is passed over at once.
const LONGEST: Duration = Duration::from_secs(60);
/// Who has been well for so long begins anew with the shortest.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// Who fails so many probes in a row is replaced.
const PROBES: u32 = 2;

/// One instance's.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    /// Failures in a row.
    row: AtomicU32,
    /// Until when it is Tripped, then due for a probe; 0: Admitting.
    until: AtomicU64,
    /// A probe is under way.
    probing: AtomicBool,
    /// Trips in a row: the length of the next doubles with each.
    trips: AtomicU32,
    failed_probes: AtomicU32,
    recovered_at: AtomicU64,
    /// Requests, and failures among them.
    pub(crate) window: Window,
}

impl Breaker {
    pub(crate) fn is_admitting(&self) -> bool {
        self.until.load(Relaxed) == 0
    }

    /// Whether it is given no request now: Tripped, or its probe is under way.
    pub(crate) fn is_shut(&self, now: impl FnOnce() -> Micros) -> bool {
        let until = self.until.load(Relaxed);
        until != 0 && (until > now() || self.probing.load(Relaxed))
    }

    /// A request wants a place: whether it may have one. The first that comes when the time is over is the probe.
    pub(crate) fn enter(&self) -> bool {
        self.is_admitting() || self.probing.compare_exchange(false, true, SeqCst, SeqCst).is_ok()
    }

    /// Whether a request that was let in just now is the probe.
    pub(crate) fn is_probing(&self) -> bool {
        !self.is_admitting() && self.probing.load(Relaxed)
    }

    /// The probe came to nothing: another one may go.
    pub(crate) fn probe_over(&self) {
        self.probing.store(false, SeqCst);
    }

    /// A request went well.
    pub(crate) fn went_well(&self) {
        if self.row.load(Relaxed) != 0 {
            self.row.store(0, Relaxed);
        }
    }

    /// A request failed; how many did so in a row.
    pub(crate) fn failed(&self) -> u32 {
        self.row.fetch_add(1, Relaxed) + 1
    }

    /// It is passed over from now on; until when. `random` spreads instances that fail together.
    pub(crate) fn trip(&self, now: Micros, first: Duration, random: u64) -> Micros {
        if now.saturating_sub(self.recovered_at.load(Relaxed)) > micros(FORGOTTEN) {
            self.trips.store(0, Relaxed);
        }
        let trips = self.trips.fetch_add(1, Relaxed);
        let whole = (micros(first) << trips.min(16)).min(micros(LONGEST));
        // Between nine and eleven tenths.
        let until = now + whole * 9 / 10 + random % (whole / 5).max(1);
        self.row.store(0, Relaxed);
        self.until.store(until, SeqCst);
        self.probing.store(false, SeqCst);
        until
    }

    /// The probe failed; whether it is time to replace the instance, which is said once.
    pub(crate) fn probe_failed(&self) -> bool {
        self.recovered_at.store(u64::MAX, Relaxed);
        self.failed_probes.fetch_add(1, Relaxed) + 1 == PROBES
    }

    /// It gets its part again.
    pub(crate) fn admit(&self, now: Micros) {
        self.row.store(0, Relaxed);
        self.failed_probes.store(0, Relaxed);
        self.recovered_at.store(now, Relaxed);
        self.until.store(0, SeqCst);
        self.probing.store(false, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Micros = 1_000_000;
    const EJECT: Duration = Duration::from_secs(1);

    #[test]
    fn one_probe_at_a_time_decides() {
        let breaker = Breaker::default();
        assert!(breaker.enter() && breaker.enter());
        let until = breaker.trip(100 * SECOND, EJECT, 7);
        assert!((100 * SECOND + SECOND * 9 / 10..100 * SECOND + SECOND * 11 / 10).contains(&until));
        assert!(breaker.is_shut(|| until - 1));
        assert!(!breaker.is_shut(|| until));
        assert!(breaker.enter(), "the probe");
        assert!(breaker.is_probing() && breaker.is_shut(|| until) && !breaker.enter(), "only one");
        breaker.probe_over();
        assert!(breaker.enter(), "another, as the first came to nothing");
        breaker.admit(until);
        assert!(breaker.is_admitting() && breaker.enter() && breaker.enter());
    }

    #[test]
    fn the_time_doubles_up_to_a_minute_and_begins_anew_after_a_well_minute() {
        let breaker = Breaker::default();
        let mut now = 100 * SECOND;
        let mut last = 0;
        for _ in 0..9 {
            let until = breaker.trip(now, EJECT, 0);
            assert!(until - now >= last && until - now <= 60 * SECOND);
            last = until - now;
            now = until;
            breaker.probe_failed();
        }
        assert_eq!(last, 54 * SECOND);
        breaker.admit(now);
        assert_eq!(breaker.trip(now + 61 * SECOND, EJECT, 0) - now - 61 * SECOND, SECOND * 9 / 10);
    }

    #[test]
    fn two_failed_probes_are_said_once() {
        let breaker = Breaker::default();
        assert_eq!([(); 4].map(|()| breaker.probe_failed()), [false, true, false, false]);
        breaker.admit(1);
        assert_eq!([(); 2].map(|()| breaker.probe_failed()), [false, true]);
    }
}
