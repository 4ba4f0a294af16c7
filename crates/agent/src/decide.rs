//! What a node does about one release now: how many instances to start, which to drain, and why.
//!
//! Pure: everything it looks at is in [`View`], and the same view gives the same decision. The fast
//! loop chooses here inside the envelope (`min`, `max`) that the slow loop has set.

use std::{collections::BTreeSet, time::Duration};

use minato_model::{ids::InstanceId, routing::Load};

use crate::recycle::Why;

mod renew;

/// Everything that a decision rests on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct View {
    /// The release's share in the slice; `None`: it has none, or the node is stopping.
    pub(crate) envelope: Option<Envelope>,
    /// What the edge says it carries.
    pub(crate) load: Load,
    /// What the edge has asked for since the last decision.
    pub(crate) woken: u32,
    /// Whether a start can succeed at all: its tree is there, and it isn't backing off.
    pub(crate) startable: bool,
    /// Whether an instance ended by itself, or is being replaced, since the last successful start.
    pub(crate) replacing: bool,
    /// Whether this is a look in time: without one nothing is drained for want of load, and nobody is
    /// renewed.
    pub(crate) tick: bool,
    /// Whether routine may go on: nothing of the service fails, and no release is under way.
    pub(crate) calm: bool,
    /// Instances that were told to go for a renewal, and still have requests.
    pub(crate) leaving: u32,
    /// Instances that were told to go for a renewal, and are there for nothing but their own end.
    pub(crate) ending: u32,
    /// Its instances that start or serve.
    pub(crate) instances: Vec<Candidate>,
    /// Its instances that are out of routing until they are well.
    pub(crate) unwell: Vec<Unwell>,
}

/// What the slow loop allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) min: u32,
    pub(crate) max: u32,
    /// Its part of the requests.
    pub(crate) weight: u32,
    /// Requests in flight that one instance is meant to hold.
    pub(crate) concurrency: u32,
    /// To `min` after this long without a request.
    pub(crate) idle: Duration,
}

/// An instance that starts or serves.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) id: InstanceId,
    /// How long it has been ready; `None`: it starts.
    pub(crate) ready: Option<Duration>,
    pub(crate) in_flight: u32,
    /// Why it should be renewed.
    pub(crate) renew: Option<Why>,
    /// Half of what is left of its certificate's life, when it should be renewed for that, is over too.
    pub(crate) pressing: bool,
    /// Whose place it was started for, and why.
    pub(crate) replaces: Option<(InstanceId, Why)>,
}

/// An instance that is out of routing.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Unwell {
    pub(crate) id: InstanceId,
    /// For how long.
    pub(crate) since: Duration,
    /// What it is replaced for if it stays so.
    pub(crate) why: Why,
}

/// What asked for a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AskedBy {
    Request,
    Minimum,
    Rollout,
    Replacement,
    Recycle,
}

impl AskedBy {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Minimum => "minimum",
            Self::Rollout => "rollout",
            Self::Replacement => "replacement",
            Self::Recycle => "recycle",
        }
    }
}

/// Why an instance is drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DrainCause {
    /// The slice gives its release no instance any more.
    Retired,
    /// There are more than the slice allows.
    OverMax,
    /// No request for as long as `idle` says.
    Idle,
    /// Fewer would have carried the peak of the last minute.
    ScaleIn,
    /// It is renewed: another one takes its place, or it would not be well again.
    Renewed(Why),
    /// The node's server is stopping.
    NodeStopping,
}

impl DrainCause {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Retired => "its release gets no instances any more",
            Self::OverMax => "there are more instances than the service may have",
            Self::Idle => "no request came for the service's idle time",
            Self::ScaleIn => "fewer instances would have carried the last minute",
            Self::Renewed(why) => why.reason(),
            Self::NodeStopping => "the server is stopping",
        }
    }
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Decision {
    pub(crate) start: Option<Start>,
    /// Who gets a replacement of its own, started now.
    pub(crate) renew: Vec<Renewal>,
    pub(crate) drain: Vec<(InstanceId, DrainCause)>,
    /// When it should be looked at again, if nothing happens before.
    pub(crate) look: Option<Duration>,
}

/// The start of a replacement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Renewal {
    pub(crate) old: InstanceId,
    pub(crate) why: Why,
}

impl Renewal {
    pub(crate) fn asked_by(&self) -> AskedBy {
        if self.why.is_routine() { AskedBy::Recycle } else { AskedBy::Replacement }
    }
}

/// How many to start, and what for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) count: u32,
    pub(crate) asked_by: AskedBy,
}

