//! Certificates by a public authority, where the configuration names one.

use std::sync::Arc;

use anyhow::Context as _;
use minato_acme::Acme;
use minato_model::{event::Journal, routing::Routing};
use minato_state::State;

use super::{clock::now, start::Ground};

/// Puts in force what was issued before; `None`: nobody is to be asked.
pub(super) fn open(
    ground: &Ground,
    state: Arc<dyn State>,
    journal: Arc<dyn Journal>,
    routing: Arc<dyn Routing>,
) -> anyhow::Result<Option<Arc<Acme>>> {
    let Some(acme) = ground.config.tls.acme.clone() else { return Ok(None) };
    let config = minato_acme::Config {
        directory: acme.directory,
        contact: acme.contact,
        hosts: acme.hosts,
        roots: acme.roots,
        proof: acme.proof,
        folder: ground.data.path.join("identity/acme"),
        node: ground.name.clone(),
    };
    let deps = minato_acme::Deps { state, routing, journal, clock: Arc::new(now) };
    Acme::open(config, deps).map(Some).context("certificates by ACME can't be opened")
}
