//! Begins a roll-out where another release is declared than is rolled out, and moves those under way.

use std::{collections::BTreeMap, time::Duration};

use minato_model::{
    event::Event,
    ids::{ReleaseNumber, ServiceKey},
    keys,
    manifest::Service,
};
use minato_planner::{
    record::TakenBack,
    release,
    rollout::{Limits, Phase, Rollout, Seen, Step, step},
};
use minato_state::Revision;
use tokio::time::Instant;

use crate::{
    core::{Batch, Core, Fault},
    world::{Kept, World},
};

/// How often elapsed time is written down while nothing else moves: what a crash may forget.
const KEEP_TIME: Duration = Duration::from_secs(5);

/// Since when each roll-out has been looked at in the version that is stored.
pub(crate) type Clocks = BTreeMap<ServiceKey, (Revision, Instant)>;

/// Begins what is declared and not begun, and removes what belongs to nothing; says whether there was
/// any.
pub(crate) async fn begin(core: &Core, world: &World) -> Result<bool, Fault> {
    let mut changed = false;
    for (key, app, service) in world.declared() {
        let Some(target) = app.value.releases.get(&key.service).copied() else { continue };
        let before = world.rollouts.get(&key);
        if before.is_some_and(|before| before.value.target == target) {
            continue;
        }
        let mut next = beginning(world, &key, service, target);
        next.reason.push_str(&differing(core, &key, next.serving, target).await?);
        let mut batch = Batch::default();
        batch.guard(keys::app(&key.app), app.modified);
        batch.replace(keys::rollout(&key), before.map_or(0, |before| before.modified), &next)?;
        if core.commit(batch).await?.is_some() {
            core.record(
                Event::new(core.now(), "release_started", next.reason)
                    .with_service(&key)
                    .with_release(target),
            );
        }
        changed = true;
    }
    for (key, rollout) in world.rollouts.iter().filter(|(key, _)| world.service(key).is_none()) {
        let mut batch = Batch::default();
        batch.guard(keys::app(&key.app), world.apps.get(&key.app).map_or(0, |app| app.modified));
        batch.remove(keys::rollout(key), rollout.modified);
        core.commit(batch).await?;
        changed = true;
    }
    Ok(changed)
}

/// How a roll-out of this release begins as things are.
pub(crate) fn beginning(
    world: &World,
    key: &ServiceKey,
    service: &Service,
    target: ReleaseNumber,
) -> Rollout {
    let before = world.rollouts.get(key).map(|before| &before.value);
    let seen = Seen::collect(false, world.reports_of(key).map(|(_, report)| report));
    let serving = before.and_then(Rollout::in_service);
    let ready = serving.map_or(0, |serving| seen.of(serving).ready).min(service.scale.max);
    let of_target = world.reports_of(key).flat_map(|(_, report)| &report.releases);
    let failed = of_target.filter(|standing| standing.number == target);
    let forgiven = failed.filter_map(|standing| Some(standing.failing.as_ref()?.instance.clone())).collect();
    let reason = match serving {
        None => format!("release {target} is the first"),
        Some(serving) if serving == target => format!("release {target} serves already"),
        Some(serving) => format!("release {target} follows release {serving}"),
    };
    Rollout::begin(target, before, ready, forgiven, reason)
}

/// What differs between what serves and what is to, in a few words.
async fn differing(
    core: &Core,
    key: &ServiceKey,
    serving: Option<ReleaseNumber>,
    target: ReleaseNumber,
) -> Result<String, Fault> {
    let releases = core.releases(key, serving.into_iter().chain([target]).collect()).await?;
    let old = serving.filter(|serving| *serving != target).and_then(|serving| releases.get(&serving));
    let Some((old, new)) = old.zip(releases.get(&target)) else { return Ok(String::new()) };
    Ok(format!(": {}", release::differences(old, &new.spec, &new.image.to_string()).join("; ")))
}

