//! Certificates and keys as they are made: their form, and nothing of when or why.
//!
//! All are ECDSA over P-256, which every client speaks and which is made in tens of microseconds.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use minato_model::{
    ids::{InstanceId, ServiceKey},
    time::Moment,
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SignatureAlgorithm,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::{inspect::Validity, spiffe::SpiffeId};

/// The longest common name of X.520.
const COMMON_NAME_MAX: usize = 64;

/// A private key with its public one, never shown.
pub struct Key {
    pkcs8: Zeroizing<Vec<u8>>,
    public: Vec<u8>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl Key {
    pub(crate) fn generate() -> Result<Self, Failed> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| Failed::Key)?;
        let document = pair.to_pkcs8v1().map_err(|_| Failed::Key)?;
        Ok(Self {
            pkcs8: Zeroizing::new(document.as_ref().to_vec()),
            public: pair.public_key().as_ref().to_vec(),
        })
    }

    pub(crate) fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The same, to sign with.
    pub(crate) fn signing(&self) -> Result<KeyPair, Failed> {
        signing(&self.pkcs8)
    }
}

/// A key that signs certificates, from its PKCS#8.
pub(crate) fn signing(pkcs8: &[u8]) -> Result<KeyPair, Failed> {
    let der = PrivatePkcs8KeyDer::from(pkcs8);
    KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256).map_err(Failed::Certificate)
}

/// Why a key or a certificate couldn't be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failed {
    #[error("no key could be made")]
    Key,
    #[error("the kernel gave no random bytes")]
    Random,
    #[error("no certificate could be made")]
    Certificate(#[source] rcgen::Error),
    #[error("a root isn't a certificate")]
    Root,
    #[error("there is no valid intermediate, and no root to sign one")]
    NoSigner,
}

/// Whom a certificate of an instance is for.
#[derive(Debug, Clone, Copy)]
pub struct Holder<'a> {
    /// Whose instance it is.
    pub service: &'a ServiceKey,
    /// Its id.
    pub instance: &'a InstanceId,
    /// Where it is reached.
    pub address: Ipv4Addr,
}

/// A certificate, what leads from it to its root, and its key.
pub struct Issued {
    /// The certificate, and the intermediate that signed it.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
    /// Valid from then on.
    pub not_before: Moment,
    /// Valid until then.
    pub not_after: Moment,
    /// Its serial number, in hexadecimal digits.
    pub serial: String,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { serial, not_before, not_after, .. } = self;
        write!(f, "Issued({serial}, {not_before} to {not_after})")
    }
}

impl Issued {
    /// The chain as text, the certificate first.
    #[must_use]
    pub fn chain_pem(&self) -> String {
        self.chain.iter().map(|der| pem("CERTIFICATE", der)).collect()
    }

    /// The key as text, wiped when it is let go.
    #[must_use]
    pub fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(pem("PRIVATE KEY", self.key.secret_der()))
    }

    /// When two thirds of its life are over: whoever holds it is to be replaced then, whatever else goes on.
    #[must_use]
    pub fn replace_at(&self) -> Moment {
        replace_at(&Validity { not_before: self.not_before, not_after: self.not_after })
    }
}

/// Two thirds of the way from beginning to end.
#[must_use]
pub fn replace_at(validity: &Validity) -> Moment {
    validity.not_before.plus(validity.not_after.since(validity.not_before) * 2 / 3)
}

/// In lines of 64, as RFC 7468 has it.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let body = Zeroizing::new(BASE64_STANDARD.encode(der));
    // Its whole length from the beginning: no half of a key is left behind in memory by growing.
    let mut text = String::with_capacity(body.len() + body.len() / 64 + 2 * label.len() + 40);
    text.extend(["-----BEGIN ", label, "-----\n"]);
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.extend([line, "\n"]);
        rest = after;
    }
    text.extend(["-----END ", label, "-----\n"]);
    text
}

/// Whole seconds, as X.509 has them, that hold all of this.
pub(crate) fn rounded(validity: &Validity) -> Validity {
    let (from, to) = (validity.not_before.0, validity.not_after.0);
    Validity {
        not_before: Moment(from.div_euclid(1_000) * 1_000),
        not_after: Moment(to.saturating_add(999).div_euclid(1_000).saturating_mul(1_000)),
    }
}

/// The name of a root.
pub(crate) fn root_name(cluster: &str, number: u64) -> String {
    format!("{cluster} root {number}")
}

/// The name of a node's intermediate.
pub(crate) fn intermediate_name(cluster: &str, node: &str, number: u64) -> String {
    // At most 15 + 1 + 40 + 1 + what is left of 64 for the number.
    format!("{cluster} {node} {number}")
}

