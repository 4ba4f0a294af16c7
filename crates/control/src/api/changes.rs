//! Plans and applies: what changes what is declared.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::Method,
    routing::{delete, post},
};
use minato_identity::token::Bearer;
use minato_model::{
    code::{Code, Problem},
    ids::AppName,
    plan::Plan,
};
use serde::{Deserialize, Serialize};

use super::{
    Answer, Endpoint, Needs, Shared,
    answer::{Answered, Failed},
    needs, part,
    query::Sent,
};
use crate::{
    apply::{self, File, Wishes},
    core::Core,
    status,
    world::World,
};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint {
            method: Method::POST,
            path: "/api/v1/plans",
            needs: Needs::Deploy,
            summary: "What applying these manifests would change, and why",
            parameters: vec![],
            body: Some("PlanRequest"),
            answer: Answer::Json("Plans"),
            handler: post(plan),
        },
        Endpoint {
            method: Method::POST,
            path: "/api/v1/apply",
            needs: Needs::Deploy,
            summary: "Applies manifests; answers once every node has confirmed the routes",
            parameters: vec![],
            body: Some("ApplyRequest"),
            answer: Answer::Json("Applied"),
            handler: post(apply_files),
        },
        Endpoint {
            method: Method::DELETE,
            path: "/api/v1/apps/{app}",
            needs: Needs::Deploy,
            summary: "Takes an app away: its routes go, its instances drain",
            parameters: vec![part("app", "the app's name")],
            body: None,
            answer: Answer::Json("Plans"),
            handler: delete(delete_app),
        },
    ]
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanRequest {
    files: Vec<File>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApplyRequest {
    files: Vec<File>,
    #[serde(default)]
    plan: Option<String>,
    #[serde(default)]
    prune: bool,
    #[serde(default)]
    retry: bool,
    #[serde(default)]
    supersede: bool,
}

#[derive(Serialize)]
struct Plans {
    plans: Vec<Plan>,
}

#[derive(Serialize)]
struct Applied {
    plans: Vec<Plan>,
    apps: Vec<AppState>,
}

#[derive(Serialize)]
struct AppState {
    app: AppName,
    services: Vec<ServiceState>,
}

#[derive(Serialize)]
struct ServiceState {
    service: String,
    release: Option<u32>,
    state: &'static str,
}

async fn plan(
    State(core): Shared,
    Extension(bearer): Extension<Bearer>,
    Sent(request): Sent<PlanRequest>,
) -> Answered<Plans> {
    needs::deploys(&bearer, apply::named(&request.files).iter())?;
    Ok(Json(Plans { plans: apply::plan(&core, &request.files).await? }))
}

async fn apply_files(
    State(core): Shared,
    Extension(bearer): Extension<Bearer>,
    Sent(request): Sent<ApplyRequest>,
) -> Answered<Applied> {
    needs::deploys(&bearer, apply::named(&request.files).iter())?;
    if request.prune {
        // It takes away what isn't named.
        needs::is_admin(&bearer)?;
    }
    if request.supersede {
        let message = "superseding a release that is under way isn't supported yet";
        return Err(Failed(
            Problem::new(Code::NotSupported, message).with_hint("wait until it is stable or taken back"),
        ));
    }
    // On a task of its own: a client that hangs up doesn't stop it half-way.
    let applied = finish(async move {
        let wishes = Wishes { plan: request.plan, prune: request.prune, retry: request.retry };
        let applied = apply::apply(&core, &request.files, &wishes).await?;
        let apps = states(&core, &applied.apps).await?;
        Ok(Applied { plans: applied.plans, apps })
    });
    Ok(Json(applied.await?))
}

async fn delete_app(State(core): Shared, Path(app): Path<String>) -> Answered<Plans> {
    let app = super::apps::name(&app)?;
    let plans = finish(async move { apply::delete(&core, &app).await }).await?;
    Ok(Json(Plans { plans }))
}

/// Carries it out whatever becomes of the request.
#[expect(clippy::disallowed_methods, reason = "it is awaited here, and goes on where the client hangs up")]
async fn finish<T: Send + 'static>(
    change: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::spawn(change).await {
        Ok(end) => end,
        Err(_) => Err(Problem::new(Code::Internal, "the change broke off")),
    }
}

async fn states(core: &Arc<Core>, apps: &[AppName]) -> Result<Vec<AppState>, Problem> {
    let world = World::read(&*core.state).await?;
    let mut states = Vec::new();
    for app in apps {
        let Some(status) = status::app(core, &world, app).await? else { continue };
        let services = status.services.into_iter().map(|service| ServiceState {
            service: service.service.to_string(),
            release: service.rollout.as_ref().map(|rollout| rollout.release),
            state: service.rollout.map_or("in_progress", |rollout| rollout.state),
        });
        states.push(AppState { app: status.app, services: services.collect() });
    }
    Ok(states)
}
