//! How a node speaks to its instances over TLS: it shows the edge's certificate, and believes only that very
//! instance.

use std::{
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use minato_model::{
    ids::{InstanceId, ServiceKey},
    time::Moment,
};
use rustls::{
    AlertDescription, CertificateError, ClientConfig,
    client::{ResolvesClientCert, Resumption},
    crypto::{CryptoProvider, aws_lc_rs},
    sign::{CertifiedKey, SingleCertAndKey},
    time_provider::TimeProvider,
};
use rustls_pki_types::{ServerName, UnixTime};

use crate::{
    authority::{Authority, IssueError},
    spiffe::SpiffeId,
    verify::{WrongIdentity, instance_verifier},
};

/// After it failed, a new certificate is asked for no sooner.
const AGAIN: Duration = Duration::from_secs(1);

/// What a node shows to instances, and by whom it knows them.
pub struct Client {
    authority: Arc<Authority>,
    provider: Arc<CryptoProvider>,
    own: ArcSwapOption<Own>,
    /// One thread renews it; when that may be tried next.
    renewing: Mutex<Moment>,
}

/// A certificate of the node's edge.
pub struct Own {
    shown: Arc<dyn ResolvesClientCert>,
    /// Half of its life.
    renew_at: Moment,
    not_after: Moment,
}

/// By what one instance is spoken to. Sessions with it are resumed at it only.
#[derive(Clone)]
pub struct Terms {
    /// For the library.
    pub config: Arc<ClientConfig>,
    /// The name that it is called by.
    pub name: ServerName<'static>,
    /// By which roots and which certificate they were made.
    bundle: u64,
    own: Arc<Own>,
}

/// What is wrong with who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distrust {
    /// For everybody.
    pub kind: &'static str,
    /// With names and times, for those who look after it.
    pub reason: String,
}

/// Why there are no terms.
#[derive(Debug, thiserror::Error)]
pub enum TermsError {
    /// The node has no certificate of its own, as has been logged.
    #[error("the node has no certificate to show to instances")]
    Unnamed,
    /// The library can't be set up.
    #[error("TLS to instances can't be set up")]
    Library(#[source] rustls::Error),
}

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error("the authority issues none")]
    Issue(#[from] IssueError),
    #[error("its key can't be used")]
    Key(#[source] rustls::Error),
}

impl Client {
    /// Of the authority's node.
    #[must_use]
    pub fn new(authority: Arc<Authority>) -> Self {
        Self {
            authority,
            provider: Arc::new(aws_lc_rs::default_provider()),
            own: ArcSwapOption::empty(),
            renewing: Mutex::new(Moment(i64::MIN)),
        }
    }

    /// The clock that certificates are verified by.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.authority.now()
    }

    /// The node's certificate, renewed if half of its life is over. That takes less than a millisecond.
    fn own(&self) -> Option<Arc<Own>> {
        let now = self.now();
        let held = self.own.load_full();
        if held.as_ref().is_some_and(|own| now < own.renew_at) {
            return held;
        }
        let mut next = self.renewing.lock().unwrap_or_else(PoisonError::into_inner);
        let held = self.own.load_full();
        if held.as_ref().is_some_and(|own| now < own.renew_at) {
            return held;
        }
        if now >= *next {
            match self.renew() {
                Ok(own) => {
                    let own = Arc::new(own);
                    self.own.store(Some(Arc::clone(&own)));
                    return Some(own);
                }
                Err(error) => {
                    *next = now.plus(AGAIN);
                    tracing::error!(error = &error as &dyn std::error::Error, "the edge gets no certificate");
                }
            }
        }
        held.filter(|own| now < own.not_after)
    }

    fn renew(&self) -> Result<Own, RenewError> {
        let issued = self.authority.edge()?;
        let half = issued.not_after.since(issued.not_before) / 2;
        let key = self.provider.key_provider.load_private_key(issued.key).map_err(RenewError::Key)?;
        let shown = SingleCertAndKey::from(CertifiedKey::new(issued.chain, key));
        let renew_at = issued.not_before.plus(half);
        Ok(Own { shown: Arc::new(shown), renew_at, not_after: issued.not_after })
    }

    /// By what an instance is spoken to now: as before, if nothing has changed since.
    ///
    /// # Errors
    /// See [`TermsError`].
    pub fn terms(
        &self,
        service: &ServiceKey,
        instance: &InstanceId,
        before: Option<&Terms>,
    ) -> Result<Terms, TermsError> {
        let own = self.own().ok_or(TermsError::Unnamed)?;
        let trust = self.authority.trust();
        let bundle = trust.now().serial;
        if let Some(before) = before.filter(|old| old.bundle == bundle && Arc::ptr_eq(&old.own, &own)) {
            return Ok(before.clone());
        }
        let expected = SpiffeId::Instance {
            cluster: self.authority.cluster().to_owned(),
            service: service.clone(),
            instance: instance.clone(),
        };
        let clock = Arc::new(Clock(Arc::clone(&self.authority)));
        let mut config = ClientConfig::builder_with_details(Arc::clone(&self.provider), clock)
            .with_safe_default_protocol_versions()
            .map_err(TermsError::Library)?
            .dangerous()
            .with_custom_certificate_verifier(instance_verifier(trust, expected))
            .with_client_cert_resolver(Arc::clone(&own.shown));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Of one instance: what is kept is bounded by what the library keeps for one name.
        config.resumption = Resumption::in_memory_sessions(1);
        let name = format!("{}.{}.internal", service.service, service.app);
        // Names of services and apps are labels of host names.
        let name =
            ServerName::try_from(name).unwrap_or_else(|_| std::net::IpAddr::from([127, 0, 0, 1]).into());
        Ok(Terms { config: Arc::new(config), name, bundle, own })
    }
}

