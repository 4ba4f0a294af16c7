//! What the API shows beyond loopback: a certificate by the cluster's authority for its names and addresses,
//! made anew at half its life.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use minato_identity::Authority;
use minato_model::time::Moment;
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

/// The certificate of now.
pub(super) struct Certificate {
    authority: Arc<Authority>,
    provider: Arc<CryptoProvider>,
    names: Vec<String>,
    addresses: Vec<IpAddr>,
    shown: Mutex<Option<(Arc<CertifiedKey>, Moment)>>,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate").field("names", &self.names).finish_non_exhaustive()
    }
}

/// How clients of an API at this address are spoken to.
///
/// # Errors
/// The authority issues nothing for these names.
pub(super) fn config(
    authority: Arc<Authority>,
    api: SocketAddr,
    names: &[String],
) -> anyhow::Result<Arc<ServerConfig>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    // An API at all addresses is known by its names alone.
    let addresses = Some(api.ip()).filter(|ip| !ip.is_unspecified()).into_iter().collect();
    let certificate = Certificate {
        authority,
        provider: Arc::clone(&provider),
        names: names.to_vec(),
        addresses,
        shown: Mutex::default(),
    };
    // Said now rather than to each client.
    certificate.make()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificate));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

impl Certificate {
    fn make(&self) -> anyhow::Result<(Arc<CertifiedKey>, Moment)> {
        let now = self.authority.now();
        let issued = self.authority.hosts(&self.names, &self.addresses)?;
        let renew_at = now.plus(issued.not_after.since(now) / 2);
        let key = CertifiedKey::from_der(issued.chain, issued.key, &self.provider)?;
        Ok((Arc::new(key), renew_at))
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let due = shown.as_ref().is_none_or(|(_, renew_at)| *renew_at <= self.authority.now());
        if due {
            match self.make() {
                Ok(made) => *shown = Some(made),
                Err(error) => tracing::error!(%error, "the api got no new certificate"),
            }
        }
        shown.as_ref().map(|(key, _)| Arc::clone(key))
    }
}
