//! The product service: what there is, and what it costs.

use axum::{Json, Router, extract::Path, routing::get};
use serde::{Deserialize, Serialize};

use crate::Refused;

/// Something for sale.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Product {
    /// Its number.
    pub(crate) id: u32,
    /// Its name.
    pub(crate) name: String,
    /// What it costs, in cents.
    pub(crate) cents: u32,
}

const PRODUCTS: [(&str, u32); 8] = [
    ("Anchor", 12_900),
    ("Barometer", 5_900),
    ("Compass", 3_400),
    ("Fog horn", 2_250),
    ("Harbour chart", 1_150),
    ("Lantern", 4_100),
    ("Rope, 20 m", 1_890),
    ("Sextant", 18_700),
];

fn all() -> Vec<Product> {
    (1..).zip(PRODUCTS).map(|(id, (name, cents))| Product { id, name: name.to_owned(), cents }).collect()
}

pub(crate) fn router() -> Router {
    Router::new()
        .route("/products", get(|| async { Json(all()) }))
        .route("/products/{id}", get(|Path(id): Path<u32>| async move { one(id) }))
}

fn one(id: u32) -> Result<Json<Product>, Refused> {
    let found = all().into_iter().find(|product| product.id == id);
    found.map(Json).ok_or_else(|| Refused::NotFound(format!("product {id}")))
}

#[cfg(test)]
mod tests {
    #[test]
    fn products_are_found_by_number() {
        assert_eq!(super::one(3).unwrap().0.name, "Compass");
        assert!(super::one(9).is_err());
    }
}
