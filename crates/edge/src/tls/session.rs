//! What is known of a client by the TLS that was agreed upon with it.

use std::{net::IpAddr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use minato_identity::{spiffe::SpiffeId, verify::spiffe_of};
use rustls::{HandshakeKind, ServerConnection, pki_types::CertificateDer};

use super::{Shown, given::Roots};
use crate::{inbound::Entry, shared::Shared};

/// One client's.
pub(crate) struct Session {
    /// The host that it asked for (SNI), if it named one.
    pub(crate) host: Option<Box<str>>,
    /// Whether streams of HTTP/2 were agreed upon.
    pub(crate) http2: bool,
    /// Whether an earlier session went on.
    pub(crate) resumed: bool,
    /// Where its certificate had to come from.
    pub(crate) roots: Option<Arc<Roots>>,
    /// The certificate that it showed, as RFC 9440 writes it.
    pub(crate) certificate: Option<Box<str>>,
    /// The instance that it has proved to be by its certificate, or why it hasn't; `None`: it showed none.
    pub(crate) caller: Option<Result<Box<str>, String>>,
}

impl Session {
    pub(crate) fn new(
        shared: &Shared,
        entry: Entry,
        peer: IpAddr,
        connection: &ServerConnection,
        shown: Shown,
    ) -> Self {
        let certificate = connection.peer_certificates().and_then(<[_]>::first);
        let (certificate, caller) = match (entry, certificate) {
            (Entry::Virtual { .. }, Some(certificate)) => (None, Some(caller(shared, peer, certificate))),
            (Entry::Public { .. }, Some(der)) => (Some(format!(":{}:", STANDARD.encode(der)).into()), None),
            (_, _) => (None, None),
        };
        Self {
            host: connection.server_name().map(Box::from),
            http2: connection.alpn_protocol() == Some(b"h2"),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            roots: shown.roots,
            certificate,
            caller,
        }
    }
}

/// The instance that a certificate of the cluster names, if it calls from its own address.
fn caller(shared: &Shared, peer: IpAddr, certificate: &CertificateDer<'_>) -> Result<Box<str>, String> {
    let id = spiffe_of(certificate).ok_or_else(|| "the certificate names no instance".to_owned())?;
    let here = match peer.to_canonical() {
        IpAddr::V4(address) => shared.instance(address),
        IpAddr::V6(_) => None,
    };
    let same = match (&id, &here) {
        (SpiffeId::Instance { service, instance, .. }, Some((there, its))) => {
            instance == there && service == its
        }
        (SpiffeId::Instance { .. } | SpiffeId::Edge { .. }, _) => false,
    };
    if same {
        return Ok(id.to_string().into());
    }
    let who = here.map_or_else(|| "of no instance".to_owned(), |(id, service)| format!("of {service}: {id}"));
    tracing::warn!(%peer, certificate = %id, "the address is {who}, which isn't whom the certificate names");
    Err(format!("the certificate is that of {id}, and the address {peer} is {who}"))
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("host", &self.host).finish_non_exhaustive()
    }
}
