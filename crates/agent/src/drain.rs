//! The end of an instance, in the right order: out of routing, confirmed by every edge thread; what
//! it has begun is finished within `drain`, its streams within `drain_streams`; the stop signal; ten
//! seconds; the kill. Whatever the reason is for which it ends.

use std::{sync::Arc, time::Duration};

use minato_model::ids::{InstanceId, ReleaseKey};
use minato_runtime::{crash, spec::Ended};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    adopt::{self, Stopping, Tag},
    decide::DrainCause,
    node::Node,
    rehearsal,
    table::{Farewell, Orders, Phase},
};

/// From the stop signal to the kill.
const STOP: Duration = Duration::from_secs(10);
/// The same when the server is in a hurry.
const HURRY: Duration = Duration::from_secs(2);
/// From the kill to the report of the end: a kernel that writes back memory may take its time.
const KILL: Duration = Duration::from_secs(10);

/// How a drain came to its end.
#[derive(Debug)]
pub(crate) enum Drained {
    /// It was told to stop. `None`: there was nobody to stop, or even the kill had no effect.
    Stopped(Option<Ended>),
    /// It ended by itself before anybody had told it to.
    Died(Ended),
}

/// Drains and stops an instance.
pub(crate) async fn drain(
    node: &Arc<Node>,
    id: &InstanceId,
    key: &ReleaseKey,
    cause: DrainCause,
    orders: &mut watch::Receiver<Orders>,
) -> Drained {
    let patience = begin(node, id, key, cause);
    let begun = patience.begun;
    node.signals.changed(&key.service);
    if patience.is_news {
        let data = json!({
            "drain_ms": patience.requests.as_millis(),
            "drain_streams_ms": patience.streams.as_millis(),
        });
        node.record("instance_draining", key, id, cause.reason(), data);
        adopt::tell(node, id);
    }
    rehearsal::withdrawn(node, id, key);
    node.routing.withdraw(id).await;
    crash::point("drain.withdrawn");
    tokio::select! {
        () = node.routing.quiet(id) => {}
        () = sleep_until(begun + patience.requests) => {}
        _ = wait(orders, |orders| orders.hurry) => {}
    }
    crash::point("drain.quiet");
    if let DrainCause::Renewed(why) = cause {
        rehearsal::tell(node, id, key, why);
    }
    finish_streams(node, id, key, &patience, begun, orders).await;
    let (ended, unmade) = {
        let orders = orders.borrow();
        (orders.ended.clone(), orders.unmade)
    };
    if unmade {
        return Drained::Stopped(None);
    }
    if let Some(end) = ended {
        return Drained::Died(end);
    }
    if !node.table().may_stop(id) {
        // The next server decides anew; this task ends with the agent.
        std::future::pending::<()>().await;
    }
    note(node, id, patience.signal);
    crash::point("drain.noted");
    let end = stop(node, id, patience.signal, STOP, orders).await;
    crash::point("drain.ended");
    Drained::Stopped(end)
}

/// Goes on where a server before had told an instance to stop: it could have died before it did.
pub(crate) async fn go_on(
    node: &Arc<Node>,
    id: &InstanceId,
    stopping: &Stopping,
    orders: &mut watch::Receiver<Orders>,
) -> Option<Ended> {
    node.table().may_stop(id);
    let passed = u64::try_from(node.now().0.saturating_sub(stopping.since.0)).unwrap_or(0);
    let left = STOP.saturating_sub(Duration::from_millis(passed)).max(HURRY);
    stop(node, id, stopping.signal, left, orders).await
}

/// The keeper remembers that it was told to stop, for a server after this one.
fn note(node: &Node, id: &InstanceId, signal: i32) {
    let tag = {
        let table = node.table();
        let Some(record) = table.instances.get(id) else { return };
        let stopping = Stopping { since: node.now(), signal, reason: record.reason.clone() };
        Tag::of(record).stopping(stopping)
    };
    adopt::keep(node, id, &tag);
}

/// The stop signal; the kill, if that doesn't help within a time.
async fn stop(
    node: &Node,
    id: &InstanceId,
    signal: i32,
    within: Duration,
    orders: &mut watch::Receiver<Orders>,
) -> Option<Ended> {
    if let Some(keeper) = node.keeper()
        && let Err(error) = keeper.client.signal(id, signal)
    {
        tracing::warn!(%error, instance = %id, "stop signal not sent");
    }
    crash::point("drain.signalled");
    match stopped(orders, within).await {
        Some(end) => Some(end),
        None => kill(node, id, orders).await,
    }
}