impl Distrust {
    /// Whether an error of a connection is the instance's refusal to speak to the edge.
    #[must_use]
    pub fn in_io(error: &io::Error) -> Option<Self> {
        Self::in_alert(error.get_ref()?.downcast_ref()?)
    }

    /// The same of an error of the library.
    #[must_use]
    pub fn in_alert(error: &rustls::Error) -> Option<Self> {
        matches!(error, rustls::Error::AlertReceived(_)).then(|| Self::of(error))
    }

    /// What is wrong where a connection of the library failed so while it was agreed upon.
    #[must_use]
    pub fn in_handshake(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().map(Self::of)
    }

    /// What is wrong where a handshake failed so.
    #[must_use]
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others are told as they are")]
    pub fn of(error: &rustls::Error) -> Self {
        let (kind, reason) = match error {
            rustls::Error::InvalidCertificate(error) => return Self::of_certificate(error),
            rustls::Error::NoCertificatesPresented => ("it shows no certificate", None),
            rustls::Error::InappropriateMessage { .. } | rustls::Error::InvalidMessage(_) => {
                ("it doesn't speak TLS", None)
            }
            rustls::Error::AlertReceived(alert) => (refusal(*alert), Some(format!("{alert:?}"))),
            rustls::Error::PeerIncompatible(why) => {
                ("it speaks no TLS that the edge does", Some(format!("{why:?}")))
            }
            error => ("TLS with it failed", Some(error.to_string())),
        };
        let reason = reason.map_or_else(|| kind.to_owned(), |reason| format!("{kind}: {reason}"));
        Self { kind, reason }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the others are told as they are")]
    fn of_certificate(error: &CertificateError) -> Self {
        let at = |time: &UnixTime| moment(time.as_secs());
        let (kind, reason) = match error {
            CertificateError::ExpiredContext { not_after, .. } => {
                ("its certificate has expired", format!("its certificate has expired at {}", at(not_after)))
            }
            CertificateError::NotValidYetContext { not_before, .. } => (
                "its certificate is not valid yet",
                format!("its certificate is not valid before {}", at(not_before)),
            ),
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                let kind = "its certificate is not by this cluster's authority";
                (kind, kind.to_owned())
            }
            CertificateError::Other(error) if error.0.downcast_ref::<WrongIdentity>().is_some() => {
                ("its certificate is not its own", format!("its certificate is not its own: {}", error.0))
            }
            error => ("its certificate is not accepted", format!("its certificate is not accepted: {error}")),
        };
        Self { kind, reason }
    }
}

/// What an instance says by an alert.
#[expect(clippy::wildcard_enum_match_arm, reason = "the others say the same to who looks after it")]
fn refusal(alert: AlertDescription) -> &'static str {
    use AlertDescription as A;
    match alert {
        A::BadCertificate
        | A::UnsupportedCertificate
        | A::CertificateRevoked
        | A::CertificateExpired
        | A::CertificateUnknown
        | A::CertificateRequired
        | A::NoCertificate
        | A::UnknownCA
        | A::AccessDenied => "it doesn't accept the edge's certificate",
        A::NoApplicationProtocol => "it speaks neither HTTP/2 nor HTTP/1.1",
        _ => "it refuses to speak TLS with the edge",
    }
}

/// Certificates are verified by the clock that they are made by.
#[derive(Debug)]
struct Clock(Arc<Authority>);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let now = u64::try_from(self.0.now().0).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_millis(now)))
    }
}

fn moment(seconds: u64) -> Moment {
    Moment(i64::try_from(seconds).unwrap_or(i64::MAX / 1_000).saturating_mul(1_000))
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({:?})", self.authority)
    }
}

impl fmt::Debug for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Terms({:?})", self.name)
    }
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Own(until {})", self.not_after)
    }
}
