//! How long a release that fails again and again waits for its next try.
//!
//! A start that fails waits at once; an instance that ends after it served is replaced at once, whoever
//! was behind that: the first two times if it had hardly begun, and always if it had served a while. What
//! runs well for a minute clears the record. What the node is at fault for is counted apart: it waits in
//! the same way, and says nothing about the release.

use std::time::Duration;

use minato_model::inventory::Failure;
use tokio::time::Instant;

/// The first wait; doubled with each further failure.
const FIRST: Duration = Duration::from_millis(500);
/// Never longer than this.
const LONGEST: Duration = Duration::from_secs(60);
/// Who runs this long is well: what failed before doesn't count any more.
pub(crate) const WELL: Duration = Duration::from_secs(60);

/// Who served this long didn't fail because it started: another is of use at once.
const SERVED: Duration = Duration::from_secs(10);
/// Ends in a row of who served for less that are no crash loop yet.
const FREE: u32 = 2;

/// How a release has failed lately.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    /// The release's own.
    own: Series,
    /// The node's.
    node: Series,
    until: Option<Instant>,
    last: Option<Failure>,
}

/// Failures in a row.
#[derive(Debug, Default)]
struct Series {
    in_a_row: u32,
    failed_at: Option<Instant>,
}

/// How an instance failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failed {
    /// It never came to be ready.
    Start,
    /// It was ready for so long.
    Ready(Duration),
}

impl Backoff {
    /// Notes that an instance failed whose start began at `begun`; how long the next try has to wait.
    pub(crate) fn failed(
        &mut self,
        mut failure: Failure,
        how: Failed,
        begun: Instant,
        now: Instant,
    ) -> Duration {
        let series = if failure.code.is_of_the_node() { &mut self.node } else { &mut self.own };
        if let Some(delay) = series.failed(how, begun, now) {
            self.until = (!delay.is_zero()).then(|| now + delay);
        }
        let wait = self.waits(now);
        failure.in_a_row = self.own.in_a_row;
        failure.next = (!wait.is_zero()).then(|| failure.at.plus(wait));
        self.last = Some(failure);
        wait
    }

    /// Notes that an instance is ready, and so that a start succeeds.
    pub(crate) fn ready(&mut self) {
        self.until = None;
        self.last = None;
        self.node.in_a_row = 0;
    }

    /// Notes that an instance has been ready for [`WELL`].
    pub(crate) fn well(&mut self) {
        self.own.in_a_row = 0;
    }

    /// How long no start is tried any more; zero: it may be tried.
    pub(crate) fn waits(&self, now: Instant) -> Duration {
        self.until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    /// Whether nothing has failed lately, or something has become ready since.
    pub(crate) fn is_calm(&self, now: Instant) -> bool {
        let failed_at = self.own.failed_at.max(self.node.failed_at);
        self.last.is_none() || failed_at.is_none_or(|at| now.duration_since(at) >= WELL)
    }

    /// The last failure, unless something has become ready since.
    pub(crate) fn failing(&self) -> Option<&Failure> {
        self.last.as_ref()
    }
}

impl Series {
    /// Adds one; how long the next try has to wait. `None`: of several that ran together the first to fail
    /// counts, they were one try.
    fn failed(&mut self, how: Failed, begun: Instant, now: Instant) -> Option<Duration> {
        if self.failed_at.is_some_and(|at| begun < at) {
            return None;
        }
        self.failed_at = Some(now);
        self.in_a_row = match how {
            Failed::Ready(well) if well >= WELL => 1,
            Failed::Ready(_) | Failed::Start => self.in_a_row.saturating_add(1),
        };
        Some(match how {
            Failed::Ready(served) if served >= SERVED => Duration::ZERO,
            Failed::Ready(_) => delay(self.in_a_row.saturating_sub(FREE)),
            Failed::Start => delay(self.in_a_row),
        })
    }
}

/// After so many failures in a row.
fn delay(in_a_row: u32) -> Duration {
    match in_a_row {
        0 => Duration::ZERO,
        // 2^7 × 0.5 s is over the longest already.
        n => LONGEST.min(FIRST * 2_u32.pow((n - 1).min(7))),
    }
}

#[cfg(test)]
mod tests {
    use minato_model::{code::Code, time::Moment};

    use super::*;

