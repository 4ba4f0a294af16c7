//! Short-lived tokens, signed with a key that lives as long as the process: nothing to store, nothing
//! that a flood of requests could fill. After a restart clients ask for a new one by themselves.

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use tokio::time::Instant;

use super::Right;

/// How long a token counts. Clients ask for another before that, as a push goes on.
pub(super) const LIFETIME: Duration = Duration::from_secs(300);

/// What is signed: the right (1 byte) and until when (8 bytes: seconds since the process began).
const CLAIMS: usize = 9;

/// Makes tokens and reads them again.
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

    pub(super) fn make(&self, right: Right) -> String {
        let until = self.began.elapsed().saturating_add(LIFETIME).as_secs();
        let mut bytes = vec![u8::from(right == Right::Push)];
        bytes.extend_from_slice(&until.to_be_bytes());
        let signature = hmac::sign(&self.key, &bytes);
        bytes.extend_from_slice(signature.as_ref());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    pub(super) fn right_of(&self, ticket: &str) -> Right {
        self.read(ticket).unwrap_or(Right::Nothing)
    }

    fn read(&self, ticket: &str) -> Option<Right> {
        let bytes = URL_SAFE_NO_PAD.decode(ticket).ok()?;
        let (claims, signature) = bytes.split_at_checked(CLAIMS)?;
        hmac::verify(&self.key, claims, signature).ok()?;
        let (right, until) = claims.split_first()?;
        let until = u64::from_be_bytes(until.try_into().ok()?);
        if self.began.elapsed().as_secs() > until {
            return None;
        }
        Some(if *right == 1 { Right::Push } else { Right::Pull })
    }
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}
