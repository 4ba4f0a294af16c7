//! What every part of control works with.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
};

use minato_model::{
    code::{Code, Problem},
    event::{Event, Journal},
    ids::{ReleaseKey, ReleaseNumber, ServiceKey},
    images::Images,
    keys,
    node::Nodes,
    release::Release,
    time::Moment,
};
use minato_state::{Committed, Guard, State, StateError, Write};
use serde::{Serialize, de::DeserializeOwned};
use tokio_util::sync::CancellationToken;

use crate::{Deps, Issuances, Roots, access::Access, api::Refusals};

/// Releases that are kept in memory. They never change; past this many, all are read anew.
const RELEASES_CACHED: usize = 10_000;

/// What every part of control works with.
pub(crate) struct Core {
    pub(crate) state: Arc<dyn State>,
    pub(crate) nodes: Arc<dyn Nodes>,
    pub(crate) images: Arc<dyn Images>,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) extra_metrics: Arc<dyn Fn() -> String + Send + Sync>,
    pub(crate) access: Access,
    pub(crate) refusals: Refusals,
    pub(crate) http: Option<SocketAddr>,
    pub(crate) https: Option<SocketAddr>,
    pub(crate) issuance: Option<Issuances>,
    pub(crate) roots: Roots,
    pub(crate) ready: AtomicBool,
    /// Ends what would go on for ever: followed logs and events.
    pub(crate) closing: CancellationToken,
    clock: Arc<dyn Fn() -> Moment + Send + Sync>,
    releases: Mutex<BTreeMap<ReleaseKey, Release>>,
}

/// The cluster state could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// The engine says no.
    #[error(transparent)]
    State(#[from] StateError),
    /// A value isn't what its key says.
    #[error("the value of {key} can't be read")]
    Value {
        /// Where it is.
        key: String,
        /// Why.
        source: serde_json::Error,
    },
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        tracing::error!(error = &fault as &dyn std::error::Error, "the cluster state failed");
        match &fault {
            Fault::State(StateError::Full) => Self::new(Code::DiskFull, fault.to_string())
                .with_hint("make room in the data directory and try again"),
            Fault::State(_) | Fault::Value { .. } => Self::new(Code::Internal, fault.to_string()),
        }
    }
}

/// What is written and on which conditions.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) guards: Vec<Guard>,
    pub(crate) writes: Vec<Write>,
}

impl Batch {
    /// Depends on the key being as it was read; 0: absent.
    pub(crate) fn guard(&mut self, key: String, modified: u64) {
        self.guards.push(Guard::ModifiedAt(key, modified));
    }

    /// Sets the key.
    pub(crate) fn put(&mut self, key: String, value: &impl Serialize) -> Result<(), Fault> {
        let value = serde_json::to_vec(value).map_err(|source| Fault::Value { key: key.clone(), source })?;
        self.writes.push(Write::Put { key, value });
        Ok(())
    }

    /// Sets the key if it is as it was read.
    pub(crate) fn replace(
        &mut self,
        key: String,
        modified: u64,
        value: &impl Serialize,
    ) -> Result<(), Fault> {
        self.guard(key.clone(), modified);
        self.put(key, value)
    }

    /// Removes the key if it is as it was read.
    pub(crate) fn remove(&mut self, key: String, modified: u64) {
        self.guard(key.clone(), modified);
        self.writes.push(Write::Delete { key });
    }
}

/// Reads a value of the cluster state.
pub(crate) fn decode<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(value).map_err(|source| Fault::Value { key: key.to_owned(), source })
}

impl Core {
    pub(crate) fn new(deps: Deps) -> Self {
        Self {
            state: deps.state,
            nodes: deps.nodes,
            images: deps.images,
            journal: deps.journal,
            extra_metrics: deps.extra_metrics,
            access: Access::new(deps.tokens, deps.allowed_hosts),
            refusals: Refusals::default(),
            http: deps.http,
            https: deps.https,
            issuance: deps.issuance,
            roots: deps.roots,
            ready: AtomicBool::new(false),
            closing: CancellationToken::new(),
            clock: deps.clock,
            releases: Mutex::default(),
        }
    }

    /// The time of day.
    pub(crate) fn now(&self) -> Moment {
        (self.clock)()
    }

    /// Records what happened to a service.
    pub(crate) fn record(&self, event: Event) {
        self.journal.record(event);
    }

    /// What happened, as [`Journal::read`] tells it; what is older than memory is read from files, which blocks.
    pub(crate) async fn events(&self, after: Option<u64>, limit: usize) -> Vec<(u64, Event)> {
        let journal = Arc::clone(&self.journal);
        tokio::task::spawn_blocking(move || journal.read(after, limit)).await.unwrap_or_default()
    }

    /// Writes the batch; `None`: something had changed meanwhile, and nothing was written.
    pub(crate) async fn commit(&self, batch: Batch) -> Result<Option<u64>, Fault> {
        match self.state.commit(batch.guards, batch.writes).await? {
            Committed::Done(revision) => Ok(Some(revision)),
            Committed::Refused { .. } => Ok(None),
        }
    }

    /// These releases of a service, as far as there are such.
    pub(crate) async fn releases(
        &self,
        service: &ServiceKey,
        numbers: BTreeSet<ReleaseNumber>,
    ) -> Result<BTreeMap<ReleaseNumber, Release>, Fault> {
        let mut found = BTreeMap::new();
        for number in numbers {
            let key = ReleaseKey { service: service.clone(), number };
            let known = self.cached().get(&key).cloned();
            let release = match known {
                Some(release) => Some(release),
                None => self.read_release(&key).await?,
            };
            found.extend(release.map(|release| (number, release)));
        }
        Ok(found)
    }

    async fn read_release(&self, key: &ReleaseKey) -> Result<Option<Release>, Fault> {
        let path = keys::release(&key.service, key.number);
        let (Some(item), _) = self.state.get(&path).await? else { return Ok(None) };
        let release: Release = decode(&path, &item.value)?;
        let mut cached = self.cached();
        if cached.len() >= RELEASES_CACHED {
            cached.clear();
        }
        cached.insert(key.clone(), release.clone());
        Ok(Some(release))
    }

    fn cached(&self) -> std::sync::MutexGuard<'_, BTreeMap<ReleaseKey, Release>> {
        // What a panicking thread leaves behind is whole: entries are inserted whole.
        self.releases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
