//! Connections to instances over TLS, each verified as that very instance's.
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

use minato_identity::{
    client::{Client, Distrust, Terms},
    inspect::validity,
};

use rustls::{AlertDescription, Error};

use super::{
    connection::Connection,
    session::{BeginError, Session},
    wire::Wire,
};
use crate::target::Target;

/// An instance's terms; none before it was spoken to.
#[derive(Default)]
pub(crate) struct Place {
    agreed: Mutex<Option<Arc<Agreed>>>,
    /// Why it wasn't trusted last.
    said: Mutex<String>,
}

/// How one instance is spoken to.
struct Agreed {
    terms: Terms,
    /// Until when the certificate is valid that the instance showed; then its sessions have ended too.
    until: AtomicI64,
    /// Whether a session began by them, so that another may have been asked for by what was left of it.
    begun: AtomicBool,
}

/// Why there is no connection to an instance.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// It takes none, or not in time.
    Refused,
    /// It ended it while TLS was agreed upon.
    Broke,
    /// It speaks HTTP/2 alone, which wasn't offered.
    NoHttp1,
    /// It isn't who it should be, or speaks no TLS.
    Distrusted(Distrust),
    /// The edge has no certificate of its own.
    Unnamed,
}

/// What of HTTP is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    Any,
    /// For a change of protocol, which HTTP/2 doesn't know.
    Http1,
}

/// A connection to an instance that has shown who it is.
pub(crate) struct Opened {
    pub(crate) wire: Wire,
    pub(crate) http2: bool,
    pub(crate) resumed: bool,
}

/// Connects to an instance and makes sure that it is that one. What of a session was kept may be of no use
/// any more, and some servers end the connection then instead of saying so: it is tried once without.
pub(crate) async fn open(
    client: &Client,
    target: &Target,
    offer: Offer,
    within: Duration,
) -> Result<Opened, OpenError> {
    let opened = async {
        let agreed = target.terms.agreed(client, target)?;
        match agreed.begin(target, offer, within).await {
            Err(OpenError::Broke | OpenError::Distrusted(_)) if agreed.begun.load(Relaxed) => {
                target.terms.forget(&agreed);
                target.terms.agreed(client, target)?.begin(target, offer, within).await
            }
            opened => opened,
        }
    };
    tokio::time::timeout(within, opened).await.unwrap_or(Err(OpenError::Refused))
}

impl Place {
    /// By what the instance is spoken to now.
    fn agreed(&self, client: &Client, target: &Target) -> Result<Arc<Agreed>, OpenError> {
        let mut place = self.agreed.lock().unwrap_or_else(PoisonError::into_inner);
        let before = place.as_ref().filter(|before| client.now().0 <= before.until.load(Relaxed));
        let (service, instance) = (&target.endpoint.release.service, &target.endpoint.instance);
        let terms = client.terms(service, instance, before.map(|before| &before.terms));
        let terms = terms.map_err(|error| {
            tracing::error!(%instance, error = &error as &dyn std::error::Error, "an instance can't be spoken to");
            OpenError::Unnamed
        })?;
        if let Some(before) = before.filter(|before| Arc::ptr_eq(&before.terms.config, &terms.config)) {
            return Ok(Arc::clone(before));
        }
        let (until, begun) = (AtomicI64::new(i64::MAX), AtomicBool::new(false));
        let agreed = Arc::new(Agreed { terms, until, begun });
        *place = Some(Arc::clone(&agreed));
        Ok(agreed)
    }

    /// Makes other terms next time.
    fn forget(&self, agreed: &Arc<Agreed>) {
        let mut place = self.agreed.lock().unwrap_or_else(PoisonError::into_inner);
        place.take_if(|held| Arc::ptr_eq(held, agreed));
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

impl Agreed {
    async fn begin(&self, target: &Target, offer: Offer, within: Duration) -> Result<Opened, OpenError> {
        let connection = Connection::open(target, within).await.map_err(|_| OpenError::Refused)?;
        let stream = connection.wire.stream;
        let offered: &[&[u8]] = match offer {
            Offer::Any => &[b"h2", b"http/1.1"],
            Offer::Http1 => &[b"http/1.1"],
        };
        let (config, name) = (Arc::clone(&self.terms.config), self.terms.name.clone());
        let begun = Session::begin(Rc::clone(&stream), config, name, offered).await;
        let session = begun.map_err(|error| match error {
            BeginError::Io(_) => OpenError::Broke,
            BeginError::Tls(Error::AlertReceived(AlertDescription::NoApplicationProtocol))
                if offer == Offer::Http1 =>
            {
                OpenError::NoHttp1
            }
            BeginError::Tls(error) => OpenError::Distrusted(Distrust::of(&error)),
        })?;
        self.begun.store(true, Relaxed);
        let shown = session.newly_shown();
        if let Some(Ok(validity)) = shown.as_ref().map(validity) {
            self.until.store(validity.not_after.0, Relaxed);
        }
        let (http2, resumed) = (session.is_http2(), shown.is_none());
        Ok(Opened { wire: Wire::secured(stream, session), http2, resumed })
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Place")
    }
}
