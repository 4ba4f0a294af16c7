//! The server itself: whether it is ready, what it measured, what its API is.

use std::sync::atomic::Ordering;

use axum::{
    Json,
    extract::State,
    http::{Method, StatusCode, header},
    response::IntoResponse,
    routing::get,
};

use super::{Answer, Endpoint, Needs, Shared, openapi};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint {
            method: Method::GET,
            path: "/metrics",
            needs: Needs::Read,
            summary: "What was measured, for Prometheus",
            parameters: vec![],
            body: None,
            answer: Answer::Text,
            handler: get(metrics),
        },
        Endpoint {
            method: Method::GET,
            path: "/api/openapi.json",
            needs: Needs::Read,
            summary: "This description",
            parameters: vec![],
            body: None,
            answer: Answer::Json("Description"),
            handler: get(describe),
        },
    ]
}

/// 200 once every role answers. Needs no token, so that whoever starts the server can wait for it.
pub(super) async fn ready(State(core): Shared) -> impl IntoResponse {
    if core.ready.load(Ordering::Acquire) {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

async fn metrics(State(core): Shared) -> impl IntoResponse {
    let mut text = String::new();
    for (_, node) in core.nodes.all() {
        text.push_str(&node.metrics());
    }
    text.push_str(&(core.extra_metrics)());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

async fn describe() -> impl IntoResponse {
    Json(openapi::description())
}
