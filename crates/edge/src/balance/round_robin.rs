//! Each in turn, among those that have room.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use super::{Search, mix, slow_start::WHOLE};
use crate::target::Target;

/// How often another thread may be quicker before a turn is taken without being exact.
const TRIES: u32 = 16;

pub(super) fn choose<'t>(targets: &'t [Arc<Target>], search: &Search<'_>) -> Option<&'t Arc<Target>> {
    for _ in 0..TRIES {
        let turn = search.seeker.turn.load(Relaxed);
        // Who is new may miss its turn, unless it would be the only one.
        let after = |patient| steps(targets, turn, |target, at| open(target, search, patient, at));
        let rising = search.has_slow_start();
        let (step, target, limit) = rising.then(|| after(true)).flatten().or_else(|| after(false))?;
        // The turn goes to whom it was taken for, and no part of it to the one behind who has no room.
        let next = turn.wrapping_add(step).wrapping_add(1);
        let won = search.seeker.turn.compare_exchange(turn, next, Relaxed, Relaxed).is_ok();
        if won && target.take(limit) {
            return Some(target);
        }
    }
    targets.iter().find(|target| search.open(target).is_some_and(|limit| target.take(limit)))
}

/// The first that is open from this turn on, and how many turns that is.
fn steps(
    targets: &[Arc<Target>],
    turn: u64,
    open: impl Fn(&Target, u64) -> Option<u32>,
) -> Option<(u64, &Arc<Target>, u32)> {
    let count = u64::try_from(targets.len()).ok().filter(|count| *count > 0)?;
    (0..count).find_map(|step| {
        let at = turn.wrapping_add(step);
        let target = targets.get(usize::try_from(at % count).ok()?)?;
        Some((step, target, open(target, at)?))
    })
}

fn open(target: &Target, search: &Search<'_>, patient: bool, at: u64) -> Option<u32> {
    let limit = search.open(target)?;
    let drawn = mix(search.seeker.random ^ at) % u64::from(WHOLE);
    (!patient || drawn < u64::from(search.part(target))).then_some(limit)
}
