//! Whether who speaks is who it says: chain, validity, use, and the one SPIFFE id.
//!
//! Chains are verified by webpki. A certificate without exactly one SPIFFE id of this cluster is refused,
//! whoever signed it: those that the cluster's authority makes for hosts prove nobody.

use std::{fmt, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::{bundle::Trust, spiffe::SpiffeId};

/// Another identity than the one that was expected, or none.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub enum WrongIdentity {
    /// A valid certificate of somebody else.
    #[error("this is {found}, and {expected} was expected")]
    Another {
        /// Who it is.
        found: SpiffeId,
        /// Who it should be.
        expected: SpiffeId,
    },
    /// A certificate that names nobody of a cluster, or several.
    #[error("the certificate has no identity of an instance or a node")]
    Nobody,
}

/// As it is displayed: of what it doesn't know itself, rustls shows this.
impl fmt::Debug for WrongIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The identity in a certificate: its one URI. Nothing is verified here.
#[must_use]
pub fn spiffe_of(certificate: &CertificateDer<'_>) -> Option<SpiffeId> {
    let parsed = EndEntityCert::try_from(certificate).ok()?;
    let mut uris = parsed.valid_uri_names();
    let first = uris.next()?;
    if uris.next().is_some() { None } else { first.parse().ok() }
}

/// For who calls an instance: it must be that very one, with a certificate of the cluster for servers.
/// Under which name it was called doesn't matter.
#[must_use]
pub fn instance_verifier(trust: impl Into<Trust>, expected: SpiffeId) -> Arc<dyn ServerCertVerifier> {
    Arc::new(ThatVery { trust: trust.into(), expected, algorithms: algorithms() })
}

/// For who is called: a certificate is asked for and not required, and one that is shown must be of the
/// cluster, for clients, and name somebody.
#[must_use]
pub fn caller_verifier(trust: impl Into<Trust>) -> Arc<dyn ClientCertVerifier> {
    Arc::new(Anybody { trust: trust.into(), algorithms: algorithms() })
}

/// Who it is, if the certificate is of the cluster and good for this use at this time.
///
/// # Errors
/// What is wrong with it, as rustls has it.
pub fn identify(
    trust: &Trust,
    certificate: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    time: UnixTime,
    usage: KeyUsage,
) -> Result<SpiffeId, Error> {
    let bundle = trust.now();
    let parsed = EndEntityCert::try_from(certificate).map_err(refusal)?;
    let all = algorithms().all;
    parsed
        .verify_for_usage(all, bundle.anchors(), intermediates, time, usage, None, None)
        .map_err(refusal)?;
    spiffe_of(certificate).ok_or_else(|| wrong(WrongIdentity::Nobody))
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms
}

fn wrong(identity: WrongIdentity) -> Error {
    CertificateError::Other(OtherError(Arc::new(identity))).into()
}

fn refusal(error: webpki::Error) -> Error {
    use webpki::Error as E;
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others are told as they are")]
    let kind = match error {
        E::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after },
        E::CertNotValidYet { time, not_before } => CertificateError::NotValidYetContext { time, not_before },
        E::UnknownIssuer => CertificateError::UnknownIssuer,
        E::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        E::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        E::BadDer | E::BadDerTime | E::TrailingData(_) => CertificateError::BadEncoding,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    };
    kind.into()
}

struct ThatVery {
    trust: Trust,
    expected: SpiffeId,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for ThatVery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ThatVery({})", self.expected)
    }
}

impl ServerCertVerifier for ThatVery {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = identify(&self.trust, end_entity, intermediates, now, KeyUsage::server_auth())?;
        if found != self.expected {
            return Err(wrong(WrongIdentity::Another { found, expected: self.expected.clone() }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

struct Anybody {
    trust: Trust,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for Anybody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Anybody")
    }
}

impl ClientCertVerifier for Anybody {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// None: they change with each rotation, and a client has one certificate for them all.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        identify(&self.trust, end_entity, intermediates, now, KeyUsage::client_auth())?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
