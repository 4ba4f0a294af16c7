//! Tokens: made, listed, revoked.

use std::time::Duration;

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::{Method, header},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use minato_identity::token::{Bearer, InvalidScope, Scope, Token};
use minato_model::{
    code::{Code, Problem},
    units,
};
use serde::{Deserialize, Serialize};

use super::{
    Answer, Endpoint, Needs, Shared,
    answer::{Answered, Failed},
    part,
    query::Sent,
};
use crate::tokens::{self, Wanted};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint {
            method: Method::GET,
            path: "/api/v1/tokens",
            needs: Needs::Admin,
            summary: "Every token, without its secret",
            parameters: vec![],
            body: None,
            answer: Answer::Json("Tokens"),
            handler: get(list),
        },
        Endpoint {
            method: Method::POST,
            path: "/api/v1/tokens",
            needs: Needs::Admin,
            summary: "Makes a token; its text is in this answer and nowhere else",
            parameters: vec![],
            body: Some("TokenRequest"),
            answer: Answer::Json("NewToken"),
            handler: post(make),
        },
        Endpoint {
            method: Method::DELETE,
            path: "/api/v1/tokens/{id}",
            needs: Needs::Admin,
            summary: "Revokes a token: it counts no longer, from now on",
            parameters: vec![part("id", "the token's id")],
            body: None,
            answer: Answer::Json("Token"),
            handler: delete(revoke),
        },
    ]
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenRequest {
    #[serde(default)]
    name: String,
    scopes: Vec<String>,
    /// As durations are written; absent: it never expires.
    #[serde(default)]
    expires_in: Option<String>,
}

#[derive(Serialize)]
struct List {
    tokens: Vec<Token>,
}

#[derive(Serialize)]
struct New<'a> {
    #[serde(flatten)]
    token: &'a Token,
    text: &'a str,
}

async fn list(State(core): Shared) -> Answered<List> {
    Ok(Json(List { tokens: core.access.tokens().list() }))
}

async fn make(
    State(core): Shared,
    Extension(bearer): Extension<Bearer>,
    Sent(request): Sent<TokenRequest>,
) -> Result<Response, Failed> {
    let wrong = |key: &str, message: String| Problem::new(Code::InvalidRequest, message).at_key(key);
    let scopes: Result<Vec<Scope>, InvalidScope> = request.scopes.iter().map(|scope| scope.parse()).collect();
    let scopes = scopes.map_err(|error| wrong("scopes", error.to_string()))?;
    let lives = request.expires_in.as_deref().map(units::duration).transpose();
    let lives: Option<Duration> = lives.map_err(|error| wrong("expires_in", error.to_string()))?;
    let wanted = Wanted { name: request.name, scopes, lives, by: bearer.who().to_string() };
    let (token, text) = tokens::make(&core, wanted).await?;
    let answer = Json(New { token: &token, text: &text });
    Ok(([(header::CACHE_CONTROL, "no-store")], answer).into_response())
}

async fn revoke(
    State(core): Shared,
    Extension(bearer): Extension<Bearer>,
    Path(id): Path<String>,
) -> Answered<Token> {
    Ok(Json(tokens::revoke(&core, &id, bearer.who()).await?))
}
