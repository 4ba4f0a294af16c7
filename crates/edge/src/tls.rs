//! TLS at the edge's doors: which certificate a client is shown, and what is known of the client then.
//!
//! ```text
//! ClientHello ─ choose ─┬─ challenge   for an authority that proves a host
//!                       ├─ given       from files, by a public authority
//!                       └─ cluster     by the cluster's own, made on first use
//! ```
//!
//! Nothing of a handshake is kept for it: sessions are resumed from tickets alone, by keys that all threads
//! share and that are replaced every few hours.

mod cluster;
mod given;
pub(crate) mod session;
pub(crate) mod stream;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use minato_identity::Authority;
use minato_model::{
    ids::ServiceKey,
    tls::{Challenges, Secured, Source},
};
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{
        ClientHello, NoClientAuth, NoServerSessionStorage, ProducesTickets, danger::ClientCertVerifier,
    },
    sign::{CertifiedKey, SingleCertAndKey},
};

use self::{
    cluster::{Cluster, For},
    given::{Given, Roots},
};
use crate::snapshot::Snapshot;

/// What an authority offers alone when it proves a host (RFC 8737).
const ACME: &[u8] = b"acme-tls/1";
/// What clients may speak.
const SPOKEN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// What all edge threads know of TLS.
pub(crate) struct Tls {
    terms: Terms,
    sources: Mutex<BTreeMap<Source, Arc<Secured>>>,
    given: ArcSwap<Given>,
    challenges: ArcSwap<Challenged>,
    cluster: Option<Cluster>,
}

/// What is the same whatever is shown.
struct Terms {
    provider: Arc<CryptoProvider>,
    tickets: Arc<dyn ProducesTickets>,
}

/// What authorities are answered.
#[derive(Default)]
struct Challenged {
    http: BTreeMap<String, String>,
    alpn: BTreeMap<String, Arc<ServerConfig>>,
}

/// What a client is shown, and what it may be asked for.
#[derive(Clone)]
pub(crate) struct Shown {
    pub(crate) config: Arc<ServerConfig>,
    /// Where its certificate has to come from, if it shows one.
    pub(crate) roots: Option<Arc<Roots>>,
}

impl Shown {
    /// Whether these are its roots.
    fn has(&self, roots: Option<&Arc<Roots>>) -> bool {
        self.roots.as_ref().map(Arc::as_ptr) == roots.map(Arc::as_ptr)
    }
}

impl Terms {
    /// How clients are spoken to that are shown this certificate.
    fn config(
        &self,
        shown: Arc<CertifiedKey>,
        asked: Option<Arc<dyn ClientCertVerifier>>,
    ) -> Result<Arc<ServerConfig>, rustls::Error> {
        // A certificate of a client is looked at anew each time: it may have ended, and so may its root.
        let resumes = asked.is_none();
        let mut config = self.bare(shown, asked.unwrap_or_else(|| Arc::new(NoClientAuth)), &SPOKEN)?;
        if resumes {
            config.ticketer = Arc::clone(&self.tickets);
            config.send_tls13_tickets = 1;
        }
        Ok(Arc::new(config))
    }

    /// The same for whoever proves a host.
    fn challenge(&self, shown: Arc<CertifiedKey>) -> Result<Arc<ServerConfig>, rustls::Error> {
        self.bare(shown, Arc::new(NoClientAuth), &[ACME]).map(Arc::new)
    }

    fn bare(
        &self,
        shown: Arc<CertifiedKey>,
        asked: Arc<dyn ClientCertVerifier>,
        spoken: &[&[u8]],
    ) -> Result<ServerConfig, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(asked)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
        config.alpn_protocols = spoken.iter().map(|name| name.to_vec()).collect();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

impl Tls {
    pub(crate) fn new(authority: Option<Arc<Authority>>) -> Result<Self, rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        Ok(Self {
            terms: Terms { provider, tickets: aws_lc_rs::Ticketer::new()? },
            sources: Mutex::default(),
            given: ArcSwap::default(),
            challenges: ArcSwap::default(),
            cluster: authority.map(Cluster::new),
        })
    }

    /// Shows what is given from now on, in place of what the source gave before.
    pub(crate) fn secure(&self, source: Source, secured: Arc<Secured>) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.insert(source, secured);
        let given = Given::new(&self.terms, sources.values(), &self.given.load());
        self.given.store(Arc::new(given));
    }

    /// Answers authorities so from now on.
    pub(crate) fn challenge(&self, challenges: &Challenges) {
        let shown = |(host, certificate): (&String, _)| match given::challenge(&self.terms, certificate) {
            Ok(config) => Some((host.clone(), config)),
            Err(error) => {
                tracing::error!(host, %error, "a certificate for a challenge can't be used");
                None
            }
        };
        let alpn = challenges.alpn.iter().filter_map(shown).collect();
        self.challenges.store(Arc::new(Challenged { http: challenges.http.clone(), alpn }));
    }

    /// What an authority is answered that asks for a proof by HTTP-01.
    pub(crate) fn proof(&self, token: &str) -> Option<String> {
        self.challenges.load().http.get(token).cloned()
    }

    /// What an authority is shown that proves a host; nobody else offers what it does.
    pub(crate) fn challenged(&self, hello: &ClientHello<'_>) -> Option<Arc<ServerConfig>> {
        let alone = hello.alpn()?.eq([ACME]);
        let host = hello.server_name().filter(|_| alone)?;
        self.challenges.load().alpn.get(host).cloned()
    }

    /// What clients of a host of the table are shown.
    pub(crate) fn host(&self, snapshot: &Snapshot, host: &str) -> Option<Shown> {
        let given = self.given.load();
        if let Some(shown) = given.shown(host) {
            return Some(shown);
        }
        let cluster = self.cluster.as_ref().filter(|_| snapshot.has_host(host))?;
        cluster.shown(&self.terms, For::Host(host.to_owned()), given.roots(host).cloned())
    }

    /// What clients are shown that name no host.
    pub(crate) fn address(&self, address: IpAddr) -> Option<Shown> {
        self.cluster.as_ref()?.shown(&self.terms, For::Address(address.to_canonical()), None)
    }

    /// What instances are shown at a service's virtual address.
    pub(crate) fn service(&self, service: &ServiceKey, address: Ipv4Addr) -> Option<Shown> {
        self.cluster.as_ref()?.shown(&self.terms, For::Service(service.clone(), address), None)
    }

    /// Whether virtual addresses have TLS.
    pub(crate) fn is_cluster(&self) -> bool {
        self.cluster.is_some()
    }

    /// Forgets what was made for what isn't in the table.
    pub(crate) fn keep(&self, snapshot: &Snapshot) {
        if let Some(cluster) = &self.cluster {
            cluster.keep(|host| snapshot.has_host(host), |service| snapshot.service(service).is_some());
        }
    }

    /// Where the certificates of a host's clients have to come from.
    pub(crate) fn roots(&self, host: &str) -> Option<Arc<Roots>> {
        self.given.load().roots(host).cloned()
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}
