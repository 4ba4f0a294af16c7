//! One step of a roll-out: from what was seen to the next phase, or to why it waits.

use std::{collections::BTreeMap, time::Duration};

use minato_model::{
    code::Code,
    ids::{InstanceId, ReleaseNumber},
    inventory::{Failure, Preparation, Report},
};

use super::{Phase, Rollout};

/// So many failed starts in a row say that a release can't be started.
const FAILURES: u32 = 3;

/// What the nodes report of a service, taken together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    /// Whether there is a node, every node has the slice that follows from the roll-out as it is, and
    /// has confirmed it.
    pub in_force: bool,
    /// How each release stands.
    pub releases: BTreeMap<ReleaseNumber, Standing>,
}

/// How a release stands in the whole cluster.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Standing {
    /// Instances that requests may go to.
    pub ready: u32,
    /// Instances that run.
    pub running: u32,
    /// Nodes that could start it at once.
    pub prepared: u32,
    /// Nodes that are still preparing it.
    pub preparing: u32,
    /// Why a node can't have it.
    pub unprepared: Option<(Code, String)>,
    /// The longest series of failures on a node; the node's own fault only where nothing else failed.
    pub failing: Option<Failure>,
}

/// What the service's keys say of a roll-out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// `scale.min`.
    pub min: u32,
    /// `drain`.
    pub drain: Duration,
    /// `release.deadline`.
    pub deadline: Duration,
}

/// What follows.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Nothing yet.
    Wait {
        /// What for.
        why: String,
    },
    /// It is elsewhere from now on; the reason is in it.
    Move(Rollout),
}

impl Seen {
    /// Takes reports of the same service together.
    #[must_use]
    pub fn collect<'a>(in_force: bool, reports: impl IntoIterator<Item = &'a Report>) -> Self {
        let mut releases = BTreeMap::<ReleaseNumber, Standing>::new();
        for one in reports.into_iter().flat_map(|report| &report.releases) {
            let all = releases.entry(one.number).or_default();
            all.ready = all.ready.saturating_add(one.ready);
            all.running = all.running.saturating_add(one.running);
            match &one.preparation {
                Preparation::Preparing => all.preparing += 1,
                Preparation::Prepared => all.prepared += 1,
                Preparation::Failed { code, reason } => {
                    // What says something about the release is not hidden by what only a node lacks.
                    if all.unprepared.as_ref().is_none_or(|(known, _)| known.is_of_the_node()) {
                        all.unprepared = Some((*code, reason.clone()));
                    }
                }
            }
            let row = |failure: &Option<Failure>| {
                failure.as_ref().map(|failure| (!failure.code.is_of_the_node(), failure.in_a_row))
            };
            if row(&one.failing) > row(&all.failing) {
                all.failing.clone_from(&one.failing);
            }
        }
        Self { in_force, releases }
    }

    /// How a release stands; nothing where no node knows it.
    #[must_use]
    pub fn of(&self, number: ReleaseNumber) -> Standing {
        self.releases.get(&number).cloned().unwrap_or_default()
    }
}

/// What follows from what is seen, `passed` after the roll-out was last looked at (add it to
/// `elapsed` and `in_phase` whatever the answer is).
#[must_use]
pub fn step(rollout: &Rollout, seen: &Seen, limits: &Limits, passed: Duration) -> Step {
    let now = aged(rollout, passed);
    if let Some(failed) = failure(&now, seen, limits) {
        return Step::Move(failed);
    }
    if !seen.in_force {
        return Step::Wait { why: "not every node has confirmed what it was told".to_owned() };
    }
    if let Some(gone) = now.leaving.iter().copied().find(|number| seen.of(*number).running == 0) {
        return Step::Move(forget(now, gone));
    }
    let target = seen.of(now.target);
    match now.phase {
        Phase::Starting => starting(now, &target, limits),
        Phase::Warming { batch } => warming(now, batch, &target),
        Phase::Shifting { batch } => shifting(now, batch, seen),
        Phase::Draining { batch, keep } => draining(now, batch, keep, seen, limits),
        Phase::Stable => Step::Wait { why: "stable".to_owned() },
        Phase::Failed { .. } => recovering(now, &target, limits),
    }
}

fn aged(rollout: &Rollout, passed: Duration) -> Rollout {
    let mut now = rollout.clone();
    now.elapsed = now.elapsed.saturating_add(passed);
    now.in_phase = now.in_phase.saturating_add(passed);
    now
}

fn moved(mut rollout: Rollout, phase: Phase, reason: String) -> Step {
    rollout.phase = phase;
    rollout.reason = reason;
    rollout.in_phase = Duration::ZERO;
    Step::Move(rollout)
}

fn forget(mut rollout: Rollout, gone: ReleaseNumber) -> Rollout {
    rollout.leaving.remove(&gone);
    rollout
}