/// The one decision about a release.
pub(crate) fn decide(view: &View) -> Decision {
    let Some(envelope) = view.envelope.as_ref().filter(|envelope| envelope.max > 0) else {
        let all = view.instances.iter().map(|i| &i.id).chain(view.unwell.iter().map(|i| &i.id));
        let drain = all.map(|id| (id.clone(), DrainCause::Retired)).collect();
        return Decision { drain, ..Decision::default() };
    };
    let mut decision = capacity(view, envelope);
    if view.tick {
        let quiet = decision == (Decision { look: decision.look, ..Decision::default() });
        renew::renew(view, &mut decision, quiet);
    }
    decision.drain.extend(renew::replaced(view));
    if view.tick {
        let hopeless = renew::beyond_hope(view, &decision);
        decision.drain.extend(hopeless);
    }
    let mut told = BTreeSet::new();
    decision.drain.retain(|(id, _)| told.insert(id.clone()));
    decision
}

/// How many the load and the envelope want. One that starts for another counts with it as one.
fn capacity(view: &View, envelope: &Envelope) -> Decision {
    let have = have(view);
    let need = need(&view.load, envelope.concurrency).max(view.woken);
    let wanted = need.max(envelope.min).min(envelope.max);
    if have > envelope.max {
        let drain = least_used(view, have - envelope.max, DrainCause::OverMax);
        return Decision { drain, ..Decision::default() };
    }
    if wanted > have {
        let asked_by = if view.replacing {
            AskedBy::Replacement
        } else if need > have {
            AskedBy::Request
        } else if envelope.weight == 0 {
            AskedBy::Rollout
        } else {
            AskedBy::Minimum
        };
        // Who is out of routing serves nobody, but runs: `max` is exceeded by a tenth at most.
        let room = (envelope.max + renew::surge(view)).saturating_sub(have + count(view.unwell.len()));
        let count = room.min(wanted - have);
        let start = (view.startable && count > 0).then_some(Start { count, asked_by });
        return Decision { start, ..Decision::default() };
    }
    surplus(view, envelope, have)
}

/// Its instances, those that start in another's place not counted.
fn have(view: &View) -> u32 {
    count(view.instances.iter().filter(|candidate| !renew::is_second(view, candidate)).count())
}

/// Instances that this many requests take.
pub(crate) fn need(load: &Load, concurrency: u32) -> u32 {
    load.in_flight.saturating_add(load.waiting).div_ceil(concurrency.max(1))
}

/// Whom the load doesn't need: all above `min` when idle, else one at a time above what the peak of
/// the last minute took. While one starts the load is rising: nobody goes.
fn surplus(view: &View, envelope: &Envelope, have: u32) -> Decision {
    let readiness = |of: &dyn Fn(&Candidate) -> bool| {
        view.instances.iter().filter(|candidate| of(candidate)).map(|candidate| candidate.ready).min()
    };
    let Some(youngest) = readiness(&|_| true).flatten().filter(|_| have > envelope.min) else {
        return Decision::default();
    };
    // A new instance is given its idle time even if the last request was long ago: it was wanted. Not
    // one that took another's place.
    let wanted = readiness(&|candidate| candidate.replaces.is_none()).flatten();
    let idle = view.load.idle.map_or(youngest, |idle| wanted.map_or(idle, |wanted| idle.min(wanted)));
    let still = view.load.in_flight == 0 && view.load.waiting == 0;
    if still && idle >= envelope.idle && view.tick {
        let drain = least_used(view, have - envelope.min, DrainCause::Idle);
        return Decision { drain, ..Decision::default() };
    }
    let look = if still { envelope.idle.saturating_sub(idle) } else { envelope.idle };
    let peak = view.load.peak.max(1).div_ceil(envelope.concurrency.max(1));
    // A minute of measurement must have passed before it can say that somebody was not needed.
    let measured = view.load.idle.is_some()
        && wanted.unwrap_or(Duration::MAX) >= Duration::from_secs(60).min(envelope.idle);
    let scale_in = view.tick && measured && have > envelope.min.max(peak);
    let drain = if scale_in { least_used(view, 1, DrainCause::ScaleIn) } else { Vec::new() };
    Decision { drain, look: Some(look), ..Decision::default() }
}

/// Who has the least to do: those that still start, then by requests in flight; of equals the one
/// that has served longest. Who was to take its place goes too.
fn least_used(view: &View, number: u32, cause: DrainCause) -> Vec<(InstanceId, DrainCause)> {
    let mut order: Vec<&Candidate> =
        view.instances.iter().filter(|candidate| !renew::is_second(view, candidate)).collect();
    order.sort_by(|a, b| {
        (a.ready.is_some(), a.in_flight, b.ready).cmp(&(b.ready.is_some(), b.in_flight, a.ready))
    });
    let chosen = order.into_iter().take(number as usize);
    let with_second = chosen.flat_map(|one| [Some(one), renew::second(view, one)]).flatten();
    with_second.map(|candidate| (candidate.id.clone(), cause)).collect()
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
