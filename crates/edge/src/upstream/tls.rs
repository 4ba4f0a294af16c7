//! By what an instance is spoken to over TLS: its own certificate, verified as that very instance's, and the
//! edge's, shown to whoever asks for it.
//!
//! Invariants: an instance's sessions are resumed at that instance only, and only as long as the roots, the
//! edge's certificate and the instance's are those by which they began. Connections that are there outlast all
//! of them. There is no way from here to an instance in plain.

use std::{
    fmt,
    rc::Rc,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use minato_identity::{
    Authority, IssueError, SpiffeId, Trust,
    inspect::validity,
    verify::{WrongIdentity, instance_verifier},
};
use minato_model::time::Moment;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, InvalidMessage,
    client::{ResolvesClientCert, Resumption},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{ServerName, UnixTime},
    sign::{CertifiedKey, SingleCertAndKey},
    time_provider::TimeProvider,
};

use super::{
    connection::Connection,
    session::{BeginError, Session},
    wire::Wire,
};
use crate::target::Target;

/// After it failed, a new certificate for the edge is asked for no sooner.
const AGAIN: Duration = Duration::from_secs(1);

/// What the edge shows to instances, and by whom it knows them.
pub(crate) struct Credentials {
    authority: Arc<Authority>,
    provider: Arc<CryptoProvider>,
    trust: Trust,
    own: ArcSwapOption<Own>,
    /// One thread renews it; when that may be tried next.
    renewing: Mutex<Moment>,
}

/// A certificate of the edge.
struct Own {
    shown: Arc<dyn ResolvesClientCert>,
    /// Half of its life.
    renew_at: Moment,
    not_after: Moment,
}

/// How one instance is spoken to.
pub(crate) struct Terms {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    /// By which they were made.
    bundle: u64,
    own: Arc<Own>,
    /// Until when the certificate is valid that the instance showed; then its sessions have ended too.
    until: AtomicI64,
    /// Whether a session began by them, so that another may have been asked for by what was left of it.
    begun: AtomicBool,
}

/// An instance's terms; none before it was spoken to.
#[derive(Default)]
pub(crate) struct Place {
    terms: Mutex<Option<Arc<Terms>>>,
    /// Why it wasn't trusted last.
    said: Mutex<String>,
}

/// Why there is no connection to an instance.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// It takes none, or not in time.
    Refused,
    /// It ended it while TLS was agreed upon.
    Broke,
    /// It isn't who it should be, or speaks no TLS.
    Distrusted(Distrust),
    /// The edge has no certificate of its own.
    Unnamed,
}

/// What is wrong with who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Distrust {
    /// For everybody.
    pub(crate) kind: &'static str,
    /// With names and times, for those who look after it.
    pub(crate) reason: String,
}

/// What of HTTP is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    Any,
    /// For a change of protocol, which HTTP/2 doesn't know.
    Http1,
}

impl Credentials {
    pub(crate) fn new(authority: Arc<Authority>) -> Self {
        Self {
            trust: authority.trust(),
            authority,
            provider: Arc::new(aws_lc_rs::default_provider()),
            own: ArcSwapOption::empty(),
            renewing: Mutex::new(Moment(0)),
        }
    }

    /// The edge's certificate, renewed if half of its life is over.
    fn own(&self, now: Moment) -> Option<Arc<Own>> {
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
        let half = Duration::from_millis((issued.not_after.0 - issued.not_before.0).unsigned_abs() / 2);
        let key = self.provider.key_provider.load_private_key(issued.key).map_err(RenewError::Key)?;
        let shown = SingleCertAndKey::from(CertifiedKey::new(issued.chain, key));
        let renew_at = issued.not_before.plus(half);
        Ok(Own { shown: Arc::new(shown), renew_at, not_after: issued.not_after })
    }

    /// By what an instance is spoken to now.
    fn terms(&self, target: &Target, now: Moment) -> Result<Arc<Terms>, OpenError> {
        let own = self.own(now).ok_or(OpenError::Unnamed)?;
        let bundle = self.trust.now().serial;
        let mut place = target.terms.terms.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = |terms: &&Arc<Terms>| {
            terms.bundle == bundle && Arc::ptr_eq(&terms.own, &own) && now.0 <= terms.until.load(Relaxed)
        };
        if let Some(terms) = place.as_ref().filter(holds) {
            return Ok(Arc::clone(terms));
        }
        let terms = Arc::new(self.make(target, bundle, own)?);
        *place = Some(Arc::clone(&terms));
        Ok(terms)
    }

