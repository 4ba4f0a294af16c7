//! What is measured of an instance from look to look, and what of it asks for its renewal.

use std::time::Duration;

use minato_model::{ids::InstanceId, manifest::Recycle, routing::Traffic};
use minato_runtime::usage::Usage;
use tokio::time::Instant;

use crate::{
    recycle::{self, Wear, Why},
    repair::{Silence, waiting},
};

/// An instance's measurements.
#[derive(Debug)]
pub(crate) struct Vitals {
    /// Since when it has been there.
    since: Instant,
    /// Its memory when it was warm.
    baseline: Option<u64>,
    memory: Option<u64>,
    silence: Silence,
    /// Since when it has had too much in flight.
    crowded: Option<Instant>,
    stuck: bool,
    /// It fails the edge's probes, one after another.
    pub(crate) failing: bool,
    /// Why the edge sent it nothing, as that was said last.
    pub(crate) distrusted: Option<String>,
    /// What its mounts were when it became ready, shortened.
    pub(crate) mounts: Option<u64>,
    /// What of it was changed by hand.
    pub(crate) drifted: Option<String>,
}

/// What the service says of its instances.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules<'a> {
    pub(crate) recycle: &'a Recycle,
    pub(crate) timeout: Duration,
    pub(crate) concurrency: u32,
}

impl Vitals {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            since: now,
            baseline: None,
            memory: None,
            silence: Silence::new(now),
            crowded: None,
            stuck: false,
            failing: false,
            distrusted: None,
            mounts: None,
            drifted: None,
        }
    }

    /// Of one that an earlier server started: it goes on being measured by what it was when warm.
    pub(crate) fn adopted(begun: Instant, baseline: Option<u64>, now: Instant) -> Self {
        Self { since: begun, baseline, ..Self::new(now) }
    }

    /// Its memory when it was warm, once that is known.
    pub(crate) fn baseline(&self) -> Option<u64> {
        self.baseline
    }

    /// Notes what it uses; the first look at one that is `baseline_after` old is what later ones are
    /// measured by. Whether this was that.
    pub(crate) fn used(&mut self, usage: &Usage, baseline_after: Duration, now: Instant) -> bool {
        self.memory = Some(usage.memory);
        let warm = self.baseline.is_none() && now.duration_since(self.since) >= baseline_after;
        if warm {
            self.baseline = Some(usage.memory);
        }
        warm
    }

    /// Looks at what one that requests go to carries, beside its ready siblings.
    pub(crate) fn look(&mut self, own: &Traffic, siblings: &[Traffic], rules: &Rules<'_>, now: Instant) {
        self.silence.look(own, siblings, rules.timeout, now);
        self.stuck = self.silence.is_stuck(own, siblings, rules.timeout, now);
        let mut others: Vec<u32> = siblings.iter().map(waiting).collect();
        let factor = rules.recycle.in_flight_millis;
        let crowded = recycle::is_crowded(waiting(own), &mut others, factor, rules.concurrency);
        self.crowded = if crowded { self.crowded.or(Some(now)) } else { None };
    }

    /// Why it should be renewed, if it should.
    pub(crate) fn renew(
        &self,
        id: &InstanceId,
        requests: u64,
        age: Duration,
        rules: &Rules<'_>,
        now: Instant,
    ) -> Option<Why> {
        if self.drifted.is_some() {
            return Some(Why::Drifted);
        }
        if self.stuck {
            return Some(Why::Stuck);
        }
        if self.failing {
            return Some(Why::Failing);
        }
        let crowded = self.crowded.map_or(Duration::ZERO, |since| now.duration_since(since));
        let memory = self.memory.zip(self.baseline);
        recycle::worn(&Wear { id, requests, age, crowded, memory }, rules.recycle)
    }

    /// Why it is replaced if it stays out of routing.
    pub(crate) fn ailment(&self, rules: Option<&Rules<'_>>) -> Why {
        let growth = rules.map_or(0, |rules| rules.recycle.memory_growth_millis);
        let grown = |(now, first)| recycle::has_grown(now, first, growth);
        if self.drifted.is_some() {
            Why::Drifted
        } else if self.failing {
            Why::Failing
        } else if self.memory.zip(self.baseline).is_some_and(grown) {
            Why::Leaking
        } else {
            Why::Unhealthy
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn memory_is_measured_by_what_it_was_when_warm() {
        let begun = Instant::now();
        let mut vitals = Vitals::new(begun);
        let recycle = Recycle::default();
        let rules = Rules { recycle: &recycle, timeout: Duration::from_secs(30), concurrency: 10 };
        let mut used = |seconds, mib: u64| {
            let now = begun + Duration::from_secs(seconds);
            let usage = Usage { memory: mib << 20, ..Usage::default() };
            vitals.used(&usage, Duration::from_secs(300), now);
            let id = "a1".parse().unwrap();
            (vitals.renew(&id, 0, Duration::ZERO, &rules, now), vitals.ailment(Some(&rules)))
        };
        assert_eq!(used(5, 10), (None, Why::Unhealthy));
        assert_eq!(used(299, 40), (None, Why::Unhealthy));
        assert_eq!(used(300, 40), (None, Why::Unhealthy));
        assert_eq!(used(305, 59), (None, Why::Unhealthy));
        assert_eq!(used(310, 60), (Some(Why::Memory), Why::Leaking));
    }

    #[tokio::test(start_paused = true)]
    async fn a_restart_of_the_server_forgets_no_growth() {
        let begun = Instant::now();
        let recycle = Recycle::default();
        let rules = Rules { recycle: &recycle, timeout: Duration::from_secs(30), concurrency: 10 };
        let now = begun + Duration::from_secs(200);
        let used = |vitals: &mut Vitals, seconds, mib: u64| {
            let usage = Usage { memory: mib << 20, ..Usage::default() };
            let now = begun + Duration::from_secs(seconds);
            vitals.used(&usage, Duration::from_secs(300), now)
        };
        let mut known = Vitals::adopted(begun, Some(40 << 20), now);
        assert!(!used(&mut known, 205, 60));
        assert_eq!(known.ailment(Some(&rules)), Why::Leaking);
        // Its five minutes are its own, not a server's.
        let mut unknown = Vitals::adopted(begun, None, now);
        assert!(!used(&mut unknown, 299, 40) && used(&mut unknown, 300, 40));
        assert_eq!(unknown.baseline(), Some(40 << 20));
    }

    #[tokio::test(start_paused = true)]
    async fn too_much_in_flight_counts_when_it_lasts() {
        let begun = Instant::now();
        let mut vitals = Vitals::new(begun);
        let recycle = Recycle::default();
        let rules = Rules { recycle: &recycle, timeout: Duration::from_secs(30), concurrency: 10 };
        let of = |in_flight| Traffic { in_flight, answered: Some(Duration::ZERO), ..Traffic::default() };
        let mut look = |seconds, own| {
            let now = begun + Duration::from_secs(seconds);
            vitals.look(&of(own), &[of(3), of(4)], &rules, now);
            vitals.renew(&"a1".parse().unwrap(), 0, Duration::ZERO, &rules, now)
        };
        assert_eq!((look(0, 9), look(9, 9), look(10, 9)), (None, None, Some(Why::InFlight)));
        assert_eq!((look(11, 6), look(12, 9), look(21, 9)), (None, None, None));
    }
}
