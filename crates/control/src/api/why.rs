//! Why something is as it is.

use axum::{Json, extract::State, http::Method, routing::get};
use serde::Deserialize;

use super::{Answer, Endpoint, Needs, Shared, answer::Answered, needed, query::Asked};
use crate::why::{self, Why};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint {
        method: Method::GET,
        path: "/api/v1/why",
        needs: Needs::Read,
        summary: "The story of an app, a service, a release or an instance",
        parameters: vec![needed("thing", "app, app/service, app/service@release, or an instance's id")],
        body: None,
        answer: Answer::Json("Why"),
        handler: get(tell),
    }]
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Thing {
    thing: String,
}

async fn tell(State(core): Shared, Asked(asked): Asked<Thing>) -> Answered<Why> {
    Ok(Json(why::why(&core, &asked.thing).await?))
}
