//! The API over HTTP, a file a noun. The router and `/api/openapi.json` are made from the same table
//! of endpoints, so that neither knows one that the other doesn't.

mod answer;
mod apps;
mod ca;
mod changes;
mod events;
mod instances;
mod logs;
mod needs;
mod openapi;
mod query;
mod releases;
mod rollouts;
mod schemas;
mod server;
mod stream;
mod tokens;
mod top;
mod why;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{Method, Uri},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use minato_model::code::{Code, Problem};

pub(crate) use self::needs::Refusals;
use self::{answer::Failed, needs::Needs};
use crate::core::Core;

/// The largest body: a manifest of a thousand services is below 1 MiB, and there may be several.
const BODY_MAX: usize = 2 << 20;
/// The longest that an answer may take to begin, the 30 s of a slow body and the 30 s of an apply's
/// confirmation included.
const ANSWER_WITHIN: Duration = Duration::from_secs(90);

/// What handlers are given.
type Shared = State<Arc<Core>>;

/// An endpoint: what it is called, what it takes and gives, and who answers.
pub(crate) struct Endpoint {
    method: Method,
    path: &'static str,
    needs: Needs,
    summary: &'static str,
    /// Of the path and of the query.
    parameters: Vec<Parameter>,
    /// The schema of its body.
    body: Option<&'static str>,
    answer: Answer,
    handler: MethodRouter<Arc<Core>>,
}

/// A parameter of an endpoint.
pub(crate) struct Parameter {
    name: &'static str,
    place: Place,
    required: bool,
    kind: &'static str,
    what: &'static str,
}

/// Where a parameter is written.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    Path,
    Query,
}

/// What an endpoint answers when all is well.
#[derive(Clone, Copy)]
pub(crate) enum Answer {
    /// JSON of this schema.
    Json(&'static str),
    /// A line of JSON of this schema each.
    Lines(&'static str),
    /// Text for programs or people.
    Text,
}

/// An optional parameter of the query.
const fn asked(name: &'static str, kind: &'static str, what: &'static str) -> Parameter {
    Parameter { name, place: Place::Query, required: false, kind, what }
}

/// A parameter of the query that must be there.
const fn needed(name: &'static str, what: &'static str) -> Parameter {
    Parameter { name, place: Place::Query, required: true, kind: "string", what }
}

/// A part of the path.
const fn part(name: &'static str, what: &'static str) -> Parameter {
    Parameter { name, place: Place::Path, required: true, kind: "string", what }
}

/// Every endpoint that needs a token.
fn endpoints() -> Vec<Endpoint> {
    [
        changes::endpoints(),
        apps::endpoints(),
        instances::endpoints(),
        top::endpoints(),
        why::endpoints(),
        logs::endpoints(),
        events::endpoints(),
        releases::endpoints(),
        rollouts::endpoints(),
        tokens::endpoints(),
        ca::endpoints(),
        server::endpoints(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The API's router.
pub(crate) fn router(core: &Arc<Core>) -> Router {
    let mut api = Router::new();
    for endpoint in endpoints() {
        let allowed = middleware::from_fn_with_state(endpoint.needs, needs::allowed);
        api = api.route(endpoint.path, endpoint.handler.layer(allowed));
    }
    let nothing = |method: Method, uri: Uri| async move {
        let message = format!("there is no {method} {}", uri.path().chars().take(80).collect::<String>());
        let hint = "/api/openapi.json describes what there is";
        Failed(Problem::new(Code::NotFound, message).with_hint(hint))
    };
    let api = api
        .route("/api/{*rest}", axum::routing::any(nothing))
        .method_not_allowed_fallback(nothing)
        // Read by whoever takes a body, and bounded there: a large one is refused before it is read.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn(in_time))
        .layer(middleware::from_fn_with_state(Arc::clone(core), needs::guarded));
    api.route("/readyz", get(server::ready)).with_state(Arc::clone(core))
}

/// Ends what takes too long to begin answering.
async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(ANSWER_WITHIN, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let message = format!("there was no answer within {} s", ANSWER_WITHIN.as_secs());
            Failed(Problem::new(Code::Timeout, message)).into_response()
        }
    }
}
