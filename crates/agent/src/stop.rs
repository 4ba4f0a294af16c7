//! The end of the agent: with everything that it runs, or without.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use minato_network::NodeId8;
use tokio::time::sleep;

use crate::{
    decide::DrainCause,
    node::Node,
    prepare::whole,
    table::{Phase, Table},
};

/// How often it is looked whether the last instance is gone.
const LOOK: Duration = Duration::from_millis(5);
/// How long a hand-over waits for what may be left neither half-started nor half-stopped: as long as a
/// program may take to stop, and its kill.
const SETTLE: Duration = Duration::from_secs(12);

/// Drains and stops every instance, ends the keeper, and gives everything back.
pub(crate) async fn stop(node: &Arc<Node>, network: NodeId8, drain: bool) {
    {
        let mut table = node.table();
        table.stopping = true;
        for record in table.instances.values() {
            record.orders.send_modify(|orders| {
                orders.drain.get_or_insert(DrainCause::NodeStopping);
                orders.hurry |= !drain;
                orders.stopping = true;
            });
        }
    }
    // Each instance's own deadlines end its wait.
    while !node.table().instances.is_empty() {
        sleep(LOOK).await;
    }
    end(node).await;
    // Taken by the first of several calls.
    let keeper = node.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
    let data = node.data.clone();
    let cleaned = tokio::task::spawn_blocking(move || {
        let ended = keeper.is_some_and(|keeper| match keeper.client.shutdown() {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(error = %whole(&error), "keeper not ended");
                false
            }
        });
        // One that died left its control groups, and nobody comes after it to sweep them.
        if !ended && let Err(error) = minato_runtime::keeper::clean(&network.to_string(), &data) {
            tracing::warn!(%error, "control groups not taken away");
        }
        if let Err(error) = minato_network::clean(network) {
            tracing::warn!(error = %whole(&error), "network not taken away");
        }
    });
    if cleaned.await.is_err() {
        tracing::error!("giving back panicked");
    }
}

/// Ends the agent's own tasks. What runs, runs on.
pub(crate) async fn leave(node: &Arc<Node>) {
    node.over.cancel();
    node.loops.close();
    node.loops.wait().await;
}

/// Ends the agent's tasks so that another server's can begin.
pub(crate) async fn hand_over(node: &Arc<Node>) {
    node.table().handing_over = true;
    let settled = async {
        while !is_settled(&node.table()) {
            sleep(LOOK).await;
        }
    };
    if tokio::time::timeout(SETTLE, settled).await.is_err() {
        tracing::warn!("starts or stops are still under way: the next server begins them anew");
    }
    leave(node).await;
    node.left.cancel();
    node.tasks.close();
    node.tasks.wait().await;
    // The connection ends when nobody has it any more.
    drop(node.keeper.lock().unwrap_or_else(PoisonError::into_inner).take());
}

/// Whether every instance either runs, as far as the keeper knows, or is gone.
fn is_settled(table: &Table) -> bool {
    let starts = |phase, pid: Option<u32>| matches!(phase, Phase::Starting) && pid.is_none();
    let half = |id| table.told_to_stop.contains(id);
    !table.instances.values().any(|record| starts(record.phase, record.pid) || half(&record.id))
}

/// Ends the loops: the last report is written, and nothing follows the slices any more.
async fn end(node: &Arc<Node>) {
    leave(node).await;
    node.tasks.close();
    node.tasks.wait().await;
}
