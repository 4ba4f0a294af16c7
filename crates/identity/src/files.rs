//! Certificates from files: what a service presents at the door, read from PEM and checked before anything
//! depends on it.
//!
//! No error says anything of a private key but that it is wrong, and how.

mod pem;
#[cfg(test)]
mod tests;

use std::{fmt::Write as _, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use minato_model::{
    time::Moment,
    tls::{Certificate, Files, Leaf, Presented, PrivateKey},
};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::inspect;

/// The largest file that is taken.
pub const FILE_MAX: usize = 64 << 10;
/// The most certificates of a chain: more than any authority has in a row.
const CHAIN_MAX: usize = 10;
/// The most roots for clients.
const ROOTS_MAX: usize = 100;
/// The shortest RSA key that clients still take.
const RSA_BITS: usize = 2048;

/// A file that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// By which key of `[services.X.tls]` it is named.
    pub key: &'static str,
    /// What is wrong with it.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// What a service's files hold, each fitting the other.
#[derive(Debug)]
pub struct Material {
    /// The certificate, then each that signed the one before; none: only client roots are given.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: Option<PrivateKeyDer<'static>>,
    /// The roots that clients' certificates have to come from.
    pub client_roots: Vec<CertificateDer<'static>>,
    /// What may be shown of all that.
    pub presented: Presented,
}

/// What of a file is to be sent for this key of `[services.X.tls]`: certificates, or the private key, and
/// nothing else that may be in it.
///
/// # Errors
/// There is no such thing in it, or it is too large.
pub fn portion(key: &'static str, bytes: &[u8]) -> Result<String, Refused> {
    let what = if key == "key" { "private key" } else { "certificate" };
    if bytes.len() > FILE_MAX {
        return Err(too_large(key));
    }
    let text = str::from_utf8(bytes).map_err(|_| {
        let form = if key == "key" { "pkey" } else { "x509" };
        refused(key, "it isn't PEM, which is text")
            .hint(format!("if it is DER: openssl {form} -inform der -in FILE -out FILE.pem"))
    })?;
    let wanted = |section: &pem::Section<'_>| {
        if key == "key" { section.is_key() } else { section.label == "CERTIFICATE" }
    };
    let found: String = pem::sections(text).filter(wanted).map(|section| section.text).collect();
    if found.is_empty() {
        let marker = if key == "key" { "PRIVATE KEY" } else { "CERTIFICATE" };
        let hint = format!("PEM has it between `-----BEGIN {marker}-----` and its end");
        return Err(refused(key, format!("there is no {what} in it")).hint(hint));
    }
    Ok(found)
}

/// Reads a service's files.
///
/// # Errors
/// What doesn't fit, and which file it is.
pub fn read(files: &Files) -> Result<Material, Refused> {
    let chain = match &files.certificate {
        Some(text) => certificates("certificate", text, CHAIN_MAX)?,
        None => Vec::new(),
    };
    let client_roots = match &files.client_ca {
        Some(text) => certificates("client_ca", text, ROOTS_MAX)?,
        None => Vec::new(),
    };
    let key = match (&files.key, chain.first()) {
        (Some(key), Some(leaf)) => Some(private_key(key.expose(), leaf)?),
        (Some(_), None) => return Err(refused("key", "there is no certificate for it")),
        (None, Some(_)) => return Err(refused("certificate", "there is no private key for it")),
        (None, None) => None,
    };
    in_order(&chain)?;
    for root in &client_roots {
        anchor_from_trusted_cert(root).map_err(|_| refused("client_ca", "a certificate can't be read"))?;
    }
    let presented = presented(&chain, &client_roots)?;
    Ok(Material { chain, key, client_roots, presented })
}

impl Material {
    /// The certificate as an edge takes it, for hosts that are yet to be named.
    #[must_use]
    pub fn certificate(&self) -> Option<Certificate> {
        let (key, leaf) = (self.key.as_ref()?, self.presented.certificate.as_ref()?);
        Some(Certificate {
            hosts: Vec::new(),
            chain: self.chain.iter().map(|certificate| certificate.to_vec()).collect(),
            key: PrivateKey::new(key.secret_der().to_vec()),
            not_after: leaf.not_after,
        })
    }

