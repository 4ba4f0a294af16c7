//! TLS at the door: as a service declares it, as files bring it, and as the edge is given it.
//!
//! Invariant: a private key is in [`Secret`] or [`PrivateKey`] only, which nothing prints and whose memory
//! is wiped; everything else here may be shown to anybody.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::time::Moment;

/// `[services.X.tls]`: what a service declares. The paths are as they are written: they mean files of
/// whoever applies the manifest, and are never opened by a server.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Tls {
    /// Where the certificate is, with what leads to its root; only together with `key`.
    pub certificate: Option<String>,
    /// Where its private key is.
    pub key: Option<String>,
    /// Requests without TLS are sent to HTTPS.
    pub redirect: bool,
    /// For how long browsers are to come by HTTPS only.
    pub hsts: Option<Duration>,
    /// Where the roots are that every client's certificate has to come from.
    pub client_ca: Option<String>,
}

impl Tls {
    /// The files that it names, each with its key.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all = [("certificate", &self.certificate), ("key", &self.key), ("client_ca", &self.client_ca)];
        all.into_iter().filter_map(|(key, path)| Some((key, path.as_deref()?)))
    }
}

/// What the edge does for one service at its doors to the outside. Calls between services know none of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Door {
    /// A request without TLS is answered 308 to HTTPS at the edge's own port for it.
    pub redirect: bool,
    /// `Strict-Transport-Security: max-age=…` on every answer over TLS.
    pub hsts: Option<Duration>,
    /// Only over TLS, and only to clients with a certificate by [`Secured::client_roots`] of the host that
    /// was asked for: anything else is refused, without TLS too unless it is redirected.
    pub client_certificate: bool,
    /// Which files the node has to have read: [`Presented::id`].
    pub files: Option<String>,
    /// Whether a certificate is among them.
    pub certificate: bool,
}

/// What is known of a service's files, for everybody to see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presented {
    /// Which files they are: the first 32 hexadecimal digits of a hash over all certificates in them.
    pub id: String,
    /// The certificate, if there is one.
    pub certificate: Option<Leaf>,
    /// The client roots, if there are such: a hash over all of them, and how many.
    pub client_roots: Option<(String, usize)>,
}

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// SHA-256 over it, in hexadecimal digits.
    pub sha256: String,
    /// Its names: DNS, `*.` included, and addresses.
    pub names: Vec<String>,
    /// Not valid before.
    pub not_before: Moment,
    /// Not valid after.
    pub not_after: Moment,
}

/// The texts of a service's files: as clients send them, and as the cluster state keeps them, in an item of
/// its own that is never answered.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Files {
    /// PEM: the certificate, then each that signed the one before.
    pub certificate: Option<String>,
    /// PEM: its private key.
    pub key: Option<Secret>,
    /// PEM: the client roots.
    pub client_ca: Option<String>,
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Keeps a text from being shown.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text, for whoever needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A private key in DER (PKCS#8, PKCS#1 or SEC1), never shown.
#[derive(Clone, PartialEq)]
pub struct PrivateKey(Zeroizing<Vec<u8>>);

impl PrivateKey {
    /// Keeps a key from being shown.
    #[must_use]
    pub fn new(der: Vec<u8>) -> Self {
        Self(Zeroizing::new(der))
    }

    /// The key, for whoever signs by it.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey")
    }
}

/// Who says which certificate a host has. Of several for one host the first one holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The service's own files.
    Files,
    /// A public authority, asked by ACME.
    Acme,
    /// The cluster's own authority: hosts that have none of the others.
    Cluster,
}

/// How a host stands with a public authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuance {
    /// What was issued, if anything was.
    pub leaf: Option<Leaf>,
    /// Why nothing came the last time, if nothing did.
    pub failure: Option<String>,
    /// It isn't asked again before.
    pub next: Option<Moment>,
}

/// What the edge presents, and whom it asks for a certificate: all of one source, swapped whole.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Secured {
    /// At most one for each host.
    pub certificates: Vec<Certificate>,
    /// At most one for each host.
    pub client_roots: Vec<ClientRoots>,
}

/// A certificate that the edge presents, with its key.
#[derive(Debug, Clone, PartialEq)]
pub struct Certificate {
    /// The hosts, lower case, for which it is presented; its names cover them.
    pub hosts: Vec<String>,
    /// The certificate, then each that signed the one before, in DER.
    pub chain: Vec<Vec<u8>>,
    /// Its key.
    pub key: PrivateKey,
    /// Not valid after. It is presented beyond that too, if there is no other: what is refused is the
    /// client's to say.
    pub not_after: Moment,
}

/// The roots that the certificates of a host's clients have to come from.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientRoots {
    /// The hosts, lower case.
    pub hosts: Vec<String>,
    /// The roots, in DER.
    pub roots: Vec<Vec<u8>>,
}

/// What an authority looks for at the edge while it proves that a host is this cluster's; all of it,
/// swapped whole.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Challenges {
    /// HTTP-01 (RFC 8555, 8.3): what is answered, as `application/octet-stream`, without TLS, at
    /// `/.well-known/acme-challenge/<token>` of any host before anything is routed; a token that isn't here
    /// is routed as any path.
    pub http: BTreeMap<String, String>,
    /// TLS-ALPN-01 (RFC 8737): what is presented for a host to who offers `acme-tls/1` alone.
    pub alpn: BTreeMap<String, Certificate>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_never_shown() {
        let secret = Secret::new("-----BEGIN PRIVATE KEY-----".to_owned());
        let files = Files { key: Some(secret), ..Files::default() };
        let certificate = Certificate {
            hosts: vec!["shop.example".to_owned()],
            chain: Vec::new(),
            key: PrivateKey::new(b"BEGIN".to_vec()),
            not_after: Moment(0),
        };
        let shown = format!("{files:?} {certificate:#?}");
        assert!(!shown.contains("BEGIN") && !shown.contains("66, 69"), "{shown}");
        let text = serde_json::to_string(&files).unwrap();
        assert_eq!(serde_json::from_str::<Files>(&text).unwrap(), files, "but they can be sent");
    }
}
