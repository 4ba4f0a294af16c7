//! Certificates by a public authority (ACME, RFC 8555): asked for when a service has a public host,
//! proven at the edge, kept in the data directory, renewed long before they end.
//!
//! ```text
//! slices ─ which hosts ─▶ schedule ─▶ lease ─▶ order ─▶ store ─▶ edge
//!                            ▲                   │ fails
//!                            └──── back-off ◀────┘
//! ```
//! Whatever fails, a host goes on with the certificate that it has, or with the cluster's. What the
//! authority says is bounded in time and size, and what it issues is checked as a file of anybody is.

mod account;
mod client;
mod lease;
mod order;
mod round;
mod schedule;
mod store;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use minato_identity::files::Material;
use minato_model::{
    event::Journal,
    ids::NodeName,
    routing::Routing,
    time::Moment,
    tls::{Certificate, Issuance, Secured, Source},
};
use minato_state::State;
use rustls_pki_types::CertificateDer;

use crate::{
    client::Client,
    schedule::{Directory, Host},
    store::Store,
};
pub use crate::{client::ClientError, store::StoreError};

/// Whom to ask, and for what.
#[derive(Debug, Clone)]
pub struct Config {
    /// The authority's directory, `https://…`.
    pub directory: String,
    /// Whom it may write to: `mailto:…`.
    pub contact: Vec<String>,
    /// For which hosts; `None`: all that can be public.
    pub hosts: Option<Vec<String>>,
    /// The roots that the directory's own certificate comes from.
    pub roots: Vec<CertificateDer<'static>>,
    /// How hosts are proven; `None`: one way, and after a failure the other.
    pub proof: Option<Proof>,
    /// Where account and certificates are kept: a folder of nobody else's.
    pub folder: PathBuf,
    /// This node.
    pub node: NodeName,
}

/// How an authority is shown that a host is this cluster's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// By a file over HTTP: the host's port 80 has to lead to the edge's plain port.
    Http01,
    /// By a certificate over TLS: the host's port 443 has to lead to the edge's port for TLS.
    TlsAlpn01,
}

impl Proof {
    /// As RFC 8555 and RFC 8737 call it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
        }
    }
}

/// Whom it works with.
#[derive(Clone)]
pub struct Deps {
    /// The cluster state: which hosts there are, and whose turn it is.
    pub state: Arc<dyn State>,
    /// The edge.
    pub routing: Arc<dyn Routing>,
    /// Where events go.
    pub journal: Arc<dyn Journal>,
    /// The time of day.
    pub clock: Arc<dyn Fn() -> Moment + Send + Sync>,
}

impl std::fmt::Debug for Deps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deps").finish_non_exhaustive()
    }
}

/// Why it can't begin.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder can't be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The roots can't.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Certificates by a public authority.
#[derive(Debug)]
pub struct Acme {
    config: Config,
    deps: Deps,
    store: Store,
    client: Client,
    known: Mutex<Known>,
}

/// What is known of hosts, and of the authority.
#[derive(Debug, Default)]
struct Known {
    hosts: BTreeMap<String, Host>,
    certificates: BTreeMap<String, Certificate>,
    directory: Directory,
}

impl Acme {
    /// Reads what was issued before, and puts it in force. Asks nobody yet.
    ///
    /// # Errors
    /// The folder or the roots can't be used. A single file that can't be read is left aside, and said.
    pub fn open(config: Config, deps: Deps) -> Result<Arc<Self>, OpenError> {
        let store = Store::open(&config.folder)?;
        let client = Client::new(&config.roots)?;
        let acme = Arc::new(Self { config, deps, store, client, known: Mutex::default() });
        for (host, material) in acme.store.load(acme.now()) {
            acme.keep(&host, &material);
        }
        acme.resume();
        acme.present();
        Ok(acme)
    }

    /// How a host stands with the authority; `None`: it isn't asked for it.
    #[must_use]
    pub fn issuance(&self, host: &str) -> Option<Issuance> {
        let known = self.known();
        let host = known.hosts.get(host)?;
        let next = host.next.or(known.directory.next);
        Some(Issuance { leaf: host.leaf.clone(), failure: host.failure.clone(), next })
    }

    fn now(&self) -> Moment {
        (self.deps.clock)()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // What a panicking thread leaves behind is whole: entries are changed whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a certificate, in place of the host's own before.
    fn keep(&self, host: &str, material: &Material) {
        let Some(certificate) = material.certificate() else { return };
        let mut known = self.known();
        let known_host = known.hosts.entry(host.to_owned()).or_default();
        *known_host = Host { leaf: material.presented.certificate.clone(), ..Host::default() };
        let certificate = Certificate { hosts: vec![host.to_owned()], ..certificate };
        known.certificates.insert(host.to_owned(), certificate);
    }

    /// Goes on from the failures that a server before had.
    fn resume(&self) {
        let now = self.now();
        for (host, kept) in self.store.failures() {
            self.known().hosts.entry(host).or_default().resume(kept, now);
        }
    }

    /// Hands what there is to the edge.
    fn present(&self) {
        let certificates = self.known().certificates.values().cloned().collect();
        let secured = Secured { certificates, client_roots: Vec::new() };
        self.deps.routing.secure(Source::Acme, Arc::new(secured));
    }
}
