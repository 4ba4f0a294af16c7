//! The embedded engine: SQLite, one file, for one machine.

use std::{path::Path, sync::Arc, time::Duration};

use minato_model::BoxFuture;

use crate::{Committed, Guard, Item, Page, Revision, State, StateError, Watch, Write};

/// How the engine keeps house.
#[derive(Debug, Clone)]
pub struct Config {
    /// How long the history is kept.
    pub history: Duration,
    /// How many revisions of it are kept at most.
    pub history_revisions: u64,
    /// How often it is compacted.
    pub compact_every: Duration,
    /// At how many pages (of 4 KiB) the write-ahead log goes into the database; 0: never.
    pub checkpoint_pages: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            history: Duration::from_mins(10),
            history_revisions: 100_000,
            compact_every: Duration::from_mins(1),
            checkpoint_pages: 4000,
        }
    }
}

/// Why the state could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It cannot be read or written.
    #[error("cannot open the cluster state")]
    Storage(#[source] StateError),
}

/// The engine.
#[derive(Debug)]
pub struct Engine {}

impl Engine {
    /// Opens the state in a file, or in `state.db` of a folder, and makes it if there is none.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(_path: &Path, _config: Config) -> Result<Arc<Self>, OpenError> {
        Err(OpenError::Storage(StateError::Closed))
    }

    /// Ends the engine: what was accepted is written, what comes later is `Closed`.
    pub fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

impl State for Engine {
    fn get(&self, _key: &str) -> BoxFuture<'_, Result<(Option<Item>, Revision), StateError>> {
        Box::pin(async { Err(StateError::Closed) })
    }

    fn list(
        &self,
        _prefix: &str,
        _after: Option<&str>,
        _limit: usize,
        _at: Option<Revision>,
    ) -> BoxFuture<'_, Result<Page, StateError>> {
        Box::pin(async { Err(StateError::Closed) })
    }

    fn commit(&self, _: Vec<Guard>, _: Vec<Write>) -> BoxFuture<'_, Result<Committed, StateError>> {
        Box::pin(async { Err(StateError::Closed) })
    }

    fn watch(&self, _: &str, _: Revision) -> BoxFuture<'_, Result<Box<dyn Watch>, StateError>> {
        Box::pin(async { Err(StateError::Closed) })
    }
}