/// Moves what can be moved; says whether there was any.
pub(crate) async fn advance(core: &Core, world: &World, clocks: &mut Clocks) -> Result<bool, Fault> {
    let mut changed = false;
    for (key, _, service) in world.declared() {
        let Some(rollout) = world.rollouts.get(&key) else { continue };
        let Some(wanted) = world.wanted(core, &key, service).await? else { continue };
        let passed = passed(clocks, &key, rollout.modified);
        let seen = world.seen(&key, &wanted);
        match step(&rollout.value, &seen, &limits(service), passed) {
            Step::Move(next) => {
                enter(core, world, &key, rollout, next).await?;
                changed = true;
            }
            Step::Wait { .. } if rollout.value.under_way() && passed >= KEEP_TIME => {
                keep_time(core, &key, rollout, passed).await?;
                changed = true;
            }
            Step::Wait { .. } => {}
        }
    }
    clocks.retain(|key, _| world.rollouts.contains_key(key));
    Ok(changed)
}

/// What a service's keys say of its roll-outs.
pub(crate) fn limits(service: &Service) -> Limits {
    Limits { min: service.scale.min, drain: service.drain, deadline: service.release.deadline }
}

fn passed(clocks: &mut Clocks, key: &ServiceKey, modified: Revision) -> Duration {
    let now = Instant::now();
    let since = clocks.entry(key.clone()).or_insert((modified, now));
    if since.0 != modified {
        *since = (modified, now);
    }
    now.saturating_duration_since(since.1)
}

async fn keep_time(
    core: &Core,
    key: &ServiceKey,
    rollout: &Kept<Rollout>,
    passed: Duration,
) -> Result<(), Fault> {
    let mut next = rollout.value.clone();
    next.elapsed = next.elapsed.saturating_add(passed);
    next.in_phase = next.in_phase.saturating_add(passed);
    let mut batch = Batch::default();
    batch.replace(keys::rollout(key), rollout.modified, &next)?;
    core.commit(batch).await?;
    Ok(())
}

/// Writes the next phase down, with what the service remembers of it, and tells.
async fn enter(
    core: &Core,
    world: &World,
    key: &ServiceKey,
    from: &Kept<Rollout>,
    next: Rollout,
) -> Result<(), Fault> {
    let mut batch = Batch::default();
    batch.replace(keys::rollout(key), from.modified, &next)?;
    let ended = from.value.phase != next.phase && !next.under_way();
    if ended {
        remember(core, world, key, &next, &mut batch).await?;
    }
    if core.commit(batch).await?.is_none() || from.value.phase == next.phase {
        return Ok(());
    }
    let kind = match next.phase {
        Phase::Stable => "release_stable",
        Phase::Failed { .. } => "release_failed",
        Phase::Starting | Phase::Warming { .. } | Phase::Shifting { .. } | Phase::Draining { .. } => {
            "release_step"
        }
    };
    let data = serde_json::json!({ "phase": next.phase, "elapsed_ms": next.elapsed.as_millis() });
    core.record(
        Event::new(core.now(), kind, next.reason).with_service(key).with_release(next.target).with_data(data),
    );
    Ok(())
}

/// A release that failed is remembered by its hash; one that is good after all is forgiven.
async fn remember(
    core: &Core,
    world: &World,
    key: &ServiceKey,
    next: &Rollout,
    batch: &mut Batch,
) -> Result<(), Fault> {
    let Some(record) = world.services.get(key) else { return Ok(()) };
    let target = core.releases(key, [next.target].into()).await?.remove(&next.target);
    let Some(hash) = target.map(|target| target.hash) else { return Ok(()) };
    let mut value = record.value.clone();
    if let Phase::Failed { code, .. } = &next.phase {
        // A sentence is enough as evidence; what else there is, `why` tells.
        let reason = next.reason.chars().take(500).collect();
        value.take_back(&hash, TakenBack { number: next.target, code: *code, reason, at: core.now() });
    } else if value.taken_back.remove(&hash).is_none() {
        return Ok(());
    }
    batch.replace(keys::service(key), record.modified, &value)
}
