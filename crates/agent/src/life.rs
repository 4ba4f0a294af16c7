//! One instance from its beginning to its end: a task of its own, which alone changes where the
//! instance stands.
//!
//! ```text
//! begin ──▶ start ──▶ serve (health) ──▶ drain ──▶ finish
//!             │          └── ended by itself ────────▲
//!             └── failed, or not wanted any more ─────┘
//! ```

use std::{sync::Arc, time::Duration};

use minato_model::{
    code::Code,
    ids::{InstanceId, ReleaseKey},
    inventory::{Failure, InstanceState},
    node::Phases,
};
use minato_runtime::spec::{Ended, Status};
use serde_json::json;
use tokio::{sync::watch, time::Instant};

use crate::{
    adopt::Stopping,
    backoff::Failed,
    decide::DrainCause,
    drain::{self, Drained},
    drift, health, logs,
    node::Node,
    pool::{Numbers, Parked},
    prepare::Prepared,
    start,
    table::{Farewell, Orders, Phase, Preparation, Record, Table},
    vitals::Vitals,
};

/// Starts in a row that may come to nothing without a fault of the release.
const UNLUCKY_MAX: u32 = 8;

/// What an instance's task begins with.
#[derive(Debug)]
pub(crate) struct Birth {
    pub(crate) id: InstanceId,
    pub(crate) key: ReleaseKey,
    pub(crate) orders: watch::Receiver<Orders>,
    pub(crate) by: By,
}

/// How an instance comes to be this server's.
#[derive(Debug)]
pub(crate) enum By {
    /// It is started.
    Start(Arc<Prepared>, Option<Box<Parked>>),
    /// It runs already.
    Adoption { pid: u32 },
    /// A server before told it to stop.
    Stopping(Stopping),
}

/// Why an instance doesn't go on.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It is not wanted any more.
    Drain(DrainCause),
    /// It failed.
    Fault(Fault),
    /// It came to nothing for what its release has no part in: another is started at once.
    Unlucky(Fault),
    /// Its program ended by itself.
    Ended(Ended),
}

/// What went wrong.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) code: Code,
    pub(crate) reason: String,
}

impl Fault {
    pub(crate) fn new(code: Code, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }
}

impl Birth {
    /// Enters a new instance into the table. `None`: the release isn't prepared, or no address is free.
    pub(crate) fn start(node: &Node, table: &mut Table, key: &ReleaseKey, asked_by: &str) -> Option<Self> {
        let state = table.releases.get(key)?;
        let Preparation::Prepared(prepared) = &state.preparation else { return None };
        let (prepared, release) = (Arc::clone(prepared), Arc::clone(&state.release));
        // After bad luck with one it makes its own.
        let parked = if state.unlucky == 0 { node.pool.take() } else { None };
        let (id, Numbers { offset, range }) = match &parked {
            Some(parked) => (parked.sandbox.instance().clone(), parked.numbers),
            None => (draw_id()?, Numbers::lend(table)?),
        };
        let (sender, orders) = watch::channel(Orders::default());
        let farewell = Farewell::of(
            table.slices.get(&key.service).map(|slice| &**slice),
            prepared.recipe.process.stop_signal,
        );
        let record = Record {
            farewell,
            id: id.clone(),
            release: key.clone(),
            hash: release.hash.clone(),
            image: release.spec.digest.clone(),
            port: release.spec.port,
            address: node.plan.at(u16::try_from(offset).unwrap_or(u16::MAX)),
            offset,
            range,
            log: logs::path(&node.data, key, &id),
            phase: Phase::Starting,
            reason: format!("started for {asked_by}"),
            pid: None,
            started_at: node.now(),
            begun: Instant::now(),
            first_ready: None,
            asked_by: asked_by.to_owned(),
            pooled: None,
            slot_ms: None,
            certificate_ms: None,
            phases: Phases::default(),
            findings: Vec::new(),
            replaces: None,
            draining: None,
            withdrawn: None,
            identity: None,
            vitals: Vitals::new(Instant::now()),
            orders: sender,
        };
        table.instances.insert(id.clone(), record);
        Some(Self { id, key: key.clone(), orders, by: By::Start(prepared, parked.map(Box::new)) })
    }
}