/// Who signs: the name and the key.
pub(crate) fn issuer(name: &str, key: KeyPair) -> Issuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Issuer::new(params, key)
}

/// A root, signed by itself.
pub(crate) fn root(
    name: &str,
    validity: &Validity,
    key: &KeyPair,
) -> Result<CertificateDer<'static>, Failed> {
    let params = authority(name, validity, 1)?;
    Ok(params.self_signed(key).map_err(Failed::Certificate)?.into())
}

/// An intermediate, signed by a root.
pub(crate) fn intermediate(
    name: &str,
    validity: &Validity,
    key: &Key,
    root: &Issuer<'_, KeyPair>,
) -> Result<CertificateDer<'static>, Failed> {
    let params = authority(name, validity, 0)?;
    Ok(params.signed_by(key, root).map_err(Failed::Certificate)?.into())
}

/// A certificate for who speaks TLS, as a client and as a server.
pub(crate) fn leaf(
    subject: &Subject,
    validity: &Validity,
    key: &Key,
    issuer: &Issuer<'_, KeyPair>,
) -> Result<(CertificateDer<'static>, String), Failed> {
    let (mut params, serial) = base(&subject.name, validity)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names.clone_from(&subject.names);
    Ok((params.signed_by(key, issuer).map_err(Failed::Certificate)?.into(), serial))
}

/// For whom a leaf is.
pub(crate) struct Subject {
    name: String,
    names: Vec<SanType>,
}

impl Subject {
    pub(crate) fn instance(cluster: &str, who: &Holder<'_>) -> Result<Self, Failed> {
        let Holder { service: ServiceKey { app, service }, instance, address } = who;
        let id = SpiffeId::Instance {
            cluster: cluster.to_owned(),
            service: who.service.clone(),
            instance: (*instance).clone(),
        };
        let names = vec![
            uri(&id)?,
            dns(&format!("{service}.{app}.internal"))?,
            dns(&format!("{instance}.{service}.{app}.internal"))?,
            SanType::IpAddress(IpAddr::V4(*address)),
        ];
        Ok(Self { name: instance.to_string(), names })
    }

    pub(crate) fn edge(id: &SpiffeId, name: &str) -> Result<Self, Failed> {
        Ok(Self { name: name.to_owned(), names: vec![uri(id)?] })
    }

    pub(crate) fn hosts(cluster: &str, names: &[String], addresses: &[IpAddr]) -> Result<Self, Failed> {
        let name = names.first().filter(|name| name.len() <= COMMON_NAME_MAX).map_or(cluster, String::as_str);
        let mut all = names.iter().map(|name| dns(name)).collect::<Result<Vec<_>, _>>()?;
        all.extend(addresses.iter().copied().map(SanType::IpAddress));
        Ok(Self { name: name.to_owned(), names: all })
    }
}

fn uri(id: &SpiffeId) -> Result<SanType, Failed> {
    Ok(SanType::URI(id.to_string().try_into().map_err(Failed::Certificate)?))
}

fn dns(name: &str) -> Result<SanType, Failed> {
    Ok(SanType::DnsName(name.try_into().map_err(Failed::Certificate)?))
}

fn authority(name: &str, validity: &Validity, below: u8) -> Result<CertificateParams, Failed> {
    let (mut params, _) = base(name, validity)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// What all have in common; the validity is in whole seconds.
fn base(name: &str, validity: &Validity) -> Result<(CertificateParams, String), Failed> {
    let mut serial = [0_u8; 16];
    getrandom::fill(&mut serial).map_err(|_| Failed::Random)?;
    // Positive, and of the same length always (RFC 5280, 4.1.2.2).
    serial[0] = (serial[0] & 0x7f) | 0x40;
    let text = serial.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut params = CertificateParams::default();
    params.serial_number = Some(serial.to_vec().into());
    params.distinguished_name = common_name(name);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_1970(validity.not_before);
    params.not_after = epoch + since_1970(validity.not_after);
    params.use_authority_key_identifier_extension = true;
    Ok((params, text))
}

fn common_name(name: &str) -> DistinguishedName {
    let mut common_name = DistinguishedName::new();
    common_name.push(DnType::CommonName, name);
    common_name
}

/// As X.509 can write it: the years 1970 to 9999.
fn since_1970(moment: Moment) -> Duration {
    const LAST_SECOND: u64 = 253_402_300_799;
    Duration::from_secs(u64::try_from(moment.0 / 1_000).unwrap_or(0).min(LAST_SECOND))
}
