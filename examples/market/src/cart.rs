//! The cart service: what each customer has put aside. A cart lives as long as its instance.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Json, Router,
    extract::{Path, State},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};

use crate::{Refused, call, product::Product};

/// The most customers, and the most lines of one cart, that are remembered: memory is bounded.
const CUSTOMERS: usize = 10_000;
const LINES: usize = 100;

/// One line of a cart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    /// What.
    pub(crate) product: Product,
    /// How many.
    pub(crate) quantity: u32,
}

/// What to put into a cart.
#[derive(Debug, Deserialize)]
struct Wanted {
    product: u32,
    quantity: u32,
}

type Carts = Arc<Mutex<BTreeMap<String, Vec<Line>>>>;

pub(crate) fn router() -> Router {
    Router::new()
        .route("/carts/{customer}", get(show))
        .route("/carts/{customer}/items", post(add))
        .with_state(Carts::default())
}

async fn show(State(carts): State<Carts>, Path(customer): Path<String>) -> Json<Vec<Line>> {
    let carts = carts.lock().unwrap_or_else(PoisonError::into_inner);
    Json(carts.get(&customer).cloned().unwrap_or_default())
}

async fn add(
    State(carts): State<Carts>,
    Path(customer): Path<String>,
    Json(wanted): Json<Wanted>,
) -> Result<Json<Vec<Line>>, Refused> {
    if !(1..=99).contains(&wanted.quantity) || customer.len() > 64 {
        return Err(Refused::Invalid("a quantity is 1 to 99, a customer's name at most 64 characters"));
    }
    let product: Option<Product> = call::get("product", &format!("/products/{}", wanted.product)).await?;
    let product = product.ok_or_else(|| Refused::NotFound(format!("product {}", wanted.product)))?;
    let mut carts = carts.lock().unwrap_or_else(PoisonError::into_inner);
    if carts.len() >= CUSTOMERS && !carts.contains_key(&customer) {
        carts.pop_first();
    }
    let cart = carts.entry(customer).or_default();
    let full = cart.len() >= LINES;
    match cart.iter_mut().find(|line| line.product.id == product.id) {
        Some(line) => line.quantity = line.quantity.saturating_add(wanted.quantity),
        None if full => return Err(Refused::Invalid("a cart has at most 100 lines")),
        None => cart.push(Line { product, quantity: wanted.quantity }),
    }
    Ok(Json(cart.clone()))
}
