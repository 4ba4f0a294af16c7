//! The storefront: the page that a person opens, and what it asks for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::header,
    response::{Html, IntoResponse},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{Refused, call, cart::Line, product::Product};

const PAGE: &str = include_str!("page.html");
/// The longest that `/ping` takes its time, in milliseconds.
const WORK_MAX: u64 = 2_000;

/// Who answers.
#[derive(Debug)]
struct Me {
    instance: String,
    release: String,
    version: String,
    since: Instant,
    answered: AtomicU64,
}

/// What the page shows of an answer.
#[derive(Debug, Serialize)]
struct Ping<'a> {
    instance: &'a str,
    release: &'a str,
    version: &'a str,
    answered: u64,
    age_ms: u128,
}

/// How an answer is asked for.
#[derive(Debug, Deserialize)]
struct Asked {
    /// Milliseconds of pretended work.
    #[serde(default)]
    work: u64,
}

pub(crate) fn router() -> Router {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let me = Me {
        instance: variable("MINATO_INSTANCE"),
        release: variable("MINATO_RELEASE"),
        version: std::env::var("MARKET_VERSION").unwrap_or_else(|_| "1".to_owned()),
        since: Instant::now(),
        answered: AtomicU64::new(0),
    };
    Router::new()
        .route("/", get(|| async { ([(header::CACHE_CONTROL, "no-store")], Html(PAGE)) }))
        .route("/ping", get(ping))
        .route("/products", get(products))
        .route("/carts/{customer}", get(cart))
        .route("/carts/{customer}/items", post(add))
        .with_state(Arc::new(me))
}

async fn ping(State(me): State<Arc<Me>>, Query(asked): Query<Asked>) -> impl IntoResponse {
    if asked.work > 0 {
        tokio::time::sleep(Duration::from_millis(asked.work.min(WORK_MAX))).await;
    }
    let answer = Ping {
        instance: &me.instance,
        release: &me.release,
        version: &me.version,
        answered: me.answered.fetch_add(1, Ordering::Relaxed) + 1,
        age_ms: me.since.elapsed().as_millis(),
    };
    ([(header::CACHE_CONTROL, "no-store")], Json(serde_json::json!(answer)))
}

async fn products() -> Result<Json<Vec<Product>>, Refused> {
    let products = call::get("product", "/products").await?;
    products.map(Json).ok_or_else(|| Refused::NotFound("product list".to_owned()))
}

async fn cart(Path(customer): Path<String>) -> Result<Json<Vec<Line>>, Refused> {
    let lines = call::get("cart", &format!("/carts/{}", name(&customer)?)).await?;
    Ok(Json(lines.unwrap_or_default()))
}

async fn add(
    Path(customer): Path<String>,
    Json(wanted): Json<serde_json::Value>,
) -> Result<Json<Vec<Line>>, Refused> {
    let lines = call::post("cart", &format!("/carts/{}/items", name(&customer)?), &wanted).await?;
    lines.map(Json).ok_or_else(|| Refused::NotFound("such product".to_owned()))
}

/// A customer's name goes into another service's path: letters and digits alone.
fn name(customer: &str) -> Result<&str, Refused> {
    let fits =
        (1..=64).contains(&customer.len()) && customer.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if fits { Ok(customer) } else { Err(Refused::Invalid("a customer's name is 1 to 64 letters and digits")) }
}
