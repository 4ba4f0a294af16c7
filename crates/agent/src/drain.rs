//! The end of an instance, in the right order: out of routing, confirmed by every edge thread; what
//! it has begun is finished; the stop signal; ten seconds; the kill.

use std::{sync::Arc, time::Duration};

use minato_model::ids::{InstanceId, ReleaseKey};
use minato_runtime::spec::Ended;
use serde_json::json;
use tokio::{sync::watch, time::timeout};

use crate::{
    decide::DrainCause,
    node::Node,
    table::{Orders, Phase, Preparation},
};

/// From the stop signal to the kill.
const STOP: Duration = Duration::from_secs(10);
/// The same when the server is in a hurry.
const HURRY: Duration = Duration::from_secs(2);
/// From the kill to the report of the end: a kernel that writes back memory may take its time.
const KILL: Duration = Duration::from_secs(10);

/// Drains and stops an instance. `None`: even the kill had no effect.
pub(crate) async fn drain(
    node: &Arc<Node>,
    id: &InstanceId,
    key: &ReleaseKey,
    cause: DrainCause,
    orders: &mut watch::Receiver<Orders>,
) -> Option<Ended> {
    let (signal, patience) = begin(node, id, key, cause);
    node.signals.changed(&key.service);
    node.record("instance_draining", key, id, cause.reason(), json!({ "drain_ms": patience.as_millis() }));
    node.routing.withdraw(id).await;
    tokio::select! {
        () = node.routing.quiet(id) => {}
        () = tokio::time::sleep(patience) => {}
        _ = wait(orders, |orders| orders.hurry) => {}
    }
    if !node.table().may_stop(id) {
        // The next server decides anew; this task ends with the agent.
        std::future::pending::<()>().await;
    }
    if let Some(keeper) = node.keeper()
        && let Err(error) = keeper.client.signal(id, signal)
    {
        tracing::warn!(%error, instance = %id, "stop signal not sent");
    }
    if let Some(end) = stopped(orders).await {
        return Some(end);
    }
    kill(node, id, orders).await
}

/// Waits for the end as long as a stop may take.
async fn stopped(orders: &mut watch::Receiver<Orders>) -> Option<Ended> {
    let hurry = orders.borrow().hurry;
    if !hurry {
        match timeout(STOP, wait(orders, |orders| orders.hurry)).await {
            Ok(None) => {}
            Ok(end) => return end,
            Err(_elapsed) => return None,
        }
    }
    timeout(HURRY, wait(orders, |_| false)).await.ok().flatten()
}

/// Kills an instance and waits for its end; at once if it has ended.
pub(crate) async fn kill(
    node: &Node,
    id: &InstanceId,
    orders: &mut watch::Receiver<Orders>,
) -> Option<Ended> {
    let ended = orders.borrow().ended.clone();
    if ended.is_some() {
        return ended;
    }
    if let Some(keeper) = node.keeper()
        && let Err(error) = keeper.client.kill(id)
    {
        tracing::warn!(%error, instance = %id, "instance not killed");
    }
    timeout(KILL, wait(orders, |_| false)).await.ok().flatten()
}

/// The instance's end, or `None` when something else comes first.
pub(crate) async fn wait(
    orders: &mut watch::Receiver<Orders>,
    or: impl Fn(&Orders) -> bool,
) -> Option<Ended> {
    match orders.wait_for(|orders| orders.ended.is_some() || or(orders)).await {
        Ok(orders) => orders.ended.clone(),
        Err(_gone) => None,
    }
}

/// Notes that an instance drains: its stop signal, and how long it may take.
fn begin(node: &Node, id: &InstanceId, key: &ReleaseKey, cause: DrainCause) -> (i32, Duration) {
    let mut table = node.table();
    if let Some(record) = table.instances.get_mut(id) {
        record.phase = Phase::Draining;
        cause.reason().clone_into(&mut record.reason);
    }
    let signal = match table.releases.get(key).map(|state| &state.preparation) {
        Some(Preparation::Prepared(prepared)) => prepared.recipe.process.stop_signal,
        _ => 15,
    };
    // A slice that is gone can't say any more: what its service had begun is given a fair while.
    let patience = table.slices.get(&key.service).map_or(Duration::from_secs(30), |slice| slice.drain);
    (signal, patience)
}
