//! The roots by which certificates of the cluster are verified, and where to find those of now.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use webpki::anchor_from_trusted_cert;

use crate::certificate::pem;

/// The roots of the cluster: what signs, signed and will sign next.
pub struct Bundle {
    /// Rises with each change.
    pub serial: u64,
    /// All of them, as a file `ca.crt` has them.
    pub pem: Arc<str>,
    /// The oldest first.
    pub roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bundle({}, {} roots)", self.serial, self.roots.len())
    }
}

/// A root that is no certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("root {index} of the bundle is no X.509 certificate")]
pub struct InvalidRoot {
    /// Which one, from 0.
    pub index: usize,
}

impl Bundle {
    /// These roots.
    ///
    /// # Errors
    /// One of them is no certificate.
    pub fn new(serial: u64, roots: Vec<CertificateDer<'static>>) -> Result<Self, InvalidRoot> {
        let anchor = |(index, root)| {
            anchor_from_trusted_cert(root).map(|anchor| anchor.to_owned()).map_err(|_| InvalidRoot { index })
        };
        let anchors = roots.iter().enumerate().map(anchor).collect::<Result<_, _>>()?;
        let pem: String = roots.iter().map(|root| pem("CERTIFICATE", root)).collect();
        Ok(Self { serial, pem: pem.into(), roots, anchors })
    }

    /// As they are used to verify by.
    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }
}

/// Whose roots are trusted: those of one bundle, or always those of now.
#[derive(Debug, Clone)]
pub struct Trust(Arc<ArcSwap<Bundle>>);

impl Trust {
    /// The roots of this moment.
    #[must_use]
    pub fn now(&self) -> Arc<Bundle> {
        self.0.load_full()
    }

    pub(crate) fn change(&self, bundle: Bundle) {
        self.0.store(Arc::new(bundle));
    }
}

impl From<Arc<Bundle>> for Trust {
    fn from(bundle: Arc<Bundle>) -> Self {
        Self(Arc::new(ArcSwap::new(bundle)))
    }
}
