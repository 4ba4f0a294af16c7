//! One order, from the request to a certificate that was checked.

use std::{sync::Arc, time::Duration};

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, Identifier, KeyAuthorization, NewOrder, OrderStatus,
    RetryPolicy,
};
use minato_identity::files::{self, Material, Refused};
use minato_model::{
    routing::Routing,
    time::Moment,
    tls::{Certificate, Challenges, Files, PrivateKey, Secret},
};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};

use crate::Proof;

/// How long the authority may take to look at a host, and again to sign.
const POLLED_FOR: Duration = Duration::from_secs(90);
/// As far as this node's clock may be behind the authority's.
const BEHIND: Duration = Duration::from_secs(3_600);
/// An order is for one host, and proves it once.
const AUTHORIZATIONS_MAX: usize = 4;
/// The longest token that is put in force: RFC 8555 has no bound, authorities use 43.
const TOKEN_MAX: usize = 256;

/// Why an order came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OrderError {
    #[error("the authority says")]
    Authority(#[from] Error),
    #[error("the authority doesn't take a proof by {0} for it")]
    NotOffered(&'static str),
    #[error("the authority couldn't prove it by {proof}: {why}")]
    NotProven { proof: &'static str, why: String },
    #[error("the authority asks for what wasn't ordered")]
    Strange,
    #[error("the authority gave a certificate that can't be used")]
    Unusable(#[from] Refused),
    #[error("no key or request can be made")]
    Key(#[from] rcgen::Error),
}

impl OrderError {
    /// What kind of problem the authority names, without `urn:ietf:params:acme:error:`.
    pub(crate) fn kind(&self) -> Option<&str> {
        let Self::Authority(Error::Api(problem)) = self else { return None };
        problem.r#type.as_deref()?.rsplit(':').next()
    }

    /// Whether it is no fault of the host: the next one would fail as well.
    pub(crate) fn is_of_the_directory(&self) -> bool {
        matches!(self, Self::Authority(error) if !matches!(error, Error::Api(_) | Error::Timeout(_)))
    }
}

/// Puts challenges in force, and takes them away whatever becomes of the order.
struct Answers(Arc<dyn Routing>);

impl Drop for Answers {
    fn drop(&mut self) {
        self.0.challenge(Arc::new(Challenges::default()));
    }
}

/// Orders a certificate for a host.
pub(crate) async fn order(
    account: &Account,
    host: &str,
    proof: Proof,
    routing: Arc<dyn Routing>,
    clock: &(dyn Fn() -> Moment + Send + Sync),
) -> Result<(Files, Material), OrderError> {
    let identifiers = [Identifier::Dns(host.to_owned())];
    let mut order = account.new_order(&NewOrder::new(&identifiers)).await?;
    let answers = Answers(routing);
    let mut authorizations = order.authorizations();
    let mut seen = 0;
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        seen += 1;
        let own = matches!(authorization.identifier().identifier, Identifier::Dns(name) if name == host);
        if seen > AUTHORIZATIONS_MAX || !own {
            return Err(OrderError::Strange);
        }
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        if authorization.status != AuthorizationStatus::Pending {
            return Err(not_proven(proof, "it has given up on it already"));
        }
        let kind = match proof {
            Proof::Http01 => ChallengeType::Http01,
            Proof::TlsAlpn01 => ChallengeType::TlsAlpn01,
        };
        let offered = authorization.challenge(kind);
        let mut challenge = offered.ok_or(OrderError::NotOffered(proof.as_str()))?;
        let shown = challenges(host, proof, &challenge.token, &challenge.key_authorization())?;
        answers.0.challenge(Arc::new(shown));
        challenge.set_ready().await?;
    }
    let policy = RetryPolicy::new().timeout(POLLED_FOR).backoff(1.5);
    match order.poll_ready(&policy).await {
        Ok(OrderStatus::Ready) => {}
        // What it found is told with the order, or with its parts.
        Err(Error::Api(problem)) => return Err(not_proven(proof, &problem.to_string())),
        Err(error) => return Err(error.into()),
        Ok(_) => return Err(refused(&mut order, proof).await),
    }
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new([host.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    order.finalize_csr(params.serialize_request(&key)?.der()).await?;
    let certificate = order.poll_certificate(&policy).await?;
    drop(answers);
    let key = Some(Secret::new(key.serialize_pem()));
    let files = Files { certificate: Some(certificate), key, client_ca: None };
    let material = files::read(&files)?;
    material.covers(&[host.to_owned()])?;
    material.fresh(seen_from(&material, clock()))?;
    Ok((files, material))
}

/// From when a certificate that was just issued is looked at: this clock may be behind the authority's.
fn seen_from(material: &Material, now: Moment) -> Moment {
    let begins = material.presented.certificate.as_ref().map(|leaf| leaf.not_before);
    begins.filter(|begins| begins.since(now) <= BEHIND).map_or(now, |begins| begins.max(now))
}

/// What the authority found when it looked.
async fn refused(order: &mut instant_acme::Order, proof: Proof) -> OrderError {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else { continue };
        let found = state.challenges.iter().find_map(|challenge| challenge.error.as_ref());
        if let Some(problem) = found {
            return not_proven(proof, &problem.to_string());
        }
    }
    not_proven(proof, "it doesn't say why")
}

fn not_proven(proof: Proof, why: &str) -> OrderError {
    // What others say is shown, not for pages.
    let why = why.chars().filter(|c| !c.is_control()).take(500).collect();
    OrderError::NotProven { proof: proof.as_str(), why }
}

/// What the edge has to show for one challenge.
fn challenges(
    host: &str,
    proof: Proof,
    token: &str,
    authorization: &KeyAuthorization,
) -> Result<Challenges, OrderError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if token.is_empty() || token.len() > TOKEN_MAX || !token.bytes().all(plain) {
        return Err(OrderError::Strange);
    }
    let mut challenges = Challenges::default();
    match proof {
        Proof::Http01 => {
            challenges.http.insert(token.to_owned(), authorization.as_str().to_owned());
        }
        Proof::TlsAlpn01 => {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::new([host.to_owned()])?;
            let digest = authorization.digest();
            params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest.as_ref())];
            let certificate = params.self_signed(&key)?;
            let certificate = Certificate {
                hosts: vec![host.to_owned()],
                chain: vec![certificate.der().to_vec()],
                key: PrivateKey::new(key.serialize_der()),
                not_after: Moment(i64::MAX),
            };
            challenges.alpn.insert(host.to_owned(), certificate);
        }
    }
    Ok(challenges)
}
