//! Tells before certificates from files expire, and takes away files that nothing names.

use std::collections::BTreeMap;

use minato_model::{event::Event, ids::ServiceKey, keys};
use minato_state::{Write, limits::COMMIT_OPERATIONS, list_all};

use crate::{
    core::{Batch, Core, Fault},
    doors::{self, End},
    world::World,
};

/// What was told of which certificate. Bounded by what is declared; a control that begins tells anew.
#[derive(Debug, Default)]
pub(crate) struct Told(BTreeMap<ServiceKey, (String, End)>);

/// Tells of every certificate whose end has come nearer.
pub(crate) fn tell(core: &Core, world: &World, told: &mut Told) {
    let now = core.now();
    let mut seen = BTreeMap::new();
    for (key, ..) in world.declared() {
        let Some(leaf) = doors::leaf(world, &key) else { continue };
        let end = End::of(leaf, now);
        let before = told.0.get(&key).filter(|(hash, _)| *hash == leaf.sha256).map(|(_, end)| *end);
        if end > before.unwrap_or(End::Far)
            && let Some(reason) = doors::warning(leaf, now)
        {
            tracing::warn!(service = %key, valid_until = %leaf.not_after, "certificate from files expires");
            let kind = if end == End::Past { "certificate_expired" } else { "certificate_expiring" };
            let data = serde_json::json!({
                "names": leaf.names, "sha256": leaf.sha256, "valid_until": leaf.not_after,
            });
            core.record(Event::new(now, kind, reason).with_service(&key).with_data(data));
        }
        seen.insert(key, (leaf.sha256.clone(), end));
    }
    told.0 = seen;
}

/// Takes away the files that nothing declared names: an apply that was broken off leaves them behind. Done
/// when control begins; what goes later is taken away by who changes it.
pub(crate) async fn sweep(core: &Core) -> Result<(), Fault> {
    let world = World::read(&*core.state).await?;
    let (items, _) = list_all(&*core.state, keys::DOORS).await?;
    let named = |key: &str| {
        let Some((service, id)) = key.strip_prefix(keys::DOORS).and_then(|rest| rest.rsplit_once('/')) else {
            return true;
        };
        let service = service.parse::<ServiceKey>();
        service.is_ok_and(|service| world.presented(&service).is_some_and(|named| named.id == id))
    };
    let stray: Vec<String> = items.into_iter().map(|item| item.key).filter(|key| !named(key)).collect();
    let mut claims = world.claims;
    for some in stray.chunks(COMMIT_OPERATIONS / 2) {
        let mut batch = Batch::default();
        // Whoever is about to name one of them finds the claims changed, and writes it again.
        batch.replace(keys::CLAIMS.to_owned(), claims, &())?;
        batch.writes.extend(some.iter().map(|key| Write::Delete { key: key.clone() }));
        match core.commit(batch).await? {
            Some(revision) => claims = revision,
            None => return Ok(()),
        }
        tracing::info!(files = some.len(), "files that no service names were taken away");
    }
    Ok(())
}
