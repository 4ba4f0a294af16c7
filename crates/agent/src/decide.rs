//! What a node does about one release now: how many instances to start, which to drain, and why.
//!
//! Pure: everything it looks at is in [`View`], and the same view gives the same decision. The fast
//! loop chooses here inside the envelope (`min`, `max`) that the slow loop has set.

use std::time::Duration;

use minato_model::{ids::InstanceId, routing::Load};

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
    /// Whether this is a tick: without one nothing is drained for want of load.
    pub(crate) tick: bool,
    /// Its instances that start or serve.
    pub(crate) instances: Vec<Candidate>,
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
}

/// What asked for a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AskedBy {
    Request,
    Minimum,
    Rollout,
    Replacement,
}

impl AskedBy {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Minimum => "minimum",
            Self::Rollout => "rollout",
            Self::Replacement => "replacement",
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
    /// Its health check failed for too long, or it doesn't listen any more.
    Unhealthy,
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
            Self::Unhealthy => "it stayed unhealthy and is replaced",
            Self::NodeStopping => "the server is stopping",
        }
    }
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Decision {
    pub(crate) start: Option<Start>,
    pub(crate) drain: Vec<(InstanceId, DrainCause)>,
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
        return Decision {
            start: None,
            drain: view.instances.iter().map(|i| (i.id.clone(), DrainCause::Retired)).collect(),
        };
    };
    let have = count(view.instances.len());
    let need = need(&view.load, envelope.concurrency).max(view.woken);
    let wanted = need.max(envelope.min).min(envelope.max);
    if have > envelope.max {
        let excess = have - envelope.max;
        return Decision { start: None, drain: least_used(view, excess, DrainCause::OverMax) };
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
        let start = view.startable.then_some(Start { count: wanted - have, asked_by });
        return Decision { start, drain: Vec::new() };
    }
    Decision { start: None, drain: if view.tick { surplus(view, envelope) } else { Vec::new() } }
}

/// Instances that this many requests take.
pub(crate) fn need(load: &Load, concurrency: u32) -> u32 {
    load.in_flight.saturating_add(load.waiting).div_ceil(concurrency.max(1))
}

/// Whom the load doesn't need: all above `min` when idle, else one at a time above what the peak of
/// the last minute took. While one starts the load is rising: nobody goes.
fn surplus(view: &View, envelope: &Envelope) -> Vec<(InstanceId, DrainCause)> {
    let have = count(view.instances.len());
    let Some(youngest) =
        view.instances.iter().map(|i| i.ready).min().flatten().filter(|_| have > envelope.min)
    else {
        return Vec::new();
    };
    // A new instance is given its idle time even if the last request was long ago: it was wanted.
    let idle = view.load.idle.map_or(youngest, |idle| idle.min(youngest));
    let still = view.load.in_flight == 0 && view.load.waiting == 0;
    if still && idle >= envelope.idle {
        return least_used(view, have - envelope.min, DrainCause::Idle);
    }
    let peak = view.load.peak.max(1).div_ceil(envelope.concurrency.max(1));
    // A minute of measurement must have passed before it can say that somebody was not needed.
    let measured = view.load.idle.is_some() && youngest >= Duration::from_secs(60).min(envelope.idle);
    if measured && have > envelope.min.max(peak) {
        return least_used(view, 1, DrainCause::ScaleIn);
    }
    Vec::new()
}

/// Who has the least to do: those that still start, then by requests in flight; of equals the one
/// that has served longest.
fn least_used(view: &View, number: u32, cause: DrainCause) -> Vec<(InstanceId, DrainCause)> {
    let mut order: Vec<&Candidate> = view.instances.iter().collect();
    order.sort_by(|a, b| {
        (a.ready.is_some(), a.in_flight, b.ready).cmp(&(b.ready.is_some(), b.in_flight, a.ready))
    });
    order.into_iter().take(number as usize).map(|i| (i.id.clone(), cause)).collect()
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