/// Ten characters of a-z and 0-9, the first a letter; `None`: the system has no random numbers.
pub(crate) fn draw_id() -> Option<InstanceId> {
    const SIGNS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = [0_u8; 10];
    getrandom::fill(&mut random).ok()?;
    let sign = |(index, byte): (usize, &u8)| {
        let signs = if index == 0 { 26 } else { 36 };
        SIGNS.get(usize::from(*byte) % signs).map_or('a', |sign| char::from(*sign))
    };
    random.iter().enumerate().map(sign).collect::<String>().parse().ok()
}

/// An instance's life, or as much of it as this server has.
pub(crate) async fn live(node: Arc<Node>, birth: Birth) {
    let left = node.left.clone();
    // Handed over midway: whatever is done by then stands, and the next server finds it.
    let _handed_over: Option<()> = left.run_until_cancelled(whole(node, birth)).await;
}

async fn whole(node: Arc<Node>, birth: Birth) {
    let Birth { id, key, mut orders, by } = birth;
    let adopted = matches!(by, By::Adoption { .. });
    let begun = match by {
        By::Start(prepared, parked) => {
            start::start(&node, &id, &key, &prepared, parked.map(|parked| *parked), &mut orders).await
        }
        By::Adoption { pid } => start::adopt(&node, &id, &key, pid, &mut orders).await,
        By::Stopping(stopping) => {
            let end = drain::go_on(&node, &id, &stopping, &mut orders).await;
            return finish(&node, &id, &key, None, end).await;
        }
    };
    let stop = match begun {
        Ok(()) => {
            node.tasks.spawn(drift::remember(Arc::clone(&node), id.clone()));
            health::serve(&node, &id, &key, &mut orders).await
        }
        Err(stop) => stop,
    };
    // Who was out of routing for a while has served all the same.
    let how = match node.table().instances.get(&id).and_then(|record| record.first_ready) {
        Some(since) => Failed::Ready(since.elapsed()),
        None if adopted => Failed::Ready(Duration::ZERO),
        None => Failed::Start,
    };
    match stop {
        Stop::Drain(cause) => match drain::drain(&node, &id, &key, cause, &mut orders).await {
            Drained::Stopped(end) => finish(&node, &id, &key, None, end).await,
            Drained::Died(end) => died(&node, &id, &key, end, how, &orders).await,
        },
        Stop::Fault(fault) => {
            node.routing.withdraw(&id).await;
            note_failure(&node, &id, &key, &fault, how);
            let end = drain::give_up(&node, &id, &mut orders).await;
            finish(&node, &id, &key, Some(fault), end).await;
        }
        Stop::Unlucky(fault) => {
            node.routing.withdraw(&id).await;
            if !spare(&node, &id, &key, &fault) {
                note_failure(&node, &id, &key, &fault, how);
            }
            let end = drain::kill(&node, &id, &mut orders).await;
            finish(&node, &id, &key, Some(fault), end).await;
        }
        Stop::Ended(end) => {
            node.routing.withdraw(&id).await;
            died(&node, &id, &key, end, how, &orders).await;
        }
    }
}

/// It ended by itself: nobody had told it to stop.
async fn died(
    node: &Arc<Node>,
    id: &InstanceId,
    key: &ReleaseKey,
    end: Ended,
    how: Failed,
    orders: &watch::Receiver<Orders>,
) {
    let orphaned = orders.borrow().orphaned;
    let fault = if orphaned {
        Fault::new(Code::NodeFault, "the keeper ended, and all instances with it")
    } else {
        fault_of(&end)
    };
    note_failure(node, id, key, &fault, how);
    finish(node, id, key, Some(fault), Some(end)).await;
}

/// The instance counts no more, another is started, and the release isn't blamed; `false`: that was
/// tried often enough.
fn spare(node: &Arc<Node>, id: &InstanceId, key: &ReleaseKey, fault: &Fault) -> bool {
    let mut table = node.table();
    let Some(state) = table.releases.get_mut(key).filter(|state| state.unlucky < UNLUCKY_MAX) else {
        return false;
    };
    state.unlucky += 1;
    if let Some(record) = table.instances.get_mut(id) {
        record.phase = Phase::Draining;
        record.reason.clone_from(&fault.reason);
    }
    drop(table);
    node.signals.changed(&key.service);
    let data = json!({ "code": fault.code, "in_a_row": 0, "wait_ms": 0 });
    node.record("instance_failed", key, id, &fault.reason, data);
    true
}

