//! Instances, of every node.

use axum::{Json, extract::State, http::Method, routing::get};
use minato_model::inventory::{Instance, InstanceState};
use serde::{Deserialize, Serialize};

use super::{Answer, Endpoint, Shared, answer::Answered, asked, query::Asked};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint {
        method: Method::GET,
        path: "/api/v1/instances",
        summary: "Instances that run, and those that ended lately",
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
    instances: Vec<Instance>,
}

async fn list(State(core): Shared, Asked(filter): Asked<Filter>) -> Answered<Instances> {
    let mut instances = Vec::new();
    for (_, node) in core.nodes.all() {
        instances.extend(node.instances().await);
    }
    let is = |asked: &Option<String>, name: &str| asked.as_ref().is_none_or(|asked| asked == name);
    let all = filter.all.unwrap_or(true);
    instances.retain(|instance| {
        let ended = matches!(instance.state, InstanceState::Stopped | InstanceState::Failed);
        (all || !ended)
            && is(&filter.app, instance.app.as_str())
            && is(&filter.service, instance.service.as_str())
    });
    instances.sort_by(|one, other| {
        let place =
            |instance: &Instance| (instance.app.clone(), instance.service.clone(), instance.started_at);
        place(one).cmp(&place(other))
    });
    Ok(Json(Instances { instances }))
}
