//! The less loaded of two drawn at random (Mitzenmacher 2001: the power of two choices).

use std::sync::Arc;

use super::{Search, mix, slow_start::WHOLE};
use crate::target::Target;

pub(super) fn choose<'t>(targets: &'t [Arc<Target>], search: &Search<'_>) -> Option<&'t Arc<Target>> {
    if search.has_slow_start() {
        let dither = mix(search.seeker.random);
        return of_two(targets, search, |a, b| {
            weighted(b, search, dither >> 48) < weighted(a, search, dither & 0xffff)
        });
    }
    of_two(targets, search, |a, b| b.in_flight() < a.in_flight())
}

/// What an instance carries for its part. The dither of 16 bits stands for the request to come: where
/// nobody carries anything, it alone lets each have its part.
fn weighted(target: &Target, search: &Search<'_>, dither: u64) -> u64 {
    let load = u64::from(target.in_flight()) << 16 | dither;
    load * u64::from(WHOLE) / u64::from(search.part(target))
}

/// Takes a place on one of two drawn at random, the second if it `is_better`; on any if neither has
/// room.
pub(super) fn of_two<'t>(
    targets: &'t [Arc<Target>],
    search: &Search<'_>,
    is_better: impl Fn(&Target, &Target) -> bool,
) -> Option<&'t Arc<Target>> {
    let (first, second) = draw(targets.len(), search.seeker.random)?;
    let open = |index: usize| {
        let target = targets.get(index)?;
        search.open(target).map(|limit| (target, limit))
    };
    let chosen = match (open(first), open(second)) {
        (Some(a), Some(b)) => Some(if is_better(a.0, b.0) { b } else { a }),
        (one, other) => one.or(other),
    };
    if let Some((target, limit)) = chosen
        && target.take(limit)
    {
        return Some(target);
    }
    // Neither of the two: whichever has room, from the first drawn on.
    let rest = (first..targets.len()).chain(0..first);
    rest.filter_map(open).find(|(target, limit)| target.take(*limit)).map(|(target, _)| target)
}

/// Two different places out of `count`, or twice the only one.
fn draw(count: usize, random: u64) -> Option<(usize, usize)> {
    let count = u64::try_from(count).ok().filter(|count| *count > 0)?;
    let first = (random >> 32) % count;
    let step = if count > 1 { 1 + (random & 0xffff_ffff) % (count - 1) } else { 0 };
    let place = |at: u64| usize::try_from(at).ok();
    Some((place(first)?, place((first + step) % count)?))
}

#[cfg(test)]
mod tests {
    use super::*;

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
