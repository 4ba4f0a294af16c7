//! The tokens in memory: a check takes no lock and waits for nothing.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use minato_model::{ids::AppName, time::Moment};
use subtle::{Choice, ConstantTimeEq as _};

use super::{Hash, Record, Scope, Token, TokenId, parse};
use crate::authority::Clock;

/// What is compared where there is nothing to compare with.
const NOTHING: Hash = Hash([0; 32]);
/// The longest text that is looked at, in bytes: a data directory's own token may be of somebody's choice.
const GIVEN_MAX: usize = 512;

/// Every token of the cluster, and the data directory's own.
pub struct Tokens {
    /// Of the data directory's own token, which allows everything; `None`: there is none.
    own: Option<Hash>,
    clock: Clock,
    known: ArcSwap<BTreeMap<TokenId, Known>>,
    /// Held while `known` is replaced.
    changing: Mutex<()>,
}

#[derive(Debug, Clone)]
struct Known {
    record: Record,
    scopes: Arc<[Scope]>,
    /// Of the cluster state, that wrote the record.
    revision: u64,
}

/// Whose a request is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Of whoever has the data directory's own token.
    Own,
    /// Of whoever has this one.
    Token(TokenId),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.pad("server"),
            Self::Token(id) => id.fmt(f),
        }
    }
}

/// Somebody with a token that counts now.
#[derive(Debug, Clone)]
pub struct Bearer {
    who: Who,
    scopes: Arc<[Scope]>,
}

/// Why a token doesn't count. Which one is told only to whoever has its secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no such token.
    #[error("the token is wrong")]
    Unknown,
    /// It counts no longer.
    #[error("the token {id} expired at {at}")]
    Expired {
        /// Which.
        id: TokenId,
        /// When.
        at: Moment,
    },
    /// It was revoked.
    #[error("the token {id} was revoked at {at}")]
    Revoked {
        /// Which.
        id: TokenId,
        /// When.
        at: Moment,
    },
}

impl Refused {
    /// The token that it was, if it was one.
    #[must_use]
    pub fn id(&self) -> Option<&TokenId> {
        match self {
            Self::Unknown => None,
            Self::Expired { id, .. } | Self::Revoked { id, .. } => Some(id),
        }
    }
}

impl Bearer {
    /// Who it is.
    #[must_use]
    pub fn who(&self) -> &Who {
        &self.who
    }

    /// Everything.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        self.any(|scope| *scope == Scope::Admin)
    }

    /// To read everything but tokens.
    #[must_use]
    pub fn may_read(&self) -> bool {
        self.any(|scope| matches!(scope, Scope::Read | Scope::Admin))
    }

    /// To plan, apply and delete an app.
    #[must_use]
    pub fn may_deploy(&self, app: &AppName) -> bool {
        self.any(|scope| match scope {
            Scope::Deploy(named) => named == app,
            Scope::Admin => true,
            Scope::Read | Scope::Push(_) => false,
        })
    }

    /// To deploy anything at all.
    #[must_use]
    pub fn may_deploy_some(&self) -> bool {
        self.any(|scope| matches!(scope, Scope::Deploy(_) | Scope::Admin))
    }

    /// To push to a repository.
    #[must_use]
    pub fn may_push(&self, repository: &str) -> bool {
        self.any(|scope| match scope {
            Scope::Push(repositories) => repositories.have(repository),
            Scope::Admin => true,
            Scope::Read | Scope::Deploy(_) => false,
        })
    }

    /// To pull from a repository.
    #[must_use]
    pub fn may_pull(&self, repository: &str) -> bool {
        self.may_read() || self.may_push(repository)
    }

    fn any(&self, allows: impl Fn(&Scope) -> bool) -> bool {
        self.scopes.iter().any(allows)
    }
}

impl Tokens {
    /// With the data directory's own token alone; an empty one lets nobody in.
    #[must_use]
    pub fn new(own: &str, clock: Clock) -> Self {
        let own = Some(own).filter(|own| !own.is_empty()).map(|own| Hash::of(own.as_bytes()));
        Self { own, clock, known: ArcSwap::default(), changing: Mutex::default() }
    }

