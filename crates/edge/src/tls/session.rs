//! What is known of a client by the TLS that was agreed upon with it.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::ServerConnection;

use super::{Shown, given::Roots};

/// One client's.
pub(crate) struct Session {
    /// The host that it asked for (SNI), if it named one.
    pub(crate) host: Option<Box<str>>,
    /// Whether streams of HTTP/2 were agreed upon.
    pub(crate) http2: bool,
    /// Where its certificate had to come from.
    pub(crate) roots: Option<Arc<Roots>>,
    /// The certificate that it showed, as RFC 9440 writes it.
    pub(crate) certificate: Option<Box<str>>,
}

impl Session {
    pub(crate) fn new(connection: &ServerConnection, shown: Shown) -> Self {
        let certificate = connection.peer_certificates().and_then(<[_]>::first);
        Self {
            host: connection.server_name().map(Box::from),
            http2: connection.alpn_protocol() == Some(b"h2"),
            certificate: certificate.map(|der| format!(":{}:", STANDARD.encode(der)).into()),
            roots: shown.roots,
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("host", &self.host).finish_non_exhaustive()
    }
}
