//! Where a release of a service stands, and what comes next: a state machine driven by reports.
//!
//! ```text
//! first release:  Starting ──prepared, min ready──▶ Stable
//! the next:       Warming 1 ─▶ Shifting 1 ─▶ Draining 1 ─▶ Warming 2 ─▶ … ─▶ Draining n ─▶ Stable
//!                 └─────────── can't be started, or the deadline ──────────▶ Failed (taken back)
//! ```
//! A batch is a tenth of the instances that served when it began, at least one. *Warming* waits until
//! the new release has the batch ready, *Shifting* until every node routes by the new weights, and
//! only then *Draining* lets the old instances of the batch go: nothing is stopped that is still
//! routed to. Invariant: in every phase the releases that have weight can carry it.

mod step;

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, time::Duration};

use minato_model::{
    code::Code,
    ids::{InstanceId, ReleaseNumber},
    manifest::Scale,
};
use serde::{Deserialize, Serialize};

pub use self::step::{Limits, Seen, Standing, Step, step};

/// Where a service's release stands. Kept under `/rollouts/<app>/<service>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// The release that is brought in, or that is in.
    pub target: ReleaseNumber,
    /// The release that served before, and does until the target does; `None`: there was none.
    pub serving: Option<ReleaseNumber>,
    /// Releases of which nothing may start, and some may still finish.
    pub leaving: BTreeSet<ReleaseNumber>,
    /// How far it is.
    pub phase: Phase,
    /// Why it is there.
    pub reason: String,
    /// How many instances served when it began, at least 1: what the batches are counted in.
    pub size: u32,
    /// How long it has taken, counted while somebody drives it.
    pub elapsed: Duration,
    /// How long it has been in this phase, counted the same way.
    pub in_phase: Duration,
    /// Instances whose failure was known before it began: it isn't blamed for them.
    pub forgiven: BTreeSet<InstanceId>,
}

/// How far a roll-out is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Phase {
    /// A first release: it takes every request, and nothing vouches for it yet.
    Starting,
    /// The new release gets this batch ready, counted from 1; it has the requests of those before.
    Warming {
        /// Which batch.
        batch: u32,
    },
    /// The batch's requests move.
    Shifting {
        /// Which batch.
        batch: u32,
    },
    /// The old instances that the batch replaces finish.
    Draining {
        /// Which batch.
        batch: u32,
        /// How many of the old release stay.
        keep: u32,
    },
    /// The target serves.
    Stable,
    /// The target was taken back: what served before does. A first release goes on being tried.
    Failed {
        /// Which kind of reason; `None`: the deadline.
        code: Option<Code>,
        /// The instance that showed it.
        instance: Option<InstanceId>,
    },
}

/// What of a release there is to be in the whole cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The release.
    pub number: ReleaseNumber,
    /// Its part of the requests.
    pub weight: u32,
    /// Never fewer ready than this.
    pub min: u32,
    /// Never more than this; 0: all are drained.
    pub max: u32,
}

impl Rollout {
    /// The beginning of a roll-out of `target` where `before` stood. A release that serves already is
    /// stable at once; what never was good gives way at once.
    ///
    /// `ready` is how many instances of the serving release there are, `forgiven` whose failures are
    /// known.
    #[must_use]
    pub fn begin(
        target: ReleaseNumber,
        before: Option<&Self>,
        ready: u32,
        forgiven: BTreeSet<InstanceId>,
        reason: impl Into<String>,
    ) -> Self {
        let serving = before.and_then(Self::in_service);
        let mut leaving = before.map(Self::numbers).unwrap_or_default();
        leaving.remove(&target);
        serving.map(|serving| leaving.remove(&serving));
        let phase = match serving {
            None => Phase::Starting,
            Some(serving) if serving == target => Phase::Stable,
            Some(_) => Phase::Warming { batch: 1 },
        };
        let (elapsed, in_phase) = (Duration::ZERO, Duration::ZERO);
        let size = ready.max(1);
        Self { target, serving, leaving, phase, reason: reason.into(), size, elapsed, in_phase, forgiven }
    }

    /// The release that has proved itself and takes requests; `None`: there is none yet.
    #[must_use]
    pub fn in_service(&self) -> Option<ReleaseNumber> {
        match self.phase {
            Phase::Stable => Some(self.target),
            Phase::Starting
            | Phase::Warming { .. }
            | Phase::Shifting { .. }
            | Phase::Draining { .. }
            | Phase::Failed { .. } => self.serving,
        }
    }

    /// Whether it still moves.
    #[must_use]
    pub fn under_way(&self) -> bool {
        !matches!(self.phase, Phase::Stable | Phase::Failed { .. })
    }

    /// Every release that a node may still have instances of.
    #[must_use]
    pub fn numbers(&self) -> BTreeSet<ReleaseNumber> {
        self.leaving.iter().copied().chain(self.serving).chain([self.target]).collect()
    }

    /// How many of the `size` instances are replaced once this many batches are.
    fn moved(&self, batches: u32) -> u32 {
        let batch = (self.size / 10).max(1);
        batches.saturating_mul(batch).min(self.size)
    }

    /// Which releases there are to be, with weights and bounds, under the service's present scale.
    #[must_use]
    pub fn parts(&self, scale: &Scale) -> Vec<Part> {
        let whole = |number| Part { number, weight: 1, min: scale.min.min(scale.max), max: scale.max };
        let gone = |number| Part { number, weight: 0, min: 0, max: 0 };
        let mut parts: Vec<Part> = self.leaving.iter().copied().map(gone).collect();
        match (&self.phase, self.serving) {
            (Phase::Stable, _) | (_, None) => parts.push(whole(self.target)),
            (Phase::Failed { .. }, Some(serving)) => parts.push(whole(serving)),
            (Phase::Starting, Some(serving)) => parts.extend([whole(serving), gone(self.target)]),
            (Phase::Warming { batch }, Some(serving)) => {
                let (done, ready) = (self.moved(batch - 1), self.moved(*batch));
                parts.extend(self.share_out(serving, done, ready, scale.max, scale));
            }
            (Phase::Shifting { batch }, Some(serving)) => {
                let done = self.moved(*batch);
                parts.extend(self.share_out(serving, done, done, scale.max, scale));
            }
            (Phase::Draining { batch, keep }, Some(serving)) => {
                let done = self.moved(*batch);
                parts.extend(self.share_out(serving, done, done, *keep, scale));
            }
        }
        parts.sort_by_key(|part| part.number);
        parts
    }

    /// The requests of `done` of the instances for the target, the others' for what serves; the
    /// target gets `ready` of its own, and what serves at most `keep`. While both are there, their
    /// number may exceed the service's `max`.
    fn share_out(
        &self,
        serving: ReleaseNumber,
        done: u32,
        ready: u32,
        keep: u32,
        scale: &Scale,
    ) -> [Part; 2] {
        let left = self.size - done;
        let max = scale.max.max(ready);
        let min = scale.min.min(left).min(keep);
        [
            Part { number: self.target, weight: done, min: ready, max },
            Part { number: serving, weight: left, min, max: keep },
        ]
    }
}
