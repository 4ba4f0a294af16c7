//! `[tls] acme`: certificates by a public authority.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use minato_acme::Proof;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde::Deserialize;

use super::ConfigError;

/// Where systems keep the roots that everybody trusts.
const SYSTEM: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
/// More than any bundle of roots has.
const ROOTS_MAX: u64 = 4 << 20;

/// Whom to ask, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Acme {
    /// The authority's directory.
    pub(crate) directory: String,
    /// Whom it may write to.
    pub(crate) contact: Vec<String>,
    /// For which hosts; `None`: all that can be public.
    pub(crate) hosts: Option<Vec<String>>,
    /// How they are proven; `None`: one way, and after a failure the other.
    pub(crate) proof: Option<Proof>,
    /// The roots by which the directory is known.
    pub(crate) roots: Vec<CertificateDer<'static>>,
}

/// The table as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    directory: String,
    #[serde(default)]
    contact: Vec<String>,
    #[serde(default)]
    terms_agreed: bool,
    hosts: Option<Vec<String>>,
    proof: Option<String>,
    ca: Option<PathBuf>,
}

impl Table {
    /// Checks it, and reads the roots.
    pub(super) fn read(self) -> Result<Acme, ConfigError> {
        let wrong = |key, why: String| Err(ConfigError::Value { key, why });
        let uri = self.directory.parse::<http::Uri>();
        if !uri.is_ok_and(|uri| uri.scheme_str() == Some("https") && uri.host().is_some()) {
            let why =
                format!("is `{}`; write the https:// address of the authority's directory", self.directory);
            return wrong("tls.acme.directory", why);
        }
        if !self.terms_agreed {
            let why = "is missing; read the authority's terms, and write `terms_agreed = true`";
            return wrong("tls.acme.terms_agreed", why.to_owned());
        }
        if let Some(other) = self.contact.iter().find(|contact| !contact.starts_with("mailto:")) {
            return wrong("tls.acme.contact", format!("holds `{other}`; write it as mailto:name@host"));
        }
        let plain =
            |host: &String| !host.is_empty() && host.len() <= 253 && !host.contains(['*', '/', ':', ' ']);
        if let Some(other) = self.hosts.iter().flatten().find(|host| !plain(host)) {
            return wrong(
                "tls.acme.hosts",
                format!("holds `{other}`, which is no host; wildcards need a proof by DNS"),
            );
        }
        let proof = match self.proof.as_deref() {
            None => None,
            Some("http-01") => Some(Proof::Http01),
            Some("tls-alpn-01") => Some(Proof::TlsAlpn01),
            Some(other) => {
                let why = format!("is `{other}`; it takes \"http-01\" or \"tls-alpn-01\"");
                return wrong("tls.acme.proof", why);
            }
        };
        let roots = roots(self.ca.as_deref())?;
        let hosts = self.hosts.map(|hosts| hosts.into_iter().map(|host| host.to_lowercase()).collect());
        Ok(Acme { directory: self.directory, contact: self.contact, hosts, proof, roots })
    }
}

/// The roots of a file, or the system's.
fn roots(file: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let path = match file {
        Some(path) => path,
        None => SYSTEM.map(Path::new).into_iter().find(|path| path.is_file()).ok_or_else(|| {
            let why = "is missing, and this system has no roots where others have them; install \
                       ca-certificates, or name a file";
            ConfigError::Value { key: "tls.acme.ca", why: why.to_owned() }
        })?,
    };
    let wrong = |why: String| ConfigError::Value { key: "tls.acme.ca", why };
    let unreadable = |error| wrong(format!("can't be read: {}: {error}", path.display()));
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(ROOTS_MAX).read_to_end(&mut text).map_err(unreadable)?;
    // A system's bundle may have what isn't understood among the others.
    let roots: Vec<_> = CertificateDer::pem_slice_iter(&text).filter_map(Result::ok).collect();
    if roots.is_empty() { Err(wrong(format!("has no certificate: {}", path.display()))) } else { Ok(roots) }
}
