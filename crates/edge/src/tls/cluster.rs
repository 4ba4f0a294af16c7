//! Certificates by the cluster's own authority, for hosts that have no other and for virtual addresses: made
//! when they are first asked for, which takes less than a millisecond, and anew at half their life.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, PoisonError},
};

use minato_identity::{Authority, certificate::Issued, verify::caller_verifier};
use minato_model::{ids::ServiceKey, time::Moment};
use rustls::{server::danger::ClientCertVerifier, sign::CertifiedKey};

use super::{Shown, Terms, given::Roots};

/// Addresses that have one at a time: of more, a stranger could ask for each of loopback's.
const ADDRESSES_MAX: usize = 64;

/// Whom a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum For {
    /// A public host.
    Host(String),
    /// An address of this machine, for those who name no host.
    Address(IpAddr),
    /// A service, at its virtual address.
    Service(ServiceKey, Ipv4Addr),
}

/// All that were made.
pub(super) struct Cluster {
    authority: Arc<Authority>,
    callers: Arc<dyn ClientCertVerifier>,
    made: Mutex<BTreeMap<For, Made>>,
}

struct Made {
    shown: Shown,
    /// Half its life is over then.
    renew_at: Moment,
    not_after: Moment,
}

impl For {
    fn names(&self) -> (Vec<String>, Vec<IpAddr>) {
        match self {
            Self::Host(host) => (vec![host.clone()], Vec::new()),
            Self::Address(address) => (Vec::new(), vec![*address]),
            Self::Service(ServiceKey { app, service }, address) => {
                (vec![format!("{service}.{app}.internal")], vec![IpAddr::V4(*address)])
            }
        }
    }
}

impl Cluster {
    pub(super) fn new(authority: Arc<Authority>) -> Self {
        let callers = caller_verifier(authority.trust());
        Self { authority, callers, made: Mutex::default() }
    }

    /// What is shown for it; `roots`: where its clients' certificates have to come from.
    pub(super) fn shown(&self, terms: &Terms, whom: For, roots: Option<Arc<Roots>>) -> Option<Shown> {
        let now = self.authority.now();
        // Held while one is made, so that each is made once.
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let known = made.get(&whom).filter(|made| made.shown.has(roots.as_ref()) && now < made.not_after);
        if let Some(known) = known
            && now < known.renew_at
        {
            return Some(known.shown.clone());
        }
        let former = known.map(|known| known.shown.clone());
        match self.make(terms, &whom, roots, now) {
            Ok(new) => {
                let shown = new.shown.clone();
                if matches!(whom, For::Address(_)) && made.len() >= ADDRESSES_MAX {
                    made.retain(|whom, _| !matches!(whom, For::Address(_)));
                }
                made.insert(whom, new);
                Some(shown)
            }
            Err(error) => {
                tracing::error!(?whom, %error, "the cluster's authority gave no certificate");
                former
            }
        }
    }

    fn make(
        &self,
        terms: &Terms,
        whom: &For,
        roots: Option<Arc<Roots>>,
        now: Moment,
    ) -> Result<Made, Box<dyn std::error::Error>> {
        let (names, addresses) = whom.names();
        let Issued { chain, key, not_after, .. } = self.authority.hosts(&names, &addresses)?;
        let key = Arc::new(CertifiedKey::from_der(chain, key, &terms.provider)?);
        let asked = match whom {
            For::Service(..) => Some(Arc::clone(&self.callers)),
            For::Host(_) | For::Address(_) => roots.as_ref().map(|roots| Arc::clone(&roots.verifier)),
        };
        let shown = Shown { config: terms.config(key, asked)?, roots };
        Ok(Made { shown, renew_at: now.plus(not_after.since(now) / 2), not_after })
    }

    /// Forgets what isn't there any more.
    pub(super) fn keep(&self, hosts: impl Fn(&str) -> bool, services: impl Fn(&ServiceKey) -> bool) {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.retain(|whom, _| match whom {
            For::Host(host) => hosts(host),
            For::Address(_) => true,
            For::Service(service, _) => services(service),
        });
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").finish_non_exhaustive()
    }
}
