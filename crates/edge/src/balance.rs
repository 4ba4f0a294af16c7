//! Which instance of a release gets a request: the less loaded of two drawn at random, among those
//! that have room.

use std::sync::Arc;

use crate::{clock::Clock, target::Target};

/// How much an instance may be given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// What it is meant to hold.
    pub(crate) concurrency: u32,
    /// What it may hold once it has shown that it answers.
    pub(crate) most: u32,
}

/// Takes a place on an instance; `None`: none has room. `avoid` is taken only where it is the last.
pub(crate) fn pick(
    targets: &[Arc<Target>],
    room: Room,
    clock: Clock,
    avoid: Option<u64>,
    random: u64,
) -> Option<&Arc<Target>> {
    let has_room = |target: &Target, limit: u32| {
        target.in_flight() < limit && Some(target.serial) != avoid && !target.is_suspended(clock)
    };
    let (first, second) = draw(targets.len(), random)?;
    for beyond in [false, true] {
        let limit = |target: &Target| match (beyond, target.has_answered()) {
            (false, _) => Some(room.concurrency),
            (true, true) => Some(room.most),
            (true, false) => None,
        };
        let open = |index: usize| {
            let target = targets.get(index)?;
            limit(target).filter(|limit| has_room(target, *limit)).map(|limit| (target, limit))
        };
        let chosen = match (open(first), open(second)) {
            (Some(a), Some(b)) => Some(if b.0.in_flight() < a.0.in_flight() { b } else { a }),
            (one, other) => one.or(other),
        };
        if let Some((target, limit)) = chosen
            && target.take(limit)
        {
            return Some(target);
        }
        // Neither of the two: whichever has room, from the first drawn on.
        let rest = (first..targets.len()).chain(0..first);
        if let Some((target, _)) = rest.filter_map(open).find(|(target, limit)| target.take(*limit)) {
            return Some(target);
        }
    }
    // Rather the one to avoid than none.
    let last = targets.iter().find(|target| Some(target.serial) == avoid)?;
    (!last.is_suspended(clock) && last.take(room.concurrency)).then_some(last)
}

/// Two different places out of `count`, or twice the only one.
fn draw(count: usize, random: u64) -> Option<(usize, usize)> {
    let count = u64::try_from(count).ok().filter(|count| *count > 0)?;
    let first = (random >> 32) % count;
    let step = if count > 1 { 1 + (random & 0xffff_ffff) % (count - 1) } else { 0 };
    let place = |at: u64| usize::try_from(at).ok();
    Some((place(first)?, place((first + step) % count)?))
}

/// One step of splitmix64 (Steele, Lea, Flood 2014): even bits from a counter.
pub(crate) fn mix(counter: u64) -> u64 {
    let mut z = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::tests::target;

    const ROOM: Room = Room { concurrency: 2, most: 4 };

    #[test]
    fn the_less_loaded_is_taken_and_limits_hold() {
        let clock = Clock::start();
        let targets = [Arc::new(target(1)), Arc::new(target(2))];
        let take = |random| pick(&targets, ROOM, clock, None, random).map(|t| t.serial);
        let mut taken: Vec<u64> = (0..4).map(|n| take(mix(n)).unwrap()).collect();
        taken.sort_unstable();
        assert_eq!(taken, [1, 1, 2, 2]);
        assert_eq!(take(9), None, "a new instance stays within its concurrency");
        targets[1].answered(1);
        assert_eq!([take(1), take(2), take(3)], [Some(2), Some(2), None]);
    }

    #[test]
    fn a_suspended_one_is_passed_over_and_the_avoided_one_comes_last() {
        let clock = Clock::start();
        let targets = [Arc::new(target(1)), Arc::new(target(2))];
        let take = |avoid| pick(&targets, ROOM, clock, avoid, 0).map(|t| t.serial);
        assert_eq!(take(Some(1)), Some(2));
        targets[1].suspend(clock);
        assert_eq!(take(Some(1)), Some(1));
        targets[0].suspend(clock);
        assert_eq!(take(None), None);
    }

    #[test]
    fn two_draws_differ() {
        for random in (0..1000).map(mix) {
            let (a, b) = draw(7, random).unwrap();
            assert!(a < 7 && b < 7 && a != b);
        }
        assert_eq!(draw(1, 99), Some((0, 0)));
        assert_eq!(draw(0, 99), None);
    }
}
