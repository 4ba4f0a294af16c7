//! What a renewal cost: every one is measured, the routine ones as rehearsals of those that are not.

use std::{sync::Arc, time::Duration};

use minato_model::ids::{InstanceId, ReleaseKey};
use serde_json::json;
use tokio::time::Instant;

use crate::{
    node::Node,
    recycle::Why,
    table::{Phase, Table},
};

/// Whose place an instance was started for.
#[derive(Debug, Clone)]
pub(crate) struct Replaces {
    pub(crate) old: InstanceId,
    pub(crate) why: Why,
    /// What the old one had failed by then.
    pub(crate) errors: u64,
}

/// When an instance left routing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Withdrawn {
    at: Instant,
    /// Whether another one of its release was ready.
    covered: bool,
    /// What it had failed by then.
    errors: u64,
}

/// Notes that an instance leaves routing, if it hadn't yet.
pub(crate) fn withdrawn(node: &Node, id: &InstanceId, key: &ReleaseKey) {
    let errors = node.routing.traffic(id).errors;
    let mut table = node.table();
    let covered = table.of_release(key).any(|record| record.id != *id && record.serves());
    if let Some(record) = table.instances.get_mut(id) {
        record.withdrawn.get_or_insert_with(|| Withdrawn { at: Instant::now(), covered, errors });
    }
}

/// What is known of the place that an instance left.
struct Place {
    withdrawn: Withdrawn,
    /// Who took it.
    second: Option<(InstanceId, String, Option<f64>)>,
    /// When somebody was ready again.
    covered_at: Option<Instant>,
    errors: u64,
}

/// Tells what a renewal cost: the old one has finished its requests.
pub(crate) fn tell(node: &Arc<Node>, id: &InstanceId, key: &ReleaseKey, why: Why) {
    let Some(place) = place(&node.table(), id, key) else { return };
    let Place { withdrawn, second, covered_at, errors } = place;
    let gap = if withdrawn.covered {
        Some(Duration::ZERO)
    } else {
        covered_at.map(|at| at.saturating_duration_since(withdrawn.at))
    };
    let failed = |id: &InstanceId| node.routing.traffic(id).errors;
    let by_second = second.as_ref().map_or(0, |(second, ..)| failed(second));
    let errors = failed(id).saturating_sub(errors).saturating_add(by_second);
    node.metrics.renewed(why, gap);
    let data = json!({
        "why": why.as_str(),
        "asked_by": second.as_ref().map(|(_, asked_by, _)| asked_by),
        "replacement": second.as_ref().map(|(second, ..)| second),
        "gap_ms": gap.map(|gap| gap.as_secs_f64() * 1_000.0),
        "start_ms": second.as_ref().and_then(|(.., start)| *start),
        "errors": errors,
    });
    let kind = if why.is_routine() { "rehearsal" } else { "instance_replaced" };
    node.record(kind, key, id, why.reason(), data);
}

fn place(table: &Table, id: &InstanceId, key: &ReleaseKey) -> Option<Place> {
    let withdrawn = table.instances.get(id)?.withdrawn?;
    let others = || table.of_release(key).filter(|record| record.id != *id);
    let replaces = others().find(|record| record.replaces.as_ref().is_some_and(|r| r.old == *id));
    // Without one of its own: who was started after it left.
    let second = replaces.or_else(|| {
        let after = others().filter(|record| record.begun >= withdrawn.at && record.serves());
        after.min_by_key(|record| record.begun)
    });
    let ready = others().filter_map(|record| match record.phase {
        Phase::Ready { since } => Some(since),
        Phase::Starting | Phase::Unhealthy { .. } | Phase::Draining | Phase::Streaming => None,
    });
    let errors = replaces.and_then(|record| record.replaces.as_ref()).map(|replaces| replaces.errors);
    Some(Place {
        withdrawn,
        second: second.map(|record| (record.id.clone(), record.asked_by.clone(), record.phases.listening)),
        covered_at: ready.min(),
        errors: errors.unwrap_or(withdrawn.errors),
    })
}