    fn failure() -> Failure {
        Failure {
            instance: "a1".parse().unwrap(),
            code: Code::Exited,
            reason: "it exited with status 1".to_owned(),
            at: Moment(1_000),
            in_a_row: 0,
            next: None,
        }
    }

    /// An instance that began a millisecond ago fails.
    async fn millis(backoff: &mut Backoff, how: Failed) -> u128 {
        let begun = Instant::now();
        tokio::time::advance(Duration::from_millis(1)).await;
        backoff.failed(failure(), how, begun, Instant::now()).as_millis()
    }

    #[tokio::test(start_paused = true)]
    async fn doubles_up_to_a_minute() {
        let mut backoff = Backoff::default();
        let mut waits = Vec::new();
        for _ in 0..9 {
            waits.push(millis(&mut backoff, Failed::Start).await);
            tokio::time::advance(Duration::from_secs(60)).await;
        }
        assert_eq!(waits, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
        let failing = backoff.failing().unwrap();
        assert_eq!((failing.in_a_row, failing.next), (9, Some(Moment(61_000))));
        assert!(backoff.waits(Instant::now()).is_zero());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_served_is_replaced_at_once_but_not_for_ever() {
        let mut backoff = Backoff::default();
        let well = Failed::Ready(Duration::from_secs(3));
        assert_eq!(millis(&mut backoff, well).await, 0);
        backoff.ready();
        assert!(backoff.failing().is_none());
        assert_eq!(millis(&mut backoff, well).await, 0);
        backoff.ready();
        assert_eq!(millis(&mut backoff, well).await, 500);
        backoff.ready();
        assert_eq!(millis(&mut backoff, well).await, 1_000);
        backoff.well();
        assert_eq!(millis(&mut backoff, well).await, 0);
        assert_eq!(millis(&mut backoff, Failed::Ready(WELL)).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_served_a_while_is_replaced_at_once_and_still_counted() {
        let mut backoff = Backoff::default();
        for in_a_row in 1..6 {
            assert_eq!(millis(&mut backoff, Failed::Ready(SERVED)).await, 0);
            assert_eq!(backoff.failing().unwrap().in_a_row, in_a_row);
            backoff.ready();
        }
        assert_eq!(millis(&mut backoff, Failed::Ready(Duration::from_secs(1))).await, 4_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_forgotten_when_nobody_needed_another_start() {
        let mut backoff = Backoff::default();
        assert!(backoff.is_calm(Instant::now()));
        millis(&mut backoff, Failed::Ready(WELL)).await;
        assert!(!backoff.is_calm(Instant::now()));
        tokio::time::advance(WELL).await;
        assert!(backoff.is_calm(Instant::now()));
        millis(&mut backoff, Failed::Start).await;
        backoff.ready();
        assert!(backoff.is_calm(Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_node_is_at_fault_for_waits_and_counts_against_nobody() {
        let mut backoff = Backoff::default();
        let mut waits = Vec::new();
        for code in [Code::NodeFault, Code::NodeFault, Code::DiskFull, Code::Exited, Code::NodeFault] {
            let begun = Instant::now();
            tokio::time::advance(Duration::from_secs(60)).await;
            let failure = Failure { code, ..failure() };
            let wait = backoff.failed(failure, Failed::Start, begun, Instant::now()).as_millis();
            waits.push((wait, backoff.failing().unwrap().in_a_row));
        }
        assert_eq!(waits, [(500, 0), (1_000, 0), (2_000, 0), (500, 1), (4_000, 1)]);
        backoff.ready();
        let node = Failure { code: Code::NodeFault, ..failure() };
        let wait = backoff.failed(node, Failed::Start, Instant::now(), Instant::now());
        assert_eq!(wait, Duration::from_millis(500), "a start that succeeded shows that the node can");
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_fail_together_wait_once() {
        let mut backoff = Backoff::default();
        let begun = Instant::now();
        for how in [Failed::Ready(WELL), Failed::Ready(Duration::ZERO), Failed::Start] {
            tokio::time::advance(Duration::from_millis(1)).await;
            assert_eq!(backoff.failed(failure(), how, begun, Instant::now()), Duration::ZERO);
        }
        assert_eq!(backoff.failing().unwrap().in_a_row, 1);
        assert_eq!(millis(&mut backoff, Failed::Start).await, 1_000);
    }
}