/// From here on the instance counts no more, and its replacement may start.
fn note_failure(node: &Arc<Node>, id: &InstanceId, key: &ReleaseKey, fault: &Fault, how: Failed) {
    let at = node.now();
    let mut table = node.table();
    let Some(record) = table.instances.get_mut(id) else { return };
    record.phase = Phase::Draining;
    record.reason.clone_from(&fault.reason);
    let begun = record.begun;
    let reason = fault.reason.clone();
    let failure = Failure { instance: id.clone(), code: fault.code, reason, at, in_a_row: 0, next: None };
    let (mut wait, mut in_a_row) = (Duration::ZERO, 0);
    // One that was adopted while its slice can't be read has a release that isn't known.
    if let Some(state) = table.releases.get_mut(key) {
        // What never served replaces nothing: the next start is asked for anew.
        state.replacing |= matches!(how, Failed::Ready(_));
        state.unlucky = 0;
        wait = state.backoff.failed(failure, how, begun, Instant::now());
        in_a_row = state.backoff.failing().map_or(0, |failing| failing.in_a_row);
    }
    drop(table);
    node.signals.changed(&key.service);
    if !wait.is_zero() {
        node.changed_after(&key.service, wait);
    }
    let data = json!({ "code": fault.code, "in_a_row": in_a_row, "wait_ms": wait.as_millis() });
    node.record("instance_failed", key, id, &fault.reason, data);
}

/// The instance is gone: everything that it had is given back, its story is kept.
async fn finish(
    node: &Arc<Node>,
    id: &InstanceId,
    key: &ReleaseKey,
    fault: Option<Fault>,
    end: Option<Ended>,
) {
    let traffic = node.routing.traffic(id);
    let unmade = node.table().instances.get(id).is_some_and(|record| record.orders.borrow().unmade);
    if fault.is_none() {
        let without = if unmade { "it wasn't made any more" } else { "it was killed" };
        let reason = end.as_ref().map_or_else(|| without.to_owned(), describe);
        node.record("instance_stopped", key, id, &reason, serde_json::Value::Null);
    }
    node.routing.forget(id);
    // Of one that stopped as it should the log is read when somebody asks.
    let log = node.table().instances.get(id).map(|record| record.log.clone());
    let last_lines = match log.filter(|_| fault.is_some()) {
        Some(log) => logs::last_lines(log).await,
        None => Vec::new(),
    };
    if end.is_none() && !unmade {
        tracing::error!(instance = %id, "instance killed, but its end was never reported");
    }
    let mut table = node.table();
    table.told_to_stop.remove(id);
    if let Some(record) = table.instances.remove(id) {
        let mut instance = record.seen(&node.name, traffic);
        instance.state = if fault.is_some() { InstanceState::Failed } else { InstanceState::Stopped };
        instance.address = None;
        instance.pid = None;
        let numbers = Numbers { offset: record.offset, range: record.range };
        if end.is_some() || unmade {
            numbers.give_back(&mut table);
        } else {
            // What still has them may still use them: they are free when its end is told after all.
            node.pool.part(id.clone(), numbers);
        }
        table.remember(record.life(instance, end.as_ref().map(describe), last_lines));
    }
    drop(table);
    if let (Some(keeper), Some(_)) = (node.keeper(), &end)
        && let Err(error) = keeper.client.forget(id)
    {
        tracing::debug!(%error, instance = %id, "end not forgotten by the keeper");
    }
    node.signals.changed(&key.service);
    logs::sweep(node, key);
}

/// What it means that a program ended by itself.
pub(crate) fn fault_of(end: &Ended) -> Fault {
    let code = match end.status {
        _ if end.oom => Code::OutOfMemory,
        Status::Exit(_) => Code::Exited,
        Status::Signal(_) => Code::Killed,
    };
    Fault::new(code, describe(end))
}

/// How a program ended, for people.
pub(crate) fn describe(end: &Ended) -> String {
    match end.status {
        _ if end.oom => "it needed more memory than it may use, and was killed".to_owned(),
        Status::Exit(status) => format!("it exited with status {status}"),
        Status::Signal(signal) => format!("signal {signal} ended it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_names_of_ten_characters() {
        for _ in 0..100 {
            assert_eq!(draw_id().unwrap().as_str().len(), 10);
        }
    }

    #[test]
    fn ends_are_told_apart() {
        let id = draw_id().unwrap();
        let end = |status, oom| fault_of(&Ended { instance: id.clone(), status, oom, at_ms: 0 }).code;
        assert_eq!(end(Status::Exit(0), false), Code::Exited);
        assert_eq!(end(Status::Signal(9), false), Code::Killed);
        assert_eq!(end(Status::Signal(9), true), Code::OutOfMemory);
    }
}