    fn make(&self, target: &Target, bundle: u64, own: Arc<Own>) -> Result<Terms, OpenError> {
        let service = &target.endpoint.release.service;
        let expected = SpiffeId::Instance {
            cluster: self.authority.cluster().to_owned(),
            service: service.clone(),
            instance: target.endpoint.instance.clone(),
        };
        let clock = Arc::new(Clock(Arc::clone(&self.authority)));
        let builder = ClientConfig::builder_with_details(Arc::clone(&self.provider), clock);
        let builder = builder.with_safe_default_protocol_versions().map_err(|error| {
            tracing::error!(%error, "TLS to instances can't be set up");
            OpenError::Unnamed
        })?;
        let mut config = builder
            .dangerous()
            .with_custom_certificate_verifier(instance_verifier(self.trust.clone(), expected))
            .with_client_cert_resolver(Arc::clone(&own.shown));
        // Of one instance: what is kept is bounded by what TLS keeps for one name.
        config.resumption = Resumption::in_memory_sessions(1);
        let name = ServerName::try_from(format!("{}.{}.internal", service.service, service.app));
        let name = name.unwrap_or_else(|_| std::net::IpAddr::from(target.endpoint.address).into());
        let (until, begun) = (AtomicI64::new(i64::MAX), AtomicBool::new(false));
        Ok(Terms { config: Arc::new(config), name, bundle, own, until, begun })
    }

    /// Connects to an instance and makes sure that it is that one. What of a session was kept may be of no
    /// use any more, and some servers end the connection then instead of saying so: it is tried once without.
    pub(crate) async fn open(
        &self,
        target: &Target,
        offer: Offer,
        within: Duration,
    ) -> Result<Opened, OpenError> {
        let opened = async {
            let terms = self.terms(target, self.authority.now())?;
            match terms.begin(target, offer, within).await {
                Err(OpenError::Broke | OpenError::Distrusted(_)) if terms.begun.load(Relaxed) => {
                    target.terms.forget(&terms);
                    self.terms(target, self.authority.now())?.begin(target, offer, within).await
                }
                opened => opened,
            }
        };
        tokio::time::timeout(within, opened).await.unwrap_or(Err(OpenError::Refused))
    }
}

/// A connection to an instance that has shown who it is.
pub(crate) struct Opened {
    pub(crate) wire: Wire,
    pub(crate) http2: bool,
}

impl Terms {
    async fn begin(&self, target: &Target, offer: Offer, within: Duration) -> Result<Opened, OpenError> {
        let connection = Connection::open(target, within).await.map_err(|_| OpenError::Refused)?;
        let stream = connection.wire.stream;
        let offered: &[&[u8]] = match offer {
            Offer::Any => &[b"h2", b"http/1.1"],
            Offer::Http1 => &[b"http/1.1"],
        };
        let config = Arc::clone(&self.config);
        let begun = Session::begin(Rc::clone(&stream), config, self.name.clone(), offered).await;
        let session = begun.map_err(|error| match error {
            BeginError::Io(_) => OpenError::Broke,
            BeginError::Tls(error) => OpenError::Distrusted(Distrust::of(&error)),
        })?;
        self.begun.store(true, Relaxed);
        if let Some(shown) = session.newly_shown()
            && let Ok(validity) = validity(&shown)
        {
            self.until.store(validity.not_after.0, Relaxed);
        }
        let http2 = session.is_http2();
        Ok(Opened { wire: Wire::secured(stream, session), http2 })
    }
}

impl Place {
    /// Makes other terms next time.
    fn forget(&self, terms: &Arc<Terms>) {
        let mut place = self.terms.lock().unwrap_or_else(PoisonError::into_inner);
        place.take_if(|held| Arc::ptr_eq(held, terms));
    }

    /// Whether it wasn't told yet, or something else since: it may fail a request after another so.
    pub(crate) fn is_news(&self, reason: &str) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let news = *said != reason;
        if news {
            reason.clone_into(&mut said);
        }
        news
    }
}

impl Distrust {
    /// Whether an error of a connection is the instance's refusal to speak to the edge.
    pub(crate) fn in_io(error: &std::io::Error) -> Option<Self> {
        let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
        matches!(error, rustls::Error::AlertReceived(_)).then(|| Self::of(error))
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the others are told as they are")]
    fn of(error: &rustls::Error) -> Self {
        let (kind, reason) = match error {
            rustls::Error::InvalidCertificate(error) => return Self::of_certificate(error),
            rustls::Error::NoCertificatesPresented => ("it shows no certificate", None),
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)
            | rustls::Error::InappropriateMessage { .. }
            | rustls::Error::InvalidMessage(_) => ("it doesn't speak TLS", None),
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

/// Why the edge has no new certificate.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error("the authority issues none")]
    Issue(#[from] IssueError),
    #[error("its key can't be used")]
    Key(#[source] rustls::Error),
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

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({:?})", self.authority)
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Place")
    }
}