/// Whether the target has to be taken back. Not once every request goes to it: from there the old
/// release only finishes.
fn failure(now: &Rollout, seen: &Seen, limits: &Limits) -> Option<Rollout> {
    let last = matches!(now.phase, Phase::Draining { keep: 0, .. });
    if !now.under_way() || last {
        return None;
    }
    let evidence = if seen.in_force { evidence(now, &seen.of(now.target)) } else { None };
    let late = || {
        let why = format!("it wasn't stable within its deadline of {} s", limits.deadline.as_secs());
        (now.elapsed > limits.deadline).then_some((None, None, why))
    };
    let (code, instance, why) = evidence.or_else(late)?;
    let mut failed = now.clone();
    failed.phase = Phase::Failed { code, instance };
    failed.in_phase = Duration::ZERO;
    failed.reason = why;
    if failed.serving.is_some() {
        failed.leaving.insert(failed.target);
    }
    Some(failed)
}

/// What the target itself shows against it.
fn evidence(now: &Rollout, target: &Standing) -> Option<(Option<Code>, Option<InstanceId>, String)> {
    // A node that has no room is no fault of the release: the deadline bounds the wait for it.
    let own = |code: Code| !code.is_of_the_node();
    if let Some((code, reason)) = target.unprepared.as_ref().filter(|(code, _)| own(*code)) {
        return Some((Some(*code), None, reason.clone()));
    }
    let failing = target.failing.as_ref()?;
    let counts =
        failing.in_a_row >= FAILURES && own(failing.code) && !now.forgiven.contains(&failing.instance);
    counts.then(|| {
        let why = format!("{} starts failed in a row; the last: {}", failing.in_a_row, failing.reason);
        (Some(failing.code), Some(failing.instance.clone()), why)
    })
}

fn starting(now: Rollout, target: &Standing, limits: &Limits) -> Step {
    if target.preparing > 0 || target.prepared == 0 {
        return Step::Wait { why: "its image is being prepared".to_owned() };
    }
    if target.ready < limits.min {
        return Step::Wait { why: format!("{} of {} instances are ready", target.ready, limits.min) };
    }
    let reason = match limits.min {
        0 => "the first release: prepared, and started by the first request".to_owned(),
        min => format!("the first release: {min} instances are ready"),
    };
    stable(now, reason)
}

fn warming(now: Rollout, batch: u32, target: &Standing) -> Step {
    let wanted = now.moved(batch);
    if target.ready < wanted {
        return Step::Wait { why: format!("{} of {wanted} new instances are ready", target.ready) };
    }
    let reason =
        format!("{wanted} new instances are ready: they get {wanted} of {} parts of the requests", now.size);
    moved(now, Phase::Shifting { batch }, reason)
}

fn shifting(now: Rollout, batch: u32, seen: &Seen) -> Step {
    let (before, done) = (now.size - now.moved(batch - 1), now.moved(batch));
    let left = now.size - done;
    // What serves may have grown or shrunk since the beginning: it loses its part of what is there.
    let ready = now.serving.map_or(0, |serving| seen.of(serving).ready);
    let share = u64::from(ready) * u64::from(left);
    let keep = u32::try_from(share.div_ceil(u64::from(before.max(1)))).unwrap_or(u32::MAX);
    let keep = if left == 0 { 0 } else { keep.max(1) };
    moved(
        now,
        Phase::Draining { batch, keep },
        format!("every node routes by the new weights: {keep} old instances stay"),
    )
}

fn draining(now: Rollout, batch: u32, keep: u32, seen: &Seen, limits: &Limits) -> Step {
    let old = now.serving.map(|serving| seen.of(serving)).unwrap_or_default();
    if keep > 0 {
        if old.ready > keep {
            return Step::Wait {
                why: format!("{} old instances are still routed to, {keep} stay", old.ready),
            };
        }
        return moved(now, Phase::Warming { batch: batch + 1 }, format!("{keep} old instances are left"));
    }
    if old.running == 0 {
        return stable(now, "nothing of the old release runs any more".to_owned());
    }
    // Streams may outlast everything; they finish while the release counts as stable.
    if now.in_phase > limits.drain + STOP {
        let reason = format!("every request goes to it; {} old instances finish their streams", old.running);
        return stable(now, reason);
    }
    Step::Wait { why: format!("{} old instances finish what they have", old.running) }
}

/// From SIGTERM to SIGKILL, and a little.
const STOP: Duration = Duration::from_secs(12);

fn stable(mut now: Rollout, reason: String) -> Step {
    if let Some(serving) = now.serving.replace(now.target).filter(|serving| *serving != now.target) {
        now.leaving.insert(serving);
    }
    now.forgiven.clear();
    moved(now, Phase::Stable, reason)
}

/// A first release has nothing to go back to: it stays in force, and is good once it starts.
fn recovering(now: Rollout, target: &Standing, limits: &Limits) -> Step {
    if now.serving.is_some() {
        return Step::Wait { why: "taken back".to_owned() };
    }
    if target.ready < limits.min.max(1) {
        return Step::Wait { why: "it has no other release to go back to, so it is tried again".to_owned() };
    }
    stable(now, format!("{} instances are ready after all", target.ready))
}
