//! Releases of a service.

use axum::{Json, extract::State, http::Method, routing::get};
use minato_model::{
    code::{Code, Problem},
    digest::Digest,
    ids::{ReleaseKey, ReleaseNumber, ServiceKey},
    keys,
    reference::ImageReference,
    release::Release,
    time::Moment,
};
use minato_state::list_all;
use serde::{Deserialize, Serialize};

use super::{Answer, Endpoint, Needs, Shared, answer::Answered, needed, query::Asked};
use crate::{
    core::{Fault, decode},
    why::release_state,
    world::World,
};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint {
        method: Method::GET,
        path: "/api/v1/releases",
        needs: Needs::Read,
        summary: "Every release that a service ever had, by number",
        parameters: vec![needed("service", "app/service")],
        body: None,
        answer: Answer::Json("Releases"),
        handler: get(list),
    }]
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    service: String,
}

#[derive(Serialize)]
struct Releases {
    releases: Vec<OneRelease>,
}

/// A release as the API tells it. What is in its environment stays there.
#[derive(Serialize)]
struct OneRelease {
    number: ReleaseNumber,
    hash: String,
    image: ImageReference,
    digest: Digest,
    state: &'static str,
    created_at: Moment,
    reason: Option<String>,
}

async fn list(State(core): Shared, Asked(query): Asked<Query>) -> Answered<Releases> {
    let service = known(&query.service)?;
    let (items, _) = list_all(&*core.state, &keys::releases_of(&service)).await.map_err(Fault::from)?;
    if items.is_empty() {
        let message = format!("there is no service `{service}`");
        let hint = "`minato status` lists what there is";
        return Err(Problem::new(Code::NotFound, message).with_hint(hint).into());
    }
    let world = World::read(&*core.state).await?;
    let mut releases = Vec::new();
    for item in items {
        let release: Release = decode(&item.key, &item.value)?;
        let key = ReleaseKey { service: service.clone(), number: release.number };
        let (state, reason) = release_state(&world, &key, &release.hash);
        releases.push(OneRelease {
            number: release.number,
            hash: release.hash,
            image: release.image,
            digest: release.spec.digest,
            state,
            created_at: release.created_at,
            reason,
        });
    }
    Ok(Json(Releases { releases }))
}

/// A service's name as it is asked for.
fn known(text: &str) -> Result<ServiceKey, Problem> {
    text.parse().map_err(|_| Problem::new(Code::InvalidRequest, "`service` is written app/service"))
}
