//! What the node reports: how each service stands here, written when it changes, at most ten times a
//! second. Nobody waits for it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use minato_model::{
    ids::{ReleaseKey, ServiceKey},
    inventory::{Preparation as Reported, Report, Standing},
    keys,
};
use minato_state::{StateError, Write, list_all};
use tokio::time::sleep;

use crate::{
    node::Node,
    prepare::whole,
    table::{Phase, Preparation, Table},
};

/// At most ten writes a second.
const PAUSE: Duration = Duration::from_millis(100);
/// Between tries when the state can't be written.
const RETRY: Duration = Duration::from_secs(1);
/// Reports in one commit: far below what a commit may hold.
const BATCH: usize = 32;

/// What is written, by key.
type Written = BTreeMap<String, Vec<u8>>;

/// Writes reports as they change, and once more when the agent ends.
pub(crate) async fn run(node: Arc<Node>) {
    let mut written = None;
    loop {
        let over = tokio::select! {
            biased;
            () = node.over.cancelled() => true,
            () = node.signals.reports.notified() => false,
        };
        let pause = match write(&node, &mut written).await {
            Ok(()) => PAUSE,
            Err(StateError::Closed) => return,
            Err(error) => {
                tracing::warn!(error = %whole(&error), "reports not written; trying again");
                // What is there may be something else than what was written last.
                written = None;
                node.signals.reports.notify_one();
                RETRY
            }
        };
        if over {
            return;
        }
        sleep(pause).await;
    }
}

async fn write(node: &Node, written: &mut Option<Written>) -> Result<(), StateError> {
    let known = match written {
        Some(known) => known,
        None => {
            let (items, _) = list_all(&*node.state, &keys::reports_of(&node.name)).await?;
            written.insert(items.into_iter().map(|item| (item.key, item.value)).collect())
        }
    };
    let wanted = wanted(node, known);
    let changed = wanted.iter().filter(|(key, value)| known.get(*key) != Some(*value));
    let puts = changed.map(|(key, value)| Write::Put { key: key.clone(), value: value.clone() });
    let gone = known.keys().filter(|key| !wanted.contains_key(*key));
    let deletes = gone.map(|key| Write::Delete { key: key.clone() });
    let writes: Vec<Write> = puts.chain(deletes).collect();
    for batch in writes.chunks(BATCH) {
        node.state.commit(Vec::new(), batch.to_vec()).await?;
    }
    *known = wanted;
    Ok(())
}

/// All reports as they should be there. A service without a slice keeps its last one until its last
/// instance is gone, one whose slice can't be read as long as that is so.
fn wanted(node: &Node, known: &Written) -> Written {
    let table = node.table();
    let mut reports = Written::new();
    for service in table.slices.keys() {
        let Some(report) = report(&table, service) else { continue };
        match serde_json::to_vec(&report) {
            Ok(value) => drop(reports.insert(keys::report(&node.name, service), value)),
            Err(error) => tracing::error!(%error, %service, "report can't be written as JSON"),
        }
    }
    let with_instances = table.instances.values().map(|record| &record.release.service);
    for service in with_instances.chain(&table.unread) {
        let key = keys::report(&node.name, service);
        if let Some(last) = known.get(&key).filter(|_| !reports.contains_key(&key)) {
            reports.insert(key, last.clone());
        }
    }
    reports
}

/// How a service stands here; `None`: it has no slice.
pub(crate) fn report(table: &Table, service: &ServiceKey) -> Option<Report> {
    let slice = table.slices.get(service)?;
    let standings = table.releases_of(service).into_iter().filter_map(|key| standing(table, &key));
    Some(Report { service: service.clone(), generation: slice.generation, releases: standings.collect() })
}

fn standing(table: &Table, key: &ReleaseKey) -> Option<Standing> {
    let state = table.releases.get(key)?;
    let preparation = match &state.preparation {
        Preparation::Preparing => Reported::Preparing,
        Preparation::Prepared(_) => Reported::Prepared,
        Preparation::Failed { code, reason } => Reported::Failed { code: *code, reason: reason.clone() },
    };
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Some(Standing {
        number: key.number,
        preparation,
        ready: count(table.of_release(key).filter(|record| record.is_ready()).count()),
        // Who only finishes streams may do so for an hour: no roll-out waits for that.
        running: count(table.of_release(key).filter(|record| record.phase != Phase::Streaming).count()),
        failing: state.backoff.failing().cloned(),
    })
}
