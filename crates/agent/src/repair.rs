//! Who is stuck: it accepts requests and answers none. Pure: the time is an argument.
//!
//! Streams don't count, and neither does a client that hung up. An instance is stuck when no answer of
//! it began for as long as a request may take at all (nine tenths of `timeout`, five seconds at
//! least), though somebody was waiting all the time: a request for as long as that, or three that
//! failed meanwhile. It is sooner, after half of `timeout`, when three and more wait and a
//! sibling answers, and no sibling has had one waiting for half as long in all that time: where
//! requests are long by their nature (long polls), siblings have such ones too.

use std::time::Duration;

use minato_model::routing::Traffic;
use tokio::time::Instant;

/// No shorter silence says anything.
const SILENCE_MIN: Duration = Duration::from_secs(5);
/// So many requests are several.
const SEVERAL: u32 = 3;

/// Since when an instance has been asked without answering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Silence {
    since: Instant,
    /// What it had failed by then.
    errors: u64,
    /// Whether a request of a sibling has waited long meanwhile.
    slow_siblings: bool,
}

impl Silence {
    pub(crate) fn new(now: Instant) -> Self {
        Self { since: now, errors: 0, slow_siblings: false }
    }

    /// Looks again: an answer ends the silence, and so does having nothing to answer.
    pub(crate) fn look(&mut self, traffic: &Traffic, siblings: &[Traffic], timeout: Duration, now: Instant) {
        let answered = traffic.answered.is_some_and(|ago| now.duration_since(self.since) > ago);
        let asked = waiting(traffic) > 0 || traffic.errors > self.errors;
        if answered || !asked {
            *self = Self { since: now, errors: traffic.errors, slow_siblings: false };
        }
        let long = soon(timeout) / 2;
        self.slow_siblings |=
            siblings.iter().any(|sibling| sibling.oldest.is_some_and(|oldest| oldest >= long));
    }

    /// Whether it is stuck; `siblings` are those of its release that requests go to too.
    pub(crate) fn is_stuck(
        &self,
        traffic: &Traffic,
        siblings: &[Traffic],
        timeout: Duration,
        now: Instant,
    ) -> bool {
        let silent = now.duration_since(self.since);
        let oldest = traffic.oldest.unwrap_or_default();
        let late = SILENCE_MIN.max(timeout / 10 * 9);
        let failed = traffic.errors.saturating_sub(self.errors) >= u64::from(SEVERAL);
        if silent >= late && (oldest >= late || failed) {
            return true;
        }
        let soon = soon(timeout);
        let answers = |sibling: &Traffic| sibling.answered.is_some_and(|ago| ago < soon / 2);
        silent.min(oldest) >= soon
            && waiting(traffic) >= SEVERAL
            && siblings.iter().any(answers)
            && !self.slow_siblings
    }
}

/// A silence that says something where siblings answer.
fn soon(timeout: Duration) -> Duration {
    SILENCE_MIN.max(timeout / 2)
}

/// Requests that an answer is owed to.
pub(crate) fn waiting(traffic: &Traffic) -> u32 {
    traffic.in_flight.saturating_sub(traffic.streams)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn traffic(in_flight: u32, oldest: Option<u64>, answered: Option<u64>) -> Traffic {
        let (oldest, answered) = (oldest.map(seconds), answered.map(seconds));
        Traffic { in_flight, oldest, answered, ..Traffic::default() }
    }

    /// Whether one that was silent for so long is stuck, looked at every second.
    fn check(silent: u64, of: impl Fn(u64) -> Traffic, siblings: &[Traffic], timeout: Duration) -> bool {
        check_beside(silent, of, |_| siblings.to_vec(), timeout)
    }

    fn check_beside(
        silent: u64,
        of: impl Fn(u64) -> Traffic,
        siblings: impl Fn(u64) -> Vec<Traffic>,
        timeout: Duration,
    ) -> bool {
        let begun = Instant::now();
        let mut silence = Silence::new(begun);
        let now = |second| begun + seconds(second);
        (1..=silent).for_each(|second| silence.look(&of(second), &siblings(second), timeout, now(second)));
        silence.is_stuck(&of(silent), &siblings(silent), timeout, now(silent))
    }

    #[tokio::test]
    async fn alone_it_is_given_almost_its_time_out() {
        let waits = |second| traffic(1, Some(second), None);
        assert!(!check(26, waits, &[], TIMEOUT));
        assert!(check(27, waits, &[], TIMEOUT));
        assert!(check(5, waits, &[], seconds(1)), "never less than five seconds");
        assert!(!check(4, waits, &[], seconds(1)));
    }

    #[tokio::test]
    async fn requests_that_time_out_one_after_another_count_together() {
        // One at a time, each given up after two seconds.
        let fails = |second: u64| Traffic {
            errors: second / 2,
            ..traffic(u32::from(second % 2 == 1), Some(second % 2), None)
        };
        assert!(!check(5, fails, &[], seconds(2)));
        assert!(check(6, fails, &[], seconds(2)));
        // Answered in between, even if by an error: it isn't stuck.
        let answers = |second: u64| Traffic { answered: Some(seconds(1)), ..fails(second) };
        assert!(!check(20, answers, &[], seconds(2)));
    }

    #[tokio::test]
    async fn long_polls_are_no_trouble() {
        // Each of several takes 25 s of 30.
        let polls = |second: u64| traffic(5, Some(second % 25), (second >= 25).then_some(second % 25));
        let beside = |second| vec![polls(second + 3)];
        assert!((1..=100).all(|second| !check_beside(second, polls, beside, TIMEOUT)));
        // Streams don't count.
        let streams = |second| Traffic { streams: 3, ..traffic(3, Some(second), None) };
        assert!(!check(100, streams, &[], TIMEOUT));
        // Neither does a client that hangs up before it is answered.
        let hangs_up = |second: u64| traffic(u32::from(!second.is_multiple_of(10)), Some(second % 10), None);
        assert!(!check(99, hangs_up, &[], TIMEOUT));
    }

    #[tokio::test]
    async fn several_that_wait_while_siblings_answer_are_seen_sooner() {
        let waits = |second| traffic(3, Some(second), None);
        let quick = traffic(4, Some(1), Some(0));
        assert!(check(15, waits, &[quick], TIMEOUT));
        assert!(!check(14, waits, &[quick], TIMEOUT));
        assert!(!check(15, waits, &[traffic(4, Some(9), Some(0))], TIMEOUT), "siblings have long ones too");
        assert!(!check(15, waits, &[traffic(0, None, None)], TIMEOUT), "nobody is asked");
        assert!(!check(15, |second| traffic(2, Some(second), None), &[quick], TIMEOUT), "two aren't several");
    }
}
