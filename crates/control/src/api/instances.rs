//! Instances, of every node.

use std::{collections::BTreeSet, net::Ipv4Addr};

use axum::{Json, extract::State, http::Method, routing::get};
use minato_model::{
    digest::Digest,
    ids::{AppName, InstanceId, NodeName, ReleaseNumber, ServiceKey, ServiceName},
    inventory::{Identity, Instance, InstanceState, Preparation, Report, Standing},
    keys,
    slice::Slice,
    time::Moment,
};
use minato_state::list_all;
use serde::{Deserialize, Serialize};

use super::{Answer, Endpoint, Needs, Shared, answer::Answered, asked, query::Asked};
use crate::{
    core::{Core, Fault, decode},
    world::{OnNode, on_node},
};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint {
        method: Method::GET,
        path: "/api/v1/instances",
        needs: Needs::Read,
        summary: "Instances that run, those that ended lately, and those that are to come: `id` is null \
                  where an image is prepared for the first one",
        parameters: vec![
            asked("app", "string", "of this app only"),
            asked("service", "string", "of services of this name only"),
            asked("all", "boolean", "those that ended lately too; true where nobody says"),
        ],
        body: None,
        answer: Answer::Json("Instances"),
        handler: get(list),
    }]
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    app: Option<String>,
    service: Option<String>,
    all: Option<bool>,
}

#[derive(Serialize)]
struct Instances {
    instances: Vec<Row>,
}

/// An instance, or one that is to come.
#[derive(Serialize)]
struct Row {
    id: Option<InstanceId>,
    app: AppName,
    service: ServiceName,
    release: ReleaseNumber,
    image: Digest,
    state: InstanceState,
    reason: String,
    address: Option<Ipv4Addr>,
    node: NodeName,
    pid: Option<u32>,
    started_at: Moment,
    requests: u64,
    in_flight: u32,
    identity: Option<Identity>,
}

impl From<Instance> for Row {
    fn from(instance: Instance) -> Self {
        Self {
            id: Some(instance.id),
            app: instance.app,
            service: instance.service,
            release: instance.release,
            image: instance.image,
            state: instance.state,
            reason: instance.reason,
            address: instance.address,
            node: instance.node,
            pid: instance.pid,
            started_at: instance.started_at,
            requests: instance.requests,
            in_flight: instance.in_flight,
            identity: instance.identity,
        }
    }
}

async fn list(State(core): Shared, Asked(filter): Asked<Filter>) -> Answered<Instances> {
    let mut instances = Vec::new();
    for (_, node) in core.nodes.all() {
        instances.extend(node.instances().await.into_iter().map(Row::from));
    }
    let known: BTreeSet<_> = instances.iter().filter_map(|row| row.id.clone()).collect();
    instances.extend(to_come(&core, &known).await?);
    let is = |asked: &Option<String>, name: &str| asked.as_ref().is_none_or(|asked| asked == name);
    let all = filter.all.unwrap_or(true);
    instances.retain(|instance| {
        let ended = matches!(instance.state, InstanceState::Stopped | InstanceState::Failed);
        (all || !ended)
            && is(&filter.app, instance.app.as_str())
            && is(&filter.service, instance.service.as_str())
    });
    instances.sort_by(|one, other| {
        let place = |row: &Row| (row.app.clone(), row.service.clone(), row.started_at);
        place(one).cmp(&place(other))
    });
    Ok(Json(Instances { instances }))
}

/// What nodes report of instances that there are none of yet: their image is prepared, or they wait
/// for their next try and the node doesn't remember the last one.
async fn to_come(core: &Core, known: &BTreeSet<InstanceId>) -> Result<Vec<Row>, Fault> {
    let mut rows = Vec::new();
    let (items, _) = list_all(&*core.state, keys::INVENTORY).await?;
    for item in items {
        let Some(place) = item.key.strip_prefix(keys::INVENTORY).and_then(on_node) else { continue };
        let report: Report = decode(&item.key, &item.value)?;
        for standing in &report.releases {
            let Some(coming) = coming(standing, core.now(), known) else { continue };
            if let Some(row) = row(core, &place, standing.number, coming).await? {
                rows.push(row);
            }
        }
    }
    Ok(rows)
}

/// The instance's id, state and reason, and since when, where that is known.
type Coming = (Option<InstanceId>, InstanceState, String, Option<Moment>);

fn coming(standing: &Standing, now: Moment, known: &BTreeSet<InstanceId>) -> Option<Coming> {
    if standing.preparation == Preparation::Preparing && standing.running == 0 {
        let reason = "its image is fetched, checked or unpacked".to_owned();
        return Some((None, InstanceState::Preparing, reason, None));
    }
    let failing = standing.failing.as_ref().filter(|failing| !known.contains(&failing.instance))?;
    let next = failing.next.filter(|next| *next > now)?;
    let reason = format!("{}; no next try before {next}", failing.reason);
    Some((Some(failing.instance.clone()), InstanceState::BackingOff, reason, Some(failing.at)))
}

/// The row, unless nothing of the release may run there any more.
async fn row(
    core: &Core,
    place: &OnNode,
    number: ReleaseNumber,
    (id, state, reason, since): Coming,
) -> Result<Option<Row>, Fault> {
    let key: &ServiceKey = &place.service;
    let path = keys::slice(&place.node, key);
    let (Some(item), _) = core.state.get(&path).await? else { return Ok(None) };
    let slice: Slice = decode(&path, &item.value)?;
    let Some(share) = slice.share(number).filter(|share| share.max > 0) else { return Ok(None) };
    Ok(Some(Row {
        id,
        app: key.app.clone(),
        service: key.service.clone(),
        release: number,
        image: share.release.spec.digest.clone(),
        state,
        reason,
        address: None,
        node: place.node.clone(),
        pid: None,
        started_at: since.unwrap_or(share.release.created_at),
        requests: 0,
        in_flight: 0,
        identity: None,
    }))
}
