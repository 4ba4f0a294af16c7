//! What nodes have, use and carry now.

use axum::{Json, extract::State, http::Method, routing::get};
use minato_model::{
    code::{Code, Problem},
    ids::AppName,
    top::Top,
};
use serde::{Deserialize, Serialize};

use super::{Answer, Endpoint, Needs, Shared, answer::Answered, asked, query::Asked};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint {
        method: Method::GET,
        path: "/api/v1/top",
        needs: Needs::Read,
        summary: "What each node, its pool of sandboxes, its services and instances use and carry now",
        parameters: vec![asked("app", "string", "services and instances of this app only")],
        body: None,
        answer: Answer::Json("Tops"),
        handler: get(look),
    }]
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    app: Option<String>,
}

#[derive(Serialize)]
struct Tops {
    nodes: Vec<Top>,
}

async fn look(State(core): Shared, Asked(filter): Asked<Filter>) -> Answered<Tops> {
    let app = filter.app.as_deref().map(|app| {
        app.parse::<AppName>().map_err(|error| Problem::new(Code::InvalidRequest, error.to_string()))
    });
    let app = app.transpose()?;
    let mut nodes = Vec::new();
    for (_, node) in core.nodes.all() {
        let mut top = node.top().await;
        if let Some(app) = &app {
            top.services.retain(|service| service.app == *app);
            top.instances.retain(|instance| instance.app == *app);
        }
        nodes.push(top);
    }
    Ok(Json(Tops { nodes }))
}
