//! What of the authority is due when: pure, by the clock that it is given.
//!
//! Time goes in periods, and each has a root that signs in it. Root `k` is made one period before, so that
//! every bundle has had it for a period when it begins to sign, and stays in bundles one period after, for
//! what it has signed last:
//!
//! ```text
//!   period      0         1         2         3
//!   root 0   [ signs  | former ]
//!   root 1   [ next   | signs   | former ]
//!   root 2            [ next    | signs   | former ]
//!   root 3                      [ next    | signs  …
//! ```
//!
//! A certificate ends at most one period after it was made, with the intermediate that signs it. So whoever
//! lives with the bundle of period `k` (roots `k-1`, `k`, `k+1`) lives into period `k+1` at most, and meets
//! certificates of the periods `k-1` to `k+1`: of exactly the roots that it knows.

use std::time::Duration;

use minato_model::time::Moment;

use crate::inspect::Validity;

/// Which root signs when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Schedule {
    /// When the period of the root `first` began.
    pub(crate) origin: Moment,
    /// The number of the root that signs from `origin` on.
    pub(crate) first: u64,
    /// How long a root signs.
    pub(crate) period: Duration,
    /// How far before its time a certificate begins.
    pub(crate) back: Duration,
}

impl Schedule {
    /// The root that signs now.
    pub(crate) fn number(&self, now: Moment) -> u64 {
        let periods = now.since(self.origin).as_millis() / self.period.as_millis().max(1);
        self.first.saturating_add(u64::try_from(periods).unwrap_or(u64::MAX))
    }

    /// When a root is valid: from the beginning of the period before the one it signs in, to the end of the
    /// one after.
    pub(crate) fn root(&self, number: u64) -> Validity {
        let signs = self.begins(number);
        let from = back(signs, self.period.saturating_add(self.back));
        Validity { not_before: from, not_after: signs.plus(self.period * 2) }
    }

    /// When an intermediate is valid that is made now, by this root.
    pub(crate) fn intermediate(&self, now: Moment, root: &Validity) -> Validity {
        Validity { not_before: back(now, self.back), not_after: now.plus(self.period).min(root.not_after) }
    }

    fn begins(&self, number: u64) -> Moment {
        let periods = u32::try_from(number.saturating_sub(self.first)).unwrap_or(u32::MAX);
        self.origin.plus(self.period.saturating_mul(periods))
    }
}