    /// Whether the certificate is for all these hosts.
    ///
    /// # Errors
    /// The first host that it isn't for.
    pub fn covers(&self, hosts: &[String]) -> Result<(), Refused> {
        let Some(leaf) = self.chain.first() else { return Ok(()) };
        let parsed = EndEntityCert::try_from(leaf).map_err(|_| unreadable("certificate", 1))?;
        for host in hosts {
            let name = ServerName::try_from(host.as_str());
            if !name.is_ok_and(|name| parsed.verify_is_valid_for_subject_name(&name).is_ok()) {
                let names = self.presented.certificate.as_ref().map(|leaf| leaf.names.join(", "));
                let names = names.filter(|names| !names.is_empty()).unwrap_or_else(|| "nobody".to_owned());
                let message = format!("the certificate isn't for the host `{host}`: it is for {names}");
                let hint = "only subject alternative names count; get one that has every host of the service";
                return Err(refused("certificate", message).hint(hint));
            }
        }
        Ok(())
    }

    /// Whether it may be put in force now: valid in time, and each certificate signed by the next.
    ///
    /// # Errors
    /// What clients would refuse.
    pub fn fresh(&self, now: Moment) -> Result<(), Refused> {
        for (key, all) in [("certificate", &self.chain), ("client_ca", &self.client_roots)] {
            for (number, certificate) in (1..).zip(all) {
                in_time(key, number, certificate, now)?;
            }
        }
        let [leaf, above @ .., last] = self.chain.as_slice() else { return Ok(()) };
        let doesnt_hold = |error: webpki::Error| {
            let message = format!("the certificate doesn't come from the last one of the file: {error:?}");
            refused("certificate", message)
                .hint("put in the certificates that its authority gave along with it")
        };
        let anchor = anchor_from_trusted_cert(last).map_err(doesnt_hold)?;
        let parsed = EndEntityCert::try_from(leaf).map_err(doesnt_hold)?;
        let seconds = u64::try_from(now.0 / 1_000).unwrap_or(0);
        let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let usage = KeyUsage::server_auth();
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        parsed
            .verify_for_usage(algorithms, &[anchor], above, time, usage, None, None)
            .map(|_| ())
            .map_err(doesnt_hold)
    }
}

