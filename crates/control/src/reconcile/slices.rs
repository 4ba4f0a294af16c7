//! Writes to every node what it is to know of each service, and takes away what it is no more.
//!
//! A node puts in force one revision at a time, so what belongs together is written together: a host that
//! goes from one service to another is at no moment nobody's.

use minato_model::{
    ids::{AppName, Generation},
    keys,
    slice::Slice,
};
use minato_state::{
    Revision, Write,
    limits::{COMMIT_BYTES, COMMIT_OPERATIONS},
};

use crate::{
    core::{Batch, Core, Fault},
    world::{OnNode, World, same},
};

/// What one slice's change depends on: the app, the roll-out, the slice itself.
const GUARDS: usize = 3;
/// As many slices as fit into one commit.
const TOGETHER: usize = COMMIT_OPERATIONS / GUARDS;

/// A slice that has to change.
struct Change {
    place: OnNode,
    /// Whether it is asked at other doors from now on, which another service's change may go with.
    moves: bool,
    batch: Batch,
}

/// Writes the slices that differ; says whether there was any.
pub(crate) async fn write(core: &Core, world: &World) -> Result<bool, Fault> {
    let mut changes = removed(world);
    for (key, app, service) in world.declared() {
        let Some(wanted) = world.wanted(core, &key, service).await? else { continue };
        for (node, slice) in wanted {
            let place = OnNode { service: key.clone(), node };
            let told = world.slices.get(&place);
            if told.is_some_and(|told| same(&told.value, &slice)) {
                continue;
            }
            let before = told.map_or(0, |told| told.value.generation.0);
            // The revision rises for ever: a service that goes and comes back goes on counting.
            let generation = Generation((before + 1).max(world.revision + 1));
            let moves = told.is_none_or(|told| !is_at(&told.value, &slice));
            let mut batch = Batch::default();
            batch.guard(keys::app(&key.app), app.modified);
            batch.guard(keys::rollout(&key), world.rollouts.get(&key).map_or(0, |rollout| rollout.modified));
            let modified = told.map_or(0, |told| told.modified);
            batch.replace(keys::slice(&place.node, &key), modified, &Slice { generation, ..slice })?;
            changes.push(Change { place, moves, batch });
        }
    }
    let changed = !changes.is_empty();
    for batch in together(changes) {
        // Refused: something moved on, and the next look sees it.
        core.commit(batch).await?;
    }
    Ok(changed)
}

/// The slices of services that aren't declared any more, and of nodes that are gone.
fn removed(world: &World) -> Vec<Change> {
    let modified = |app: &AppName| -> Revision { world.apps.get(app).map_or(0, |app| app.modified) };
    let gone = world.slices.iter().filter(|(place, _)| {
        world.service(&place.service).is_none() || !world.nodes.contains_key(&place.node)
    });
    let change = |(place, told): (&OnNode, &crate::world::Kept<Slice>)| {
        let mut batch = Batch::default();
        batch.guard(keys::app(&place.service.app), modified(&place.service.app));
        batch.remove(keys::slice(&place.node, &place.service), told.modified);
        Change { place: place.clone(), moves: true, batch }
    };
    gone.map(change).collect()
}

/// Whether both are asked at the same doors.
fn is_at(one: &Slice, other: &Slice) -> bool {
    let doors = |slice: &Slice| (slice.route.hosts.clone(), slice.route.paths.clone(), slice.route.listen);
    doors(one) == doors(other)
}

/// Commits as large as may be, a node's moves beside each other at the head.
fn together(mut changes: Vec<Change>) -> Vec<Batch> {
    changes.sort_by(|a, b| (!a.moves, &a.place.node).cmp(&(!b.moves, &b.place.node)));
    let mut batches: Vec<(usize, usize, Batch)> = Vec::new();
    for Change { batch, .. } in changes {
        let size = batch.guards.iter().map(|guard| guard.key().len()).sum::<usize>()
            + batch.writes.iter().map(written).sum::<usize>();
        match batches.last_mut() {
            Some((count, sum, last)) if *count < TOGETHER && *sum + size <= COMMIT_BYTES => {
                (*count, *sum) = (*count + 1, *sum + size);
                last.guards.extend(batch.guards);
                last.writes.extend(batch.writes);
            }
            Some(_) | None => batches.push((1, size, batch)),
        }
    }
    batches.into_iter().map(|(.., batch)| batch).collect()
}

fn written(write: &Write) -> usize {
    let value = match write {
        Write::Put { value, .. } => value.len(),
        Write::Delete { .. } => 0,
    };
    write.key().len() + value
}
