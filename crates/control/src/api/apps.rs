//! Apps as they are.

use axum::{
    Json,
    extract::{Path, State},
    http::Method,
    routing::get,
};
use minato_model::{
    code::{Code, Problem},
    ids::AppName,
};
use serde::Serialize;

use super::{Answer, Endpoint, Needs, Shared, answer::Answered, part};
use crate::{
    status::{self, AppStatus},
    world::World,
};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint {
            method: Method::GET,
            path: "/api/v1/apps",
            needs: Needs::Read,
            summary: "Every app with its services, and what each is",
            parameters: vec![],
            body: None,
            answer: Answer::Json("Apps"),
            handler: get(all),
        },
        Endpoint {
            method: Method::GET,
            path: "/api/v1/apps/{app}",
            needs: Needs::ReadApp,
            summary: "One app with its services, and what each is",
            parameters: vec![part("app", "the app's name")],
            body: None,
            answer: Answer::Json("Apps"),
            handler: get(one),
        },
    ]
}

#[derive(Serialize)]
struct Apps {
    apps: Vec<AppStatus>,
}

async fn all(State(core): Shared) -> Answered<Apps> {
    let world = World::read(&*core.state).await?;
    let mut apps = Vec::new();
    for app in world.apps.keys() {
        apps.extend(status::app(&core, &world, app).await?);
    }
    Ok(Json(Apps { apps }))
}

async fn one(State(core): Shared, Path(app): Path<String>) -> Answered<Apps> {
    let app = name(&app)?;
    let world = World::read(&*core.state).await?;
    match status::app(&core, &world, &app).await? {
        Some(status) => Ok(Json(Apps { apps: vec![status] })),
        None => Err(no_app(app.as_str()).into()),
    }
}

/// A name of an app; what can't be one isn't there.
pub(super) fn name(text: &str) -> Result<AppName, Problem> {
    text.parse().map_err(|_| no_app(text))
}

fn no_app(text: &str) -> Problem {
    let text: String = text.chars().take(80).collect();
    Problem::new(Code::NotFound, format!("there is no app `{text}`"))
        .with_hint("`minato status` lists what there is")
}
