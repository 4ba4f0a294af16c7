//! Writing down what was planned, if what it was planned from still stands.
//!
//! ```text
//! records, releases, files (in parts, where an app is large)  ─▶  the app's declaration  ─▶  old files go
//! ```
//! The declaration is the point of no return. What comes before it is harmless alone: a number that
//! was given, an address that was reserved, a release that nobody runs.

use std::collections::BTreeSet;

use minato_model::{
    code::{Code, Problem},
    ids::{ServiceKey, ServiceName},
    keys,
    network::VIRTUAL_OFFSETS,
};
use minato_planner::{
    plan::{Planned, Step},
    record::ServiceRecord,
};
use minato_state::{Revision, Write, limits::COMMIT_OPERATIONS};

use super::{
    doors::Doors,
    look::{Look, key},
};
use crate::{
    core::{Batch, Core, Fault},
    reconcile::rollouts,
    world::World,
};

/// Writes it; `false`: something moved, nothing is declared, look again.
pub(super) async fn commit(core: &Core, look: &Look, doors: &Doors) -> Result<bool, Problem> {
    let mut claims = look.world.claims;
    for (key, id) in changed(look, Which::New) {
        // One a commit: each may be large. Who sent them has them all, or nothing was planned.
        let Some(files) = doors.files(&key, id) else { continue };
        let mut batch = Batch::default();
        batch.put(keys::door(&key, id), files)?;
        if !write(core, batch, &mut claims).await? {
            return Ok(false);
        }
    }
    let mut batch = Batch::default();
    for part in services(look)? {
        // Two operations are the claims', and as many as there are apps the declaration's.
        let full = batch.guards.len() + part.guards.len() + look.planned.len() + 2 > COMMIT_OPERATIONS;
        if full && !write(core, std::mem::take(&mut batch), &mut claims).await? {
            return Ok(false);
        }
        batch.guards.extend(part.guards);
        batch.writes.extend(part.writes);
    }
    for planned in look.planned.iter().filter(|planned| !planned.plan.changes.is_empty()) {
        let path = keys::app(&planned.plan.app);
        let modified = look.world.apps.get(&planned.plan.app).map_or(0, |app| app.modified);
        match &planned.next {
            Some(next) => batch.replace(path, modified, next)?,
            None => batch.remove(path, modified),
        }
    }
    if batch.guards.len() + 1 > COMMIT_OPERATIONS {
        return Err(Problem::new(Code::InvalidRequest, "too many apps in one request: apply them in parts"));
    }
    if !batch.writes.is_empty() && !write(core, batch, &mut claims).await? {
        return Ok(false);
    }
    forget(core, look, claims).await;
    Ok(true)
}

/// Of two.
#[derive(Clone, Copy)]
enum Which {
    Old,
    New,
}

/// The files that are no longer what the service has, or weren't before.
fn changed(look: &Look, which: Which) -> impl Iterator<Item = (ServiceKey, &str)> {
    look.planned.iter().flat_map(move |planned| {
        let app = &planned.plan.app;
        let old = look.world.apps.get(app).map(|app| &app.value.presented);
        let new = planned.next.as_ref().map(|next| &next.presented);
        let (these, others) = match which {
            Which::Old => (old, new),
            Which::New => (new, old),
        };
        let differs = move |name: &ServiceName, id: &str| {
            others.and_then(|others| others.get(name)).is_none_or(|other| other.id != id)
        };
        these.into_iter().flatten().filter(move |(name, these)| differs(name, &these.id)).map(
            move |(name, these)| (ServiceKey { app: app.clone(), service: name.clone() }, these.id.as_str()),
        )
    })
}

/// Takes away files that nothing names any more. What can't be taken away now, or is named again already,
/// is left for the sweep when control begins.
async fn forget(core: &Core, look: &Look, claims: Revision) {
    let old: Vec<String> = changed(look, Which::Old).map(|(key, id)| keys::door(&key, id)).collect();
    for some in old.chunks(COMMIT_OPERATIONS) {
        let mut batch = Batch::default();
        batch.guard(keys::CLAIMS.to_owned(), claims);
        batch.writes.extend(some.iter().map(|key| Write::Delete { key: key.clone() }));
        match core.commit(batch).await {
            Ok(Some(_)) => {}
            Ok(None) => return,
            Err(fault) => {
                tracing::warn!(
                    error = &fault as &dyn std::error::Error,
                    "files of a service's doors that nothing names any more could not be taken away"
                );
                return;
            }
        }
    }
}

/// Commits under the claims, so that of two changes at once, of whatever apps, one looks again.
async fn write(core: &Core, mut batch: Batch, claims: &mut Revision) -> Result<bool, Fault> {
    batch.replace(keys::CLAIMS.to_owned(), *claims, &())?;
    let written = core.commit(batch).await?;
    if let Some(revision) = written {
        *claims = revision;
    }
    Ok(written.is_some())
}

/// What each service that gets a release has to have before: its record, its release, and where the
/// same release is tried again, its roll-out from the start.
fn services(look: &Look) -> Result<Vec<Batch>, Problem> {
    let mut used: BTreeSet<u16> =
        look.world.services.values().map(|record| record.value.virtual_offset).collect();
    let mut parts = Vec::new();
    for planned in &look.planned {
        for step in &planned.steps {
            parts.extend(service(&look.world, planned, step, &mut used)?);
        }
    }
    Ok(parts)
}

fn service(
    world: &World,
    planned: &Planned,
    step: &Step,
    used: &mut BTreeSet<u16>,
) -> Result<Option<Batch>, Problem> {
    let Step::Release { service: name, release, new, .. } = step else { return Ok(None) };
    let key = key(planned, name);
    let mut batch = Batch::default();
    let kept = world.services.get(&key);
    let mut record = match kept {
        Some(kept) => kept.value.clone(),
        None => {
            ServiceRecord { virtual_offset: reserve(used)?, last_release: 0, taken_back: Default::default() }
        }
    };
    record.last_release = record.last_release.max(release.number);
    record.taken_back.remove(&release.hash);
    if kept.is_none_or(|kept| kept.value != record) {
        batch.replace(keys::service(&key), kept.map_or(0, |kept| kept.modified), &record)?;
    }
    if *new {
        batch.replace(keys::release(&key, release.number), 0, &**release)?;
    }
    again(world, planned, &key, release.number, &mut batch)?;
    Ok((!batch.writes.is_empty()).then_some(batch))
}

/// A roll-out that ended with this very release begins anew.
fn again(
    world: &World,
    planned: &Planned,
    key: &ServiceKey,
    number: u32,
    batch: &mut Batch,
) -> Result<(), Fault> {
    let ended = world.rollouts.get(key).filter(|rollout| rollout.value.target == number);
    let service = planned.next.as_ref().and_then(|next| next.manifest.services.get(&key.service));
    let (Some(ended), Some(service)) = (ended, service) else { return Ok(()) };
    let next = rollouts::beginning(world, key, service, number);
    batch.replace(keys::rollout(key), ended.modified, &next)
}

/// The lowest offset that no service ever had.
fn reserve(used: &mut BTreeSet<u16>) -> Result<u16, Problem> {
    let free = VIRTUAL_OFFSETS.into_iter().find(|offset| !used.contains(offset));
    let free = free.ok_or_else(|| {
        Problem::new(Code::InvalidRequest, "every virtual address has been given to a service already")
    })?;
    used.insert(free);
    Ok(free)
}
