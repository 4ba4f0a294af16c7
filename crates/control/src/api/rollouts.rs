//! Where a service's release stands: what `apply --wait` waits for.

use axum::{
    Json,
    extract::{Path, State},
    http::Method,
    routing::get,
};
use minato_model::{
    code::{Code, Problem},
    ids::ServiceKey,
};

use super::{Answer, Endpoint, Needs, Shared, answer::Answered, part};
use crate::{
    status::{self, RolloutStatus},
    world::World,
};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint {
        method: Method::GET,
        path: "/api/v1/rollouts/{app}/{service}",
        needs: Needs::ReadApp,
        summary: "Where the service's release stands",
        parameters: vec![part("app", "the app's name"), part("service", "the service's name")],
        body: None,
        answer: Answer::Json("Rollout"),
        handler: get(show),
    }]
}

async fn show(State(core): Shared, Path((app, service)): Path<(String, String)>) -> Answered<RolloutStatus> {
    let nothing = || Problem::new(Code::NotFound, "there is no such service");
    let key: ServiceKey = format!("{app}/{service}").parse().map_err(|_| nothing())?;
    let world = World::read(&*core.state).await?;
    let service = world.service(&key).ok_or_else(nothing)?;
    let status = status::status(&core, &world, &key, service).await?;
    Ok(Json(status.rollout.ok_or_else(nothing)?))
}
