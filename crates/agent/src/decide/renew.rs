//! Renewal: a tenth of a release's instances at once, at least one. The replacement starts first, and
//! counts with the one whose place it takes as one instance, so that `max` is exceeded by as many.
//!
//! Routine always waits until the replacement is ready. Repair does so only for the last one that
//! serves: another goes at once, while its replacement starts. Who is to get another identity waits for
//! nothing else, and when that presses half of the instances are renewed at once.

use std::time::Duration;

use minato_model::ids::InstanceId;

use super::{Candidate, Decision, DrainCause, Renewal, View, count, have};
use crate::recycle::Why;

/// Who is out of routing for so long is replaced.
const UNHEALTHY_MAX: Duration = Duration::from_secs(30);
/// The same if its memory has grown meanwhile: it won't get better.
const LEAKING_MAX: Duration = Duration::from_secs(5);

/// A tenth of the instances, at least one.
pub(super) fn surge(view: &View) -> u32 {
    ((have(view) + count(view.unwell.len())) / 10).max(1)
}

/// Whether a candidate starts or serves in the place of one that is still there.
pub(super) fn is_second(view: &View, candidate: &Candidate) -> bool {
    first(view, candidate).is_some()
}

fn first<'a>(view: &'a View, second: &Candidate) -> Option<&'a Candidate> {
    let (old, _) = second.replaces.as_ref()?;
    view.instances.iter().find(|candidate| candidate.id == *old)
}

/// Who starts or serves in the place of this one.
pub(super) fn second<'a>(view: &'a View, first: &Candidate) -> Option<&'a Candidate> {
    let of = |second: &&Candidate| second.replaces.as_ref().is_some_and(|(old, _)| *old == first.id);
    view.instances.iter().find(of)
}

/// Those whose replacement is ready.
pub(super) fn replaced(view: &View) -> impl Iterator<Item = (InstanceId, DrainCause)> {
    let ready = view.instances.iter().filter(|second| second.ready.is_some());
    ready.filter_map(|second| {
        let (old, why) = second.replaces.clone()?;
        first(view, second).map(|_| (old, DrainCause::Renewed(why)))
    })
}

/// Those that were out of routing for too long, a tenth at a time: the next go when those before are
/// gone and who was started for them is ready. Where all are unwell for what a new one can't mend, some
/// are left that can get well.
pub(super) fn beyond_hope(view: &View, decided: &Decision) -> Vec<(InstanceId, DrainCause)> {
    let goes = |(_, cause): &&(InstanceId, DrainCause)| matches!(cause, DrainCause::Renewed(_));
    let going = view.leaving + view.ending + count(decided.drain.iter().filter(goes).count());
    let coming = count(view.instances.iter().filter(|candidate| candidate.ready.is_none()).count());
    let room = surge(view).saturating_sub(going + coming);
    let over = view.unwell.iter().filter(|unwell| unwell.since >= patience(unwell.why));
    let chosen = over.take(room as usize);
    chosen.map(|unwell| (unwell.id.clone(), DrainCause::Renewed(unwell.why))).collect()
}

fn patience(why: Why) -> Duration {
    match why {
        Why::Drifted | Why::Stuck | Why::Failing => Duration::ZERO,
        Why::Leaking => LEAKING_MAX,
        Why::Requests | Why::Age | Why::InFlight | Why::Memory | Why::Identity | Why::Unhealthy => {
            UNHEALTHY_MAX
        }
    }
}

/// Begins renewals: what presses, then repair before routine, those that have served longest first. When
/// it isn't `quiet`, as more are started or some stopped, none but those that can't wait.
pub(super) fn renew(view: &View, decision: &mut Decision, quiet: bool) {
    if !view.startable {
        return;
    }
    let seconds = count(view.instances.iter().filter(|candidate| is_second(view, candidate)).count());
    let mut serving = count(view.instances.iter().filter(|candidate| candidate.ready.is_some()).count());
    let room = surge(view).saturating_sub(seconds + view.leaving);
    let pressing = room.max((serving / 2).max(1).saturating_sub(seconds));
    let mut due: Vec<(&Candidate, Why)> = due(view, decision, quiet).collect();
    due.sort_by_key(|(candidate, why)| {
        (!candidate.pressing, why.waits(), why.is_routine(), std::cmp::Reverse(candidate.ready))
    });
    for (begun, (candidate, why)) in (0_u32..).zip(due) {
        if begun >= (if candidate.pressing { pressing } else { room }) {
            break;
        }
        decision.renew.push(Renewal { old: candidate.id.clone(), why });
        if !why.is_routine() && serving > 1 {
            serving -= 1;
            decision.drain.push((candidate.id.clone(), DrainCause::Renewed(why)));
        }
    }
}

/// Who may be renewed now.
fn due<'a>(view: &'a View, decision: &Decision, quiet: bool) -> impl Iterator<Item = (&'a Candidate, Why)> {
    let may = move |why: Why| why == Why::Identity || (quiet && (view.calm || !why.waits()));
    let goes = |candidate: &Candidate| decision.drain.iter().any(|(id, _)| *id == candidate.id);
    view.instances.iter().filter_map(move |candidate| {
        let why = candidate.renew.filter(|why| may(*why))?;
        let free =
            candidate.ready.is_some() && !is_second(view, candidate) && second(view, candidate).is_none();
        (free && !goes(candidate)).then_some((candidate, why))
    })
}