fn certificates(key: &'static str, text: &str, most: usize) -> Result<Vec<CertificateDer<'static>>, Refused> {
    if text.len() > FILE_MAX {
        return Err(too_large(key));
    }
    // What isn't secret is shown to anybody who may look: no key may slip in.
    if text.contains("PRIVATE KEY-----") {
        return Err(refused(key, "there is a private key in it"));
    }
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let certificates = certificates.map_err(|_| refused(key, "it isn't PEM that can be read"))?;
    if certificates.is_empty() {
        return Err(refused(key, "there is no certificate in it"));
    }
    if certificates.len() > most {
        let message = format!("there are {} certificates in it; {most} is the limit", certificates.len());
        return Err(refused(key, message));
    }
    for (number, certificate) in (1..).zip(&certificates) {
        inspect::validity(certificate).map_err(|_| unreadable(key, number))?;
        if let Some(bits @ ..RSA_BITS) =
            inspect::rsa_bits(certificate).map_err(|_| unreadable(key, number))?
        {
            let message = format!("certificate {number} has an RSA key of {bits} bits: no client takes it");
            let hint = format!("make a key of {RSA_BITS} bits or more, or one of ECDSA P-256");
            return Err(refused(key, message).hint(hint));
        }
    }
    Ok(certificates)
}

fn private_key(text: &str, leaf: &CertificateDer<'static>) -> Result<PrivateKeyDer<'static>, Refused> {
    if text.len() > FILE_MAX {
        return Err(too_large("key"));
    }
    let mut keys = pem::sections(text).filter(pem::Section::is_key);
    let Some(first) = keys.next() else { return Err(refused("key", "there is no private key in it")) };
    if keys.next().is_some() {
        return Err(refused("key", "there are several private keys in it")
            .hint("leave only the one that belongs to the certificate"));
    }
    if first.is_encrypted() {
        return Err(refused(
            "key",
            "the private key is encrypted, and nobody is there to be asked for its words",
        )
        .hint("write it without: openssl pkey -in FILE -out FILE.plain"));
    }
    let unusable = || refused("key", "the private key can't be read, or is of a kind that isn't spoken");
    let key = PrivateKeyDer::from_pem_slice(first.text.as_bytes()).map_err(|_| unusable())?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let signing = provider.key_provider.load_private_key(key.clone_key()).map_err(|_| {
        unusable().hint("RSA of 2048 bits or more, ECDSA over P-256, P-384 or P-521, and Ed25519 are spoken")
    })?;
    let pair = CertifiedKey::new(vec![leaf.clone()], signing);
    pair.keys_match().map_err(|_| {
        refused("key", "the private key doesn't belong to the certificate").hint(
            "the certificate comes first in its file; compare `openssl x509 -noout -pubkey -in CERTIFICATE` \
             with `openssl pkey -pubout -in KEY`",
        )
    })?;
    Ok(key)
}

/// Each certificate names the next as the one that signed it. A chain in another order is refused rather
/// than sorted: whoever made the file sees what was meant.
fn in_order(chain: &[CertificateDer<'_>]) -> Result<(), Refused> {
    for (number, pair) in (1..).zip(chain.windows(2)) {
        let [one, next] = pair else { continue };
        let follows = inspect::is_issued_by(one, next).map_err(|_| unreadable("certificate", number))?;
        if !follows {
            let message = format!(
                "the chain is out of order: certificate {} of the file didn't sign certificate {number}",
                number + 1
            );
            let hint = "the service's certificate comes first, then each one that signed the one before";
            return Err(refused("certificate", message).hint(hint));
        }
    }
    Ok(())
}

fn in_time(
    key: &'static str,
    number: usize,
    certificate: &CertificateDer<'_>,
    now: Moment,
) -> Result<(), Refused> {
    let validity = inspect::validity(certificate).map_err(|_| unreadable(key, number))?;
    if now > validity.not_after {
        let message = format!("certificate {number} of the file has expired at {}", validity.not_after);
        return Err(refused(key, message).hint("get a new one"));
    }
    if now < validity.not_before {
        let message = format!("certificate {number} of the file is not valid before {}", validity.not_before);
        return Err(refused(key, message).hint(format!("it is {now} by the server's clock")));
    }
    Ok(())
}

fn presented(
    chain: &[CertificateDer<'_>],
    client_roots: &[CertificateDer<'_>],
) -> Result<Presented, Refused> {
    let certificate = match chain.first() {
        Some(leaf) => Some(self::leaf(leaf).map_err(|_| unreadable("certificate", 1))?),
        None => None,
    };
    let mut id = hash(&[chain, client_roots]);
    id.truncate(32);
    let roots = (!client_roots.is_empty()).then(|| (hash(&[client_roots]), client_roots.len()));
    Ok(Presented { id, certificate, client_roots: roots })
}

/// What a certificate says that it is worth to show.
///
/// # Errors
/// It is no certificate.
pub fn leaf(certificate: &CertificateDer<'_>) -> Result<Leaf, inspect::Unreadable> {
    let validity = inspect::validity(certificate)?;
    let names = inspect::names(certificate)?;
    let addresses = names.addresses.iter().map(ToString::to_string);
    Ok(Leaf {
        sha256: hex(digest(&SHA256, certificate).as_ref()),
        names: names.dns.into_iter().chain(addresses).collect(),
        not_before: validity.not_before,
        not_after: validity.not_after,
    })
}

/// SHA-256 over anything, in hexadecimal digits.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

/// Over lists of certificates, so that no two of them come to the same bytes.
fn hash(lists: &[&[CertificateDer<'_>]]) -> String {
    let mut bytes = Vec::new();
    for list in lists {
        bytes.extend_from_slice(&u64::try_from(list.len()).unwrap_or(u64::MAX).to_be_bytes());
        for certificate in *list {
            bytes.extend_from_slice(digest(&SHA256, certificate).as_ref());
        }
    }
    hex(digest(&SHA256, &bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

fn refused(key: &'static str, message: impl Into<String>) -> Refused {
    Refused { key, message: message.into(), hint: None }
}

fn unreadable(key: &'static str, number: usize) -> Refused {
    refused(key, format!("certificate {number} of the file is no X.509 certificate"))
}

fn too_large(key: &'static str) -> Refused {
    refused(key, format!("it is larger than {} KiB", FILE_MAX >> 10))
        .hint("a chain of certificates has some KiB: is it the right file?")
}

impl Refused {
    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
