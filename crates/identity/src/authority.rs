//! The cluster's authority on one node: it holds the roots, signs by the node's intermediate, and rotates
//! both by the clock.
//!
//! Issuing touches memory only. What is on disk is read at the opening and whenever something is due; then
//! it is due for one process at a time, and what another one has made in between is found.

mod load;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use minato_model::{ids::NodeName, time::Moment};
use rcgen::{Issuer, KeyPair};
use rustls_pki_types::{CertificateDer, DnsName, PrivatePkcs8KeyDer};

use crate::{
    bundle::{Bundle, Trust},
    certificate::{self, Failed, Holder, Issued, Key, Subject},
    inspect::Validity,
    lifetimes::Lifetimes,
    rotation::{self, Kept, Schedule},
    spiffe::SpiffeId,
    store::{Store, StoreError},
};

/// The most names of one certificate for hosts.
const NAMES_MAX: usize = 100;

/// The wall clock.
pub type Clock = Arc<dyn Fn() -> Moment + Send + Sync>;

/// The authority of a cluster, on a node.
pub struct Authority {
    store: Store,
    cluster: String,
    node: NodeName,
    lifetimes: Lifetimes,
    schedule: Schedule,
    clock: Clock,
    trust: Trust,
    held: ArcSwap<Held>,
    /// One rotation at a time; what was made and not told to [`Self::rotate`]'s caller yet.
    rotating: Mutex<Rotation>,
    /// It has been said that the clock is behind.
    said_behind: AtomicBool,
}

/// What there is of roots and intermediates, as it was read or made last.
#[derive(Default)]
struct Held {
    roots: Vec<Kept>,
    intermediates: Vec<Kept>,
    signers: BTreeMap<u64, Signer>,
    published: Vec<u64>,
}

/// An intermediate that can sign.
struct Signer {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    validity: Validity,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority({} on {})", self.cluster, self.node)
    }
}

/// Why the authority can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its files can't be read, or aren't what they should be.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was due couldn't be done.
    #[error(transparent)]
    Rotate(#[from] RotateError),
}