    /// Who shows this, if it counts.
    ///
    /// # Errors
    /// It counts no longer, or never did.
    pub fn check(&self, given: &[u8]) -> Result<Bearer, Refused> {
        if given.is_empty() || given.len() > GIVEN_MAX {
            return Err(Refused::Unknown);
        }
        if bool::from(equal(&Hash::of(given), self.own.as_ref())) {
            return Ok(own());
        }
        let (id, secret) = parse(given).ok_or(Refused::Unknown)?;
        let known = self.known.load();
        // Unknown ids take the same way, so that how long it takes tells nothing.
        let known = known.get(&id);
        let right = equal(&Hash::of(secret), known.map(|known| &known.record.secret_sha256));
        match known.filter(|_| bool::from(right)) {
            Some(known) => self.counts(known),
            None => Err(Refused::Unknown),
        }
    }

    /// The same for somebody whose token was checked before.
    ///
    /// # Errors
    /// It counts no longer.
    pub fn again(&self, who: &Who) -> Result<Bearer, Refused> {
        match who {
            Who::Own if self.own.is_some() => Ok(own()),
            Who::Own => Err(Refused::Unknown),
            Who::Token(id) => {
                self.known.load().get(id).map_or(Err(Refused::Unknown), |known| self.counts(known))
            }
        }
    }

    fn counts(&self, known: &Known) -> Result<Bearer, Refused> {
        let token = &known.record.token;
        if let Some(at) = token.revoked_at {
            return Err(Refused::Revoked { id: token.id.clone(), at });
        }
        if let Some(at) = token.expires_at.filter(|at| *at <= (self.clock)()) {
            return Err(Refused::Expired { id: token.id.clone(), at });
        }
        Ok(Bearer { who: Who::Token(token.id.clone()), scopes: known.scopes.clone() })
    }

    /// Every token, by its id.
    #[must_use]
    pub fn list(&self) -> Vec<Token> {
        self.known.load().values().map(|known| known.record.token.clone()).collect()
    }

    /// Takes a token as a revision of the cluster state has it; what is older than what is known is left.
    pub fn put(&self, record: Record, revision: u64) {
        self.change(|known| {
            let newest = known.get(&record.token.id).is_none_or(|known| known.revision <= revision);
            if newest {
                known.insert(record.token.id.clone(), Known::new(record, revision));
            }
        });
    }

    /// Forgets a token that the cluster state hasn't any longer.
    pub fn remove(&self, id: &TokenId, revision: u64) {
        self.change(|known| {
            if known.get(id).is_some_and(|known| known.revision <= revision) {
                known.remove(id);
            }
        });
    }

    /// Takes all tokens as the cluster state has them at a revision; each with the revision that wrote it.
    pub fn replace(&self, records: Vec<(Record, u64)>, revision: u64) {
        self.change(|known| {
            known.retain(|_, known| known.revision > revision);
            for (record, wrote) in records {
                known.entry(record.token.id.clone()).or_insert_with(|| Known::new(record, wrote));
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<TokenId, Known>)) {
        // What a panicking thread leaves behind is whole: the map is replaced as a whole.
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = BTreeMap::clone(&self.known.load());
        change(&mut known);
        self.known.store(Arc::new(known));
    }
}

impl Known {
    fn new(record: Record, revision: u64) -> Self {
        let scopes = record.token.scopes.clone().into();
        Self { record, scopes, revision }
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("known", &self.known.load().len()).finish_non_exhaustive()
    }
}

fn own() -> Bearer {
    Bearer { who: Who::Own, scopes: Arc::from([Scope::Admin]) }
}

/// Whether a hash is the one that is kept, in the same time whether one is kept or not.
fn equal(given: &Hash, kept: Option<&Hash>) -> Choice {
    given.0.ct_eq(&kept.unwrap_or(&NOTHING).0) & Choice::from(u8::from(kept.is_some()))
}
