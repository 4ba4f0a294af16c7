//! Waiting until every node answers by what was declared.

use std::time::Duration;

use minato_model::{
    code::{Code, Problem},
    ids::ServiceKey,
    keys,
};
use minato_planner::plan::Planned;
use tokio::time::Instant;

use super::look::key;
use crate::{
    core::{Core, Fault},
    reconcile,
    world::{OnNode, World},
};

/// A node that is well confirms within milliseconds.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(30);
/// What goes is waited for only shortly: its instances may finish for long after its routes are gone.
const GONE_WITHIN: Duration = Duration::from_secs(2);

/// Writes the slices and waits until every node has confirmed them.
pub(super) async fn confirm(core: &Core, planned: &[Planned], gone: &[ServiceKey]) -> Result<(), Problem> {
    let world = reconcile::settle(core).await?;
    let services: Vec<ServiceKey> = planned
        .iter()
        .filter_map(|planned| Some((planned, planned.next.as_ref()?)))
        .flat_map(|(planned, next)| next.manifest.services.keys().map(|name| key(planned, name)))
        .collect();
    let missing = until_none(core, world, CONFIRMED_WITHIN, |world| unconfirmed(world, &services)).await?;
    if let Some(missing) = missing {
        let message = format!(
            "applied, but node `{}` has not confirmed the routes of {} within {} s",
            missing.node,
            missing.service,
            CONFIRMED_WITHIN.as_secs()
        );
        return Err(Problem::new(Code::Timeout, message).with_hint("`minato status` shows how far it is"));
    }
    if !gone.is_empty() {
        let world = World::read(&*core.state).await?;
        until_none(core, world, GONE_WITHIN, |world| still_there(world, gone)).await?;
    }
    Ok(())
}

/// Looks at every report until nothing is missing; what still is when the time is up.
async fn until_none(
    core: &Core,
    first: World,
    within: Duration,
    missing: impl Fn(&World) -> Option<OnNode>,
) -> Result<Option<OnNode>, Fault> {
    let end = Instant::now() + within;
    let mut world = first;
    let mut watch = None;
    while let Some(place) = missing(&world) {
        let reports = match &mut watch {
            Some(watch) => watch,
            None => watch.insert(core.state.watch(keys::INVENTORY, world.revision + 1).await?),
        };
        match tokio::time::timeout_at(end, reports.next()).await {
            Ok(changes) => drop(changes?),
            Err(_) => return Ok(Some(place)),
        }
        world = World::read(&*core.state).await?;
    }
    Ok(None)
}

/// A node that has not confirmed what it was told of one of these services, unless the service went
/// meanwhile.
fn unconfirmed(world: &World, services: &[ServiceKey]) -> Option<OnNode> {
    let declared = services.iter().filter(|key| world.service(key).is_some());
    let mut places = declared.flat_map(|key| {
        world.nodes.keys().map(move |node| OnNode { service: key.clone(), node: node.clone() })
    });
    places.find(|place| !world.confirmed(place))
}

/// A node that still reports one of these services.
fn still_there(world: &World, gone: &[ServiceKey]) -> Option<OnNode> {
    let mut places = world.reports.keys();
    let reported = |place: &&OnNode| gone.contains(&place.service) && world.nodes.contains_key(&place.node);
    places.find(reported).cloned()
}
