//! What the edge was given to show, and whom it asks for a certificate.

use std::{collections::BTreeMap, sync::Arc};

use minato_model::tls::{Certificate, ClientRoots, Secured};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
};

use super::{Shown, Terms};

/// What can't be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    /// The key isn't one.
    #[error("its key is of no known form")]
    Key,
    /// The key isn't the certificate's, or one of both isn't understood.
    #[error(transparent)]
    Certificate(#[from] rustls::Error),
    /// The roots aren't such.
    #[error(transparent)]
    Roots(#[from] rustls::server::VerifierBuilderError),
}

/// All of it, by host.
#[derive(Default)]
pub(crate) struct Given {
    shown: BTreeMap<Box<str>, Shown>,
    roots: BTreeMap<Box<str>, Arc<Roots>>,
    /// What it was made of, by its first host: read once, however often anything else changes.
    keys: BTreeMap<Box<str>, (Certificate, Arc<CertifiedKey>)>,
}

/// Roots of clients' certificates.
pub(crate) struct Roots {
    der: Vec<Vec<u8>>,
    pub(crate) verifier: Arc<dyn ClientCertVerifier>,
}

impl Given {
    /// What the sources give together; of several for one host the first holds.
    pub(super) fn new<'a>(
        terms: &Terms,
        sources: impl Iterator<Item = &'a Arc<Secured>> + Clone,
        before: &Self,
    ) -> Self {
        let mut given = Self::default();
        for asked in sources.clone().flat_map(|secured| &secured.client_roots) {
            match Roots::of(terms, asked, before) {
                Ok(roots) => {
                    for host in &asked.hosts {
                        given.roots.entry(host.as_str().into()).or_insert_with(|| Arc::clone(&roots));
                    }
                }
                Err(error) => tracing::error!(hosts = ?asked.hosts, %error, "client roots can't be used"),
            }
        }
        for certificate in sources.flat_map(|secured| &secured.certificates) {
            if let Err(error) = given.add(terms, certificate, before) {
                tracing::error!(hosts = ?certificate.hosts, %error, "a certificate can't be shown");
            }
        }
        given
    }

    fn add(&mut self, terms: &Terms, certificate: &Certificate, before: &Self) -> Result<(), Unusable> {
        let Some(first) = certificate.hosts.first() else { return Ok(()) };
        let known = before.keys.get(first.as_str()).filter(|(other, _)| other == certificate);
        let key = match known {
            Some((_, key)) => Arc::clone(key),
            None => Arc::new(certified(terms, certificate)?),
        };
        for host in &certificate.hosts {
            if self.shown.contains_key(host.as_str()) {
                continue;
            }
            let roots = self.roots.get(host.as_str()).cloned();
            let asked = roots.as_ref().map(|roots| Arc::clone(&roots.verifier));
            let config = terms.config(Arc::clone(&key), asked)?;
            self.shown.insert(host.as_str().into(), Shown { config, roots });
        }
        self.keys.insert(first.as_str().into(), (certificate.clone(), key));
        Ok(())
    }

    pub(super) fn shown(&self, host: &str) -> Option<Shown> {
        self.shown.get(host).cloned()
    }

    /// Where certificates of a host's clients have to come from.
    pub(super) fn roots(&self, host: &str) -> Option<&Arc<Roots>> {
        self.roots.get(host)
    }
}

impl Roots {
    /// The very same, if a host had these before: who came with a certificate goes on.
    fn of(terms: &Terms, asked: &ClientRoots, before: &Given) -> Result<Arc<Self>, Unusable> {
        let known = asked.hosts.iter().filter_map(|host| before.roots(host));
        if let Some(same) = known.into_iter().find(|roots| roots.der == asked.roots) {
            return Ok(Arc::clone(same));
        }
        let mut store = RootCertStore::empty();
        for root in &asked.roots {
            store.add(CertificateDer::from_slice(root))?;
        }
        let provider = Arc::clone(&terms.provider);
        // Who has none is told so in words.
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider)
            .allow_unauthenticated()
            .build()?;
        Ok(Arc::new(Self { der: asked.roots.clone(), verifier }))
    }
}

/// How an authority is spoken to that proves a host.
pub(super) fn challenge(terms: &Terms, certificate: &Certificate) -> Result<Arc<ServerConfig>, Unusable> {
    // What it says is for who proves the host alone, in an extension that nobody else may pass over: it isn't
    // looked at as others are.
    let key = PrivateKeyDer::try_from(certificate.key.expose()).map_err(|_| Unusable::Key)?;
    let key = terms.provider.key_provider.load_private_key(key.clone_key())?;
    Ok(terms.challenge(Arc::new(CertifiedKey::new(chain(certificate), key)))?)
}

fn certified(terms: &Terms, certificate: &Certificate) -> Result<CertifiedKey, Unusable> {
    let key = PrivateKeyDer::try_from(certificate.key.expose()).map_err(|_| Unusable::Key)?;
    Ok(CertifiedKey::from_der(chain(certificate), key.clone_key(), &terms.provider)?)
}

fn chain(certificate: &Certificate) -> Vec<CertificateDer<'static>> {
    certificate.chain.iter().map(|der| CertificateDer::from(der.clone())).collect()
}
