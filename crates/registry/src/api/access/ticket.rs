//! Short-lived tickets, signed with a key that lives as long as the process: nothing to store, nothing
//! that a flood of requests could fill. After a restart clients ask for a new one by themselves.

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use tokio::time::Instant;

use minato_identity::token::Who;

/// How long a ticket counts. Clients ask for another before that, as a push goes on.
pub(super) const LIFETIME: Duration = Duration::from_secs(300);

/// Before the holder's name: its kind (1 byte) and until when (8 bytes: seconds since the process began).
const FIXED: usize = 9;
/// Of an HMAC with SHA-256.
const SIGNATURE: usize = 32;

/// Whose a ticket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Holder {
    /// Nobody's in particular.
    Anonymous {
        /// Whether such might push when it was made.
        push: bool,
    },
    /// Of who showed this token.
    Token(Who),
}

impl Holder {
    fn kind(&self) -> u8 {
        match self {
            Self::Anonymous { push: false } => 0,
            Self::Anonymous { push: true } => 1,
            Self::Token(Who::Own) => 2,
            Self::Token(Who::Token(_)) => 3,
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Token(Who::Token(id)) => id.as_str(),
            Self::Anonymous { .. } | Self::Token(Who::Own) => "",
        }
    }

    fn read(kind: u8, name: &[u8]) -> Option<Self> {
        match (kind, name) {
            (0, []) => Some(Self::Anonymous { push: false }),
            (1, []) => Some(Self::Anonymous { push: true }),
            (2, []) => Some(Self::Token(Who::Own)),
            (3, name) => {
                let id = std::str::from_utf8(name).ok()?.parse().ok()?;
                Some(Self::Token(Who::Token(id)))
            }
            _ => None,
        }
    }
}

/// Makes tickets and reads them again.
pub(super) struct Tickets {
    key: hmac::Key,
    began: Instant,
}

impl Tickets {
    #[expect(clippy::expect_used, reason = "a system without random numbers can't guard anything")]
    pub(super) fn new() -> Self {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).expect("the system gives random numbers");
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &secret), began: Instant::now() }
    }

    pub(super) fn make(&self, holder: &Holder) -> String {
        let until = self.began.elapsed().saturating_add(LIFETIME).as_secs();
        let mut bytes = vec![holder.kind()];
        bytes.extend_from_slice(&until.to_be_bytes());
        bytes.extend_from_slice(holder.name().as_bytes());
        let signature = hmac::sign(&self.key, &bytes);
        bytes.extend_from_slice(signature.as_ref());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Whose a ticket is, if it counts.
    pub(super) fn holder(&self, ticket: &str) -> Option<Holder> {
        let bytes = URL_SAFE_NO_PAD.decode(ticket).ok()?;
        let (claims, signature) = bytes.split_at_checked(bytes.len().checked_sub(SIGNATURE)?)?;
        hmac::verify(&self.key, claims, signature).ok()?;
        let (fixed, name) = claims.split_at_checked(FIXED)?;
        let (kind, until) = fixed.split_first()?;
        let until = u64::from_be_bytes(until.try_into().ok()?);
        if self.began.elapsed().as_secs() > until {
            return None;
        }
        Holder::read(*kind, name)
    }
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}
