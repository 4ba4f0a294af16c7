//! Writes to every node what it is to know of each service, and takes away what it is no more.

use minato_model::{ids::Generation, keys, slice::Slice};

use crate::{
    core::{Batch, Core, Fault},
    world::{OnNode, World, same},
};

/// Writes the slices that differ; says whether there was any.
pub(crate) async fn write(core: &Core, world: &World) -> Result<bool, Fault> {
    let mut changed = remove(core, world).await?;
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
            let mut batch = Batch::default();
            batch.guard(keys::app(&key.app), app.modified);
            batch.guard(keys::rollout(&key), world.rollouts.get(&key).map_or(0, |rollout| rollout.modified));
            let modified = told.map_or(0, |told| told.modified);
            batch.replace(keys::slice(&place.node, &key), modified, &Slice { generation, ..slice })?;
            // Refused: something moved on, and the next look sees it.
            core.commit(batch).await?;
            changed = true;
        }
    }
    Ok(changed)
}

/// Takes away the slices of services that aren't declared any more, and of nodes that are gone.
async fn remove(core: &Core, world: &World) -> Result<bool, Fault> {
    let mut changed = false;
    for (place, told) in &world.slices {
        let declared = world.service(&place.service).is_some();
        if declared && world.nodes.contains_key(&place.node) {
            continue;
        }
        let mut batch = Batch::default();
        let app = &place.service.app;
        batch.guard(keys::app(app), world.apps.get(app).map_or(0, |app| app.modified));
        batch.remove(keys::slice(&place.node, &place.service), told.modified);
        core.commit(batch).await?;
        changed = true;
    }
    Ok(changed)
}
