//! The same instance for the same key: rendezvous hashing (Thaler, Ravishankar 1998).
//!
//! Each instance draws a number for each key from the two, and the highest has it. So an instance that
//! comes takes its part of the keys, evenly from all; one that goes leaves its keys, evenly to all; and
//! all other keys stay where they are. Those that have no room are passed over, each key to the next in
//! an order of its own.
//!
//! Where instances are new, the number is the draw's logarithm by the part, which gives each its part
//! (weighted rendezvous, Schindelhauer, Schomaker 2005): as a part rises, keys only come to it.

use std::sync::Arc;

use super::{Search, Targets, mix, slow_start::WHOLE};
use crate::{key::fraction, target::Target};

/// How often another request may be quicker to take the last place.
const TRIES: u32 = 16;

pub(super) fn choose<'t>(targets: &'t Targets, key: u64, search: &Search<'_>) -> Option<&'t Arc<Target>> {
    for _ in 0..TRIES {
        let (target, limit) = if search.has_slow_start() {
            best(targets, search, |target, seed| {
                let part = f64::from(search.part(target)) / f64::from(WHOLE);
                fraction(mix(seed ^ key)).ln() / part
            })
        } else {
            best(targets, search, |_, seed| mix(seed ^ key))
        }?;
        if target.take(limit) {
            return Some(target);
        }
    }
    None
}

/// The one with the highest number of those that are open.
fn best<'t, N: PartialOrd>(
    targets: &'t Targets,
    search: &Search<'_>,
    number: impl Fn(&Target, u64) -> N,
) -> Option<(&'t Arc<Target>, u32)> {
    let mut best: Option<(N, &Arc<Target>, u32)> = None;
    for (target, seed) in targets.iter().zip(targets.seeds()) {
        let number = number(target, *seed);
        // Numbers are cheap, and few instances are the highest yet: only these are looked at.
        if best.as_ref().is_none_or(|(highest, ..)| number > *highest)
            && let Some(limit) = search.open(target)
        {
            best = Some((number, target, limit));
        }
    }
    best.map(|(_, target, limit)| (target, limit))
}