/// So long before.
pub(crate) fn back(moment: Moment, by: Duration) -> Moment {
    Moment(moment.0.saturating_sub(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
}

/// One of what is there: a root or an intermediate, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) number: u64,
    pub(crate) validity: Validity,
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Due {
    /// The roots to make.
    pub(crate) roots: Vec<u64>,
    /// The root by which to make a new intermediate.
    pub(crate) intermediate: Option<u64>,
    /// The intermediates to take away that a clock which was ahead has left: as long as they are there, the
    /// clock that is right again seems to be behind, see [`moment`].
    pub(crate) ahead: Vec<u64>,
}

/// What is due at a moment, by what there is.
pub(crate) fn due(schedule: &Schedule, roots: &[Kept], intermediates: &[Kept], now: Moment) -> Due {
    let signing = schedule.number(now);
    let there = |number: u64| roots.iter().any(|root| root.number == number);
    let missing = [signing, signing.saturating_add(1)].into_iter().filter(|number| !there(*number)).collect();
    let fresh = signer(intermediates, now)
        .is_some_and(|kept| now < renewal(schedule, &kept.validity) && has_its_life(schedule, kept));
    let ahead = intermediates.iter().filter(|kept| now < kept.validity.not_before).map(|kept| kept.number);
    Due { roots: missing, intermediate: (!fresh).then_some(signing), ahead: ahead.collect() }
}

/// The intermediate that signs now: the newest of those that are valid.
pub(crate) fn signer(intermediates: &[Kept], now: Moment) -> Option<&Kept> {
    let valid = |kept: &&Kept| kept.validity.not_before <= now && now < kept.validity.not_after;
    intermediates.iter().filter(valid).max_by_key(|kept| kept.number)
}

/// When an intermediate is to be renewed: at half its life.
pub(crate) fn renewal(schedule: &Schedule, validity: &Validity) -> Moment {
    let made = validity.not_before.plus(schedule.back);
    made.plus(validity.not_after.since(made) / 2)
}

/// Whether an intermediate has the life that this schedule gives. One from when periods had another length
/// would sign what outlives the bundles of now, or what ends too soon.
fn has_its_life(schedule: &Schedule, kept: &Kept) -> bool {
    let life = kept.validity.not_after.since(kept.validity.not_before);
    // X.509 has whole seconds.
    life.abs_diff(schedule.period.saturating_add(schedule.back)) <= Duration::from_secs(3)
}

/// The roots of the bundle: those that sign, signed or will sign next, as long as they are valid.
pub(crate) fn published(schedule: &Schedule, roots: &[Kept], now: Moment) -> Vec<u64> {
    let next = schedule.number(now).saturating_add(1);
    let live = |root: &&Kept| root.number <= next && now < root.validity.not_after;
    let mut numbers: Vec<u64> = roots.iter().filter(live).map(|root| root.number).collect();
    numbers.sort_unstable();
    numbers
}

/// The moment by which the authority goes. It is the clock's, but for one that has jumped back before
/// anything that the node's authority has done, as that of a machine without a battery does until it is set:
/// then it is the moment of what was done last, so that what is made now is good once the clock is right,
/// and nothing that is there is taken for of the future and made anew.
pub(crate) fn moment(
    schedule: &Schedule,
    intermediates: &[Kept],
    clock: Moment,
) -> (Moment, Option<Duration>) {
    let Some(newest) = intermediates.iter().max_by_key(|kept| kept.number) else { return (clock, None) };
    let behind = clock < newest.validity.not_before && signer(intermediates, clock).is_none();
    if !behind {
        return (clock, None);
    }
    let last = newest.validity.not_before.plus(schedule.back);
    (last, Some(last.since(clock)))
}

/// How many of those that are over are kept. By number, not by the clock: one that jumps ahead for a moment
/// must not take away what it will need again.
const FORMER_KEPT: usize = 8;

/// What of these is over for good: of those below this number all but the newest ones.
pub(crate) fn over(kept: &[Kept], below: u64) -> Vec<u64> {
    let mut former: Vec<u64> = kept.iter().map(|kept| kept.number).filter(|number| *number < below).collect();
    former.sort_unstable();
    former.truncate(former.len().saturating_sub(FORMER_KEPT));
    former
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const ORIGIN: Moment = Moment(1_800_000_000_000);

    fn schedule() -> Schedule {
        Schedule { origin: ORIGIN, first: 3, period: DAY * 30, back: Duration::from_secs(3_600) }
    }

    fn day(days: u32) -> Moment {
        ORIGIN.plus(DAY * days)
    }

    fn root(number: u64) -> Kept {
        Kept { number, validity: schedule().root(number) }
    }

    fn intermediate(number: u64, made: Moment) -> Kept {
        Kept { number, validity: schedule().intermediate(made, &root(schedule().number(made)).validity) }
    }

    #[test]
    fn a_root_signs_in_its_period_and_is_known_before_and_after() {
        let schedule = schedule();
        assert_eq!([0, 29, 30, 60, 89].map(|days| schedule.number(day(days))), [3, 3, 4, 5, 5]);
        assert_eq!(schedule.number(Moment(0)), 3, "nothing was before the first");
        let five = schedule.root(5);
        assert_eq!(five.not_before.plus(schedule.back), day(30));
        assert_eq!(five.not_after, day(120));
        let roots = [3, 4, 5, 6].map(root);
        assert_eq!(published(&schedule, &roots, day(0)), [3, 4]);
        assert_eq!(published(&schedule, &roots, day(30)), [3, 4, 5]);
        assert_eq!(published(&schedule, &roots, day(60)), [4, 5, 6]);
    }

    #[test]
    fn what_is_missing_is_due() {
        let schedule = schedule();
        assert_eq!(
            due(&schedule, &[], &[], day(0)),
            Due { roots: vec![3, 4], intermediate: Some(3), ahead: vec![] }
        );
        let (roots, node) = ([root(3), root(4)], intermediate(0, day(0)));
        assert_eq!(due(&schedule, &roots, &[node], day(14)), Due::default());
        assert_eq!(due(&schedule, &roots, &[node], day(15)).intermediate, Some(3));
        let next = due(&schedule, &roots, &[node, intermediate(1, day(15))], day(30));
        assert_eq!((next.roots, next.intermediate), (vec![5], Some(4)));
    }

    #[test]
    fn a_clock_before_everything_is_not_gone_by() {
        let schedule = schedule();
        let nodes = [intermediate(0, day(0)), intermediate(1, day(15))];
        assert_eq!(moment(&schedule, &[], day(0)), (day(0), None));
        assert_eq!(moment(&schedule, &nodes, day(80)), (day(80), None));
        assert_eq!(moment(&schedule, &nodes, day(7)), (day(7), None), "one that was valid then is there");
        assert_eq!(moment(&schedule, &nodes, Moment(0)), (day(15), Some(day(15).since(Moment(0)))));
        assert_eq!(due(&schedule, &[root(3), root(4)], &nodes, day(7)).ahead, [1]);
    }

    #[test]
    fn only_the_oldest_of_what_is_over_goes() {
        let kept: Vec<Kept> = (0..12).map(|number| intermediate(number, day(0))).collect();
        assert_eq!(over(&kept, 10), [0, 1]);
        assert_eq!(over(&kept, 8), [0_u64; 0]);
    }
}