/// Ends an instance that failed and runs: it may have requests under way from before.
pub(crate) async fn give_up(
    node: &Arc<Node>,
    id: &InstanceId,
    orders: &mut watch::Receiver<Orders>,
) -> Option<Ended> {
    let farewell = node.table().instances.get(id).map(|record| record.farewell).unwrap_or_default();
    tokio::select! {
        () = node.routing.quiet(id) => {}
        () = sleep(Duration::from_millis(farewell.drain_ms)) => {}
        _ = wait(orders, |orders| orders.hurry) => {}
    }
    if let Some(over) = over(orders) {
        return over;
    }
    if !node.table().may_stop(id) {
        // The next server sees for itself; this task ends with the agent.
        std::future::pending::<()>().await;
    }
    stop(node, id, farewell.signal, STOP, orders).await
}

/// Lets streams go on for their time, then ends them. Meanwhile nothing counts the instance as running.
async fn finish_streams(
    node: &Arc<Node>,
    id: &InstanceId,
    key: &ReleaseKey,
    patience: &Patience,
    begun: Instant,
    orders: &mut watch::Receiver<Orders>,
) {
    let left = || node.routing.traffic(id).streams > 0;
    if !left() || over(orders).is_some() {
        return;
    }
    if let Some(record) = node.table().instances.get_mut(id) {
        record.phase = Phase::Streaming;
        record.reason.push_str("; its last streams go on");
    }
    node.signals.changed(&key.service);
    let end = begun + patience.streams;
    tokio::select! {
        () = node.routing.streams_over(id) => return,
        () = sleep_until(end) => {}
        _ = wait(orders, |orders| orders.hurry || orders.stopping) => {}
    }
    let stopping = orders.borrow().stopping;
    if stopping {
        // What is left gets as long as a request would.
        let end = end.min(Instant::now() + patience.requests);
        tokio::select! {
            () = node.routing.streams_over(id) => return,
            () = sleep_until(end) => {}
            _ = wait(orders, |orders| orders.hurry) => {}
        }
    }
    if left() && timeout(HURRY, node.routing.end_streams(id)).await.is_err() {
        tracing::warn!(instance = %id, "streams not ended in time");
    }
}

/// Waits for the end as long as a stop may take.
async fn stopped(orders: &mut watch::Receiver<Orders>, within: Duration) -> Option<Ended> {
    let hurry = orders.borrow().hurry;
    if !hurry {
        match timeout(within, wait(orders, |orders| orders.hurry)).await {
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
    if let Some(over) = over(orders) {
        return over;
    }
    if let Some(keeper) = node.keeper()
        && let Err(error) = keeper.client.kill(id)
    {
        tracing::warn!(%error, instance = %id, "instance not killed");
    }
    timeout(KILL, wait(orders, |_| false)).await.ok().flatten()
}

/// Its end, if it has one; the inner `None`: it never came to be.
fn over(orders: &watch::Receiver<Orders>) -> Option<Option<Ended>> {
    let orders = orders.borrow();
    (orders.unmade || orders.ended.is_some()).then(|| orders.ended.clone())
}

/// The instance's end, or `None` when something else comes first, or it never came to be.
pub(crate) async fn wait(
    orders: &mut watch::Receiver<Orders>,
    or: impl Fn(&Orders) -> bool,
) -> Option<Ended> {
    match orders.wait_for(|orders| orders.ended.is_some() || orders.unmade || or(orders)).await {
        Ok(orders) => orders.ended.clone(),
        Err(_gone) => None,
    }
}

/// How an instance is to be stopped, and how long it may take.
struct Patience {
    begun: Instant,
    /// No server has told that it drains.
    is_news: bool,
    signal: i32,
    requests: Duration,
    streams: Duration,
}

/// Notes that an instance drains.
fn begin(node: &Node, id: &InstanceId, key: &ReleaseKey, cause: DrainCause) -> Patience {
    let now = node.now();
    let mut table = node.table();
    let mut before = None;
    if let Some(record) = table.instances.get_mut(id) {
        before = record.draining.replace(record.draining.unwrap_or(now));
        record.phase = Phase::Draining;
        cause.reason().clone_into(&mut record.reason);
    }
    // A slice that is gone can't say any more.
    let known = table.instances.get(id).map(|record| record.farewell).unwrap_or_default();
    let farewell =
        table.slices.get(&key.service).map_or(known, |slice| Farewell::of(Some(&**slice), known.signal));
    let (requests, streams) =
        (Duration::from_millis(farewell.drain_ms), Duration::from_millis(farewell.streams_ms));
    let signal = farewell.signal;
    let stopping = cause == DrainCause::NodeStopping || table.stopping;
    let begun = before.map_or_else(Instant::now, |since| adopt::begun(now, since));
    let streams = if stopping { requests } else { streams };
    Patience { begun, is_news: before.is_none(), signal, requests, streams }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_never_came_to_be_has_no_end() {
        let (sender, mut orders) = watch::channel(Orders::default());
        assert_eq!(over(&orders), None);
        sender.send_modify(|orders| orders.unmade = true);
        assert_eq!(over(&orders), Some(None));
        assert_eq!(stopped(&mut orders, STOP).await, None);
        assert_eq!(timeout(STOP, wait(&mut orders, |_| false)).await, Ok(None));
    }
}
