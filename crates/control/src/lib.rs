//! Control: the API, and the reconcilers that turn what is declared into what nodes are told.
//!
//! ```text
//! api ──▶ apply ──▶ /apps ──▶ reconcile/rollouts ──▶ /rollouts ──▶ reconcile/slices ──▶ /slices
//!                                      ▲                                                   │
//!                                      └──────────────── /inventory ◀──── nodes ◀──────────┘
//! ```
//! Everything that lasts is in the cluster state and changes there by compare-and-swap, so that a
//! second control, or this one killed at any moment and started again, goes on from where it was.
//! No request that an edge answers waits for anything here.

mod access;
mod api;
mod apply;
mod core;
mod doors;
mod reconcile;
mod status;
mod tokens;
mod why;
mod world;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
};

use minato_identity::{Trust, token::Tokens};
use minato_model::{event::Journal, images::Images, node::Nodes, time::Moment, tls::Issuance};
use minato_state::{State, StateError};
use tokio_util::sync::CancellationToken;

use crate::core::Core;

/// What control is given by whoever wires the parts.
pub struct Deps {
    /// The cluster state.
    pub state: Arc<dyn State>,
    /// The nodes that can be asked.
    pub nodes: Arc<dyn Nodes>,
    /// Where images are looked up.
    pub images: Arc<dyn Images>,
    /// Where events go, and come from.
    pub journal: Arc<dyn Journal>,
    /// The time of day.
    pub clock: Arc<dyn Fn() -> Moment + Send + Sync>,
    /// Prometheus text beside the nodes' own.
    pub extra_metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Who may call the API; filled from the cluster state.
    pub tokens: Arc<Tokens>,
    /// By what the cluster's certificates are verified.
    pub roots: Roots,
    /// Names by which the API may be called, beside those of loopback; without port.
    pub allowed_hosts: Vec<String>,
    /// Where this node's edge answers HTTP, for the URLs that are shown.
    pub http: Option<SocketAddr>,
    /// Where this node's edge answers HTTPS.
    pub https: Option<SocketAddr>,
    /// How hosts stand with a public authority, if one is asked.
    pub issuance: Option<Issuances>,
}

/// The name of the cluster, and its roots.
#[derive(Debug, Clone)]
pub struct Roots {
    /// The trust domain of its SPIFFE ids.
    pub cluster: String,
    /// The roots of now.
    pub trust: Trust,
}

/// How a host stands with a public authority; `None`: it isn't asked for it.
pub type Issuances = Arc<dyn Fn(&str) -> Option<Issuance> + Send + Sync>;

impl fmt::Debug for Deps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deps").field("allowed_hosts", &self.allowed_hosts).finish_non_exhaustive()
    }
}

/// Control. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    core: Arc<Core>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Control")
    }
}

impl Control {
    /// Control over what it is given. Does nothing until it is run or asked.
    #[must_use]
    pub fn new(deps: Deps) -> Self {
        Self { core: Arc::new(Core::new(deps)) }
    }

    /// The API: everything below `/api/`, `/metrics` and `/readyz`, access checked.
    pub fn router(&self) -> axum::Router {
        api::router(&self.core)
    }

    /// What `/readyz` says from now on; it begins with no.
    pub fn set_ready(&self, ready: bool) {
        self.core.ready.store(ready, Ordering::Release);
    }

    /// Takes over who may call it. Before this only the data directory's own token counts.
    ///
    /// # Errors
    /// The cluster state can't be read.
    pub async fn admit(&self) -> Result<(), StateError> {
        tokens::load(&self.core).await.map(drop)
    }

    /// Drives the reconcilers until told to stop; ends the streams of the API then.
    pub async fn run(&self, shutdown: CancellationToken) {
        tokio::join!(reconcile::run(&self.core, &shutdown), tokens::follow(&self.core, &shutdown));
        self.core.closing.cancel();
    }
}