/// Why what was due couldn't be done.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// Its files can't be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A key or a certificate couldn't be made.
    #[error("making a certificate of the authority failed")]
    Make(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<Failed> for RotateError {
    fn from(failed: Failed) -> Self {
        Self::Make(Box::new(failed))
    }
}

/// Why a certificate wasn't issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// A host that no certificate can have.
    #[error("`{name}` is no host name that a certificate can have: only exact ones")]
    Host {
        /// What was given, shortened to 80 characters.
        name: String,
    },
    /// For nobody, or for too many.
    #[error("a certificate is for 1 to {NAMES_MAX} names; these are {count}")]
    Count {
        /// How many were given.
        count: usize,
    },
    /// There is no valid intermediate, and none could be made.
    #[error(transparent)]
    Rotate(#[from] RotateError),
    /// A key or a certificate couldn't be made.
    #[error("making a certificate failed")]
    Make(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<Failed> for IssueError {
    fn from(failed: Failed) -> Self {
        Self::Make(Box::new(failed))
    }
}

/// What a rotation has made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rotation {
    /// New roots.
    pub roots: Vec<Made>,
    /// A new intermediate of this node.
    pub intermediate: Option<Made>,
    /// The bundle's new serial number, if it has changed.
    pub bundle: Option<u64>,
}

impl Rotation {
    fn add(&mut self, later: Self) {
        self.roots.extend(later.roots);
        self.intermediate = later.intermediate.or(self.intermediate);
        self.bundle = later.bundle.or(self.bundle);
    }
}

/// A root or an intermediate that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// Its number.
    pub number: u64,
    /// The root that signed it: its own number, if it is one.
    pub root: u64,
    /// Valid from then on.
    pub not_before: Moment,
    /// Valid until then.
    pub not_after: Moment,
}

impl Authority {
    /// The name of the cluster, which is the trust domain of its identities.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// How long what lives.
    #[must_use]
    pub fn lifetimes(&self) -> Lifetimes {
        self.lifetimes
    }

    /// What time it is, as certificates are issued by it.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.moment(&self.held.load())
    }

    /// The roots of now.
    #[must_use]
    pub fn bundle(&self) -> Arc<Bundle> {
        self.trust.now()
    }

    /// The roots of now, whenever they are asked for.
    #[must_use]
    pub fn trust(&self) -> Trust {
        self.trust.clone()
    }

    /// A fresh key. It takes no part in anything yet, so it can be made ahead.
    ///
    /// # Errors
    /// The kernel gives no random bytes.
    pub fn key(&self) -> Result<Key, IssueError> {
        Ok(Key::generate()?)
    }

    /// The identity of an instance.
    ///
    /// # Errors
    /// No valid intermediate can be had.
    pub fn instance(&self, who: &Holder<'_>, greatest_age: Duration, key: Key) -> Result<Issued, IssueError> {
        let subject = Subject::instance(&self.cluster, who)?;
        self.issue(&subject, self.lifetimes.instance(greatest_age), key)
    }

    /// A certificate for exactly these hosts, to be presented at the door.
    ///
    /// # Errors
    /// A name that isn't an exact host, none or too many, or no valid intermediate.
    pub fn hosts(&self, names: &[String], addresses: &[IpAddr]) -> Result<Issued, IssueError> {
        let count = names.len().saturating_add(addresses.len());
        if !(1..=NAMES_MAX).contains(&count) {
            return Err(IssueError::Count { count });
        }
        for name in names {
            if DnsName::try_from(name.as_str()).is_err() || name.ends_with('.') {
                return Err(IssueError::Host { name: name.chars().take(80).collect() });
            }
        }
        let subject = Subject::hosts(&self.cluster, names, addresses)?;
        self.issue(&subject, self.lifetimes.floor(), Key::generate()?)
    }

    /// The identity of this node's edge.
    ///
    /// # Errors
    /// No valid intermediate can be had.
    pub fn edge(&self) -> Result<Issued, IssueError> {
        let id = SpiffeId::Edge { cluster: self.cluster.clone(), node: self.node.clone() };
        let subject = Subject::edge(&id, self.node.as_str())?;
        self.issue(&subject, self.lifetimes.floor(), Key::generate()?)
    }

    /// Does what is due now, and nothing if nothing is. Says what was made since it was called last, at the
    /// opening and in between too.
    ///
    /// # Errors
    /// A file can't be read or written; what was held before is held on to.
    pub fn rotate(&self) -> Result<Rotation, RotateError> {
        let mut untold = self.rotating.lock().unwrap_or_else(PoisonError::into_inner);
        self.catch_up(&mut untold)?;
        Ok(std::mem::take(&mut *untold))
    }

    /// Does what is due now.
    fn catch_up(&self, untold: &mut Rotation) -> Result<(), RotateError> {
        if self.is_done(&self.held.load()) {
            return Ok(());
        }
        let _lock = self.store.lock()?;
        untold.add(self.renew()?);
        Ok(())
    }

    fn issue(&self, subject: &Subject, life: Duration, key: Key) -> Result<Issued, IssueError> {
        let mut held = self.held.load_full();
        if self.signer(&held).is_none() {
            self.catch_up(&mut self.rotating.lock().unwrap_or_else(PoisonError::into_inner))?;
            held = self.held.load_full();
        }
        let (signer, now) = self.signer(&held).ok_or_else(|| RotateError::from(Failed::NoSigner))?;
        let validity = certificate::rounded(&Validity {
            not_before: rotation::back(now, self.lifetimes.back()),
            not_after: now.plus(life),
        });
        let not_after = validity.not_after.min(signer.validity.not_after);
        let validity = Validity { not_after, ..validity };
        let (leaf, serial) = certificate::leaf(subject, &validity, &key, &signer.issuer)?;
        Ok(Issued {
            chain: vec![leaf, signer.certificate.clone()],
            key: PrivatePkcs8KeyDer::from(key.pkcs8().to_vec()).into(),
            not_before: validity.not_before,
            not_after: validity.not_after,
            serial,
        })
    }

    fn signer<'a>(&self, held: &'a Held) -> Option<(&'a Signer, Moment)> {
        let now = self.moment(held);
        let kept = rotation::signer(&held.intermediates, now)?;
        Some((held.signers.get(&kept.number)?, now))
    }

    fn is_done(&self, held: &Held) -> bool {
        let now = self.moment(held);
        rotation::due(&self.schedule, &held.roots, &held.intermediates, now) == rotation::Due::default()
            && rotation::published(&self.schedule, &held.roots, now) == held.published
    }

    /// The moment by which the authority goes, see [`rotation::moment`].
    fn moment(&self, held: &Held) -> Moment {
        let (now, behind) = rotation::moment(&self.schedule, &held.intermediates, (self.clock)());
        let said = self.said_behind.load(Ordering::Relaxed);
        if behind.is_some() != said {
            self.said_behind.store(behind.is_some(), Ordering::Relaxed);
            match behind {
                Some(by) => tracing::warn!(
                    behind_seconds = by.as_secs(),
                    going_by = %now,
                    "the clock is before what the authority has done last; set it right, or, if it is, remove identity/node-* and restart"
                ),
                None => tracing::info!("the clock agrees with what the authority has done"),
            }
        }
        now
    }
}
