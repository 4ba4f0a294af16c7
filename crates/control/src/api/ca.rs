//! The cluster's roots, for clients that verify its certificates.

use axum::{Json, extract::State, http::Method, routing::get};
use minato_identity::{files, inspect::Unreadable};
use minato_model::{
    code::{Code, Problem},
    time::Moment,
};
use serde::Serialize;

use super::{Answer, Endpoint, Needs, Shared, answer::Answered};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint {
        method: Method::GET,
        path: "/api/v1/ca",
        needs: Needs::Read,
        summary: "The cluster's roots, by which its certificates are verified",
        parameters: vec![],
        body: None,
        answer: Answer::Json("Authority"),
        handler: get(show),
    }]
}

/// The roots of now.
#[derive(Debug, Serialize)]
struct Authority {
    /// The trust domain of SPIFFE ids.
    cluster: String,
    /// Rises with each change.
    serial: u64,
    /// All roots, one after the other.
    pem: String,
    /// The oldest first.
    roots: Vec<Root>,
}

#[derive(Debug, Serialize)]
struct Root {
    sha256: String,
    not_before: Moment,
    not_after: Moment,
}

async fn show(State(core): Shared) -> Answered<Authority> {
    let bundle = core.roots.trust.now();
    let root = |certificate| {
        let leaf = files::leaf(certificate)?;
        Ok(Root { sha256: leaf.sha256, not_before: leaf.not_before, not_after: leaf.not_after })
    };
    let roots = bundle.roots.iter().map(root).collect::<Result<_, Unreadable>>();
    let roots = roots.map_err(|_| Problem::new(Code::Internal, "a root of the cluster can't be read"))?;
    let (cluster, pem) = (core.roots.cluster.clone(), bundle.pem.to_string());
    Ok(Json(Authority { cluster, serial: bundle.serial, pem, roots }))
}
