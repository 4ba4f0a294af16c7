//! The cluster state: a small, ordered map of keys to values with one history.
//!
//! Whatever the engine, these hold:
//! - every commit that changes something has a revision of its own, greater than all before it and
//!   never used again, not after a crash and not after compaction (gaps are allowed);
//! - a commit is whole or not at all, and durable before it is acknowledged;
//! - a read sees one revision and says which; a watch from the next one misses and repeats nothing;
//! - a revision is never split between two deliveries of a watch.

pub mod limits;
pub mod sqlite;
#[cfg(any(test, feature = "suite"))]
pub mod suite;

use std::{error::Error, sync::Arc};

use minato_model::BoxFuture;

/// A point in the history. An empty state is at 1; 0 is never a revision.
pub type Revision = u64;

/// A key with its value as of some revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// The revision that created the key (again, if it was deleted before).
    pub created: Revision,
    /// The revision that wrote this value.
    pub modified: Revision,
    /// How often it was written since it was created: 1 for the first time.
    pub version: u64,
}

/// A part of a list, in the order of the keys' bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The items.
    pub items: Vec<Item>,
    /// What revision they are of: the same page can be continued at it, or watched from the next one.
    pub revision: Revision,
    /// Whether there are more after the last item.
    pub more: bool,
}

/// A condition on which a commit depends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    /// There is no such key.
    Absent(String),
    /// There is such a key, whatever its value.
    Present(String),
    /// The key was last written at this revision; 0 means the same as `Absent`.
    ModifiedAt(String, Revision),
}

impl Guard {
    /// The key that it looks at.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Absent(key) | Self::Present(key) | Self::ModifiedAt(key, _) => key,
        }
    }
}

/// One change that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Set the key to the value.
    Put {
        /// The key.
        key: String,
        /// Its new value.
        value: Vec<u8>,
    },
    /// Remove the key; nothing happens when it is absent.
    Delete {
        /// The key.
        key: String,
    },
}

impl Write {
    /// The key that it changes.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// How a commit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// Written, at this revision (the present one when nothing had to change).
    Done(Revision),
    /// A guard did not hold as of this revision: nothing was written.
    Refused {
        /// The revision at which the guards were looked at.
        revision: Revision,
    },
}

/// All that happened below a watch's prefix in one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// The revision.
    pub revision: Revision,
    /// Its changes, at least one, in the order in which they were written.
    pub changes: Vec<Change>,
}

/// One change that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A key has a new value.
    Put(Item),
    /// A key is gone.
    Delete {
        /// Which.
        key: String,
    },
}

impl Change {
    /// The key that changed.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put(item) => &item.key,
            Self::Delete { key } => key,
        }
    }
}

/// What can go wrong with any operation on the state.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The revision is no longer kept: list again and watch from there.
    #[error("the history before revision {oldest} has been compacted")]
    Compacted {
        /// The oldest revision that may still be asked for.
        oldest: Revision,
    },
    /// The revision asked for has not happened yet.
    #[error("revision {asked} has not happened yet, the state is at {current}")]
    Future {
        /// What was asked for.
        asked: Revision,
        /// Where the state is.
        current: Revision,
    },
    /// A key, a commit is larger than may be.
    #[error("{what} has {size} bytes, at most {limit} are allowed")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        size: usize,
        /// How large it may be.
        limit: usize,
    },
    /// Too many guards or writes in one commit.
    #[error("{count} {what} in one commit, at most {limit} are allowed")]
    TooMany {
        /// Of what there are too many.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// An empty key.
    #[error("a key must not be empty")]
    EmptyKey,
    /// Two writes of one commit change the same key.
    #[error("key `{key}` is written twice in one commit")]
    WrittenTwice {
        /// The key.
        key: String,
    },
    /// There is no space left. Nothing was written; the same commit works once there is space.
    #[error("no space left for the cluster state: nothing was written; make space and try again")]
    Full,
    /// The answer was lost: the commit may or may not be there. Read before trying again.
    #[error("it is unknown whether the commit was written: read before trying again")]
    Unknown,
    /// What is stored is damaged.
    #[error("the cluster state is damaged: stop the server and restore a backup")]
    Damaged(#[source] Arc<dyn Error + Send + Sync>),
    /// The store failed. Nothing was written.
    #[error("the cluster state cannot be read or written")]
    Storage(#[source] Arc<dyn Error + Send + Sync>),
    /// The state has been closed.
    #[error("the cluster state is closed")]
    Closed,
}

/// The cluster state. See the crate's head for what every engine keeps to, and [`limits`] for what
/// it refuses.
pub trait State: Send + Sync + 'static {
    /// The item of a key, and the revision at which that was true.
    fn get(&self, key: &str) -> BoxFuture<'_, Result<(Option<Item>, Revision), StateError>>;

    /// The items whose key begins with `prefix` (all with an empty one) and comes after `after`, in
    /// the order of the keys' bytes: at most `limit` (taken as within 1 to [`limits::PAGE_ITEMS`]),
    /// or fewer when they are large. As of revision `at`, or now.
    fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> BoxFuture<'_, Result<Page, StateError>>;

    /// Writes everything, at one revision, if all guards hold; else nothing.
    ///
    /// A future that is dropped early leaves it open whether the commit happens.
    fn commit(&self, guards: Vec<Guard>, writes: Vec<Write>) -> BoxFuture<'_, Result<Committed, StateError>>;

    /// The changes of keys that begin with `prefix`, from revision `from` on, which may lie ahead
    /// (0 is taken as 1: the whole history).
    fn watch(&self, prefix: &str, from: Revision) -> BoxFuture<'_, Result<Box<dyn Watch>, StateError>>;
}

/// A way through the changes below a prefix.
pub trait Watch: Send {
    /// The next revision with changes, whole; waits for one. Dropping the future loses nothing.
    ///
    /// A watcher that stays behind so long that its place is compacted is told so by
    /// [`StateError::Compacted`], from then on each time.
    fn next(&mut self) -> BoxFuture<'_, Result<Changes, StateError>>;
}

/// All items below a prefix, as of one revision, read in pages.
///
/// # Errors
/// As [`State::list`]. When the history is compacted under it, it starts anew, three times at most.
pub async fn list_all(state: &dyn State, prefix: &str) -> Result<(Vec<Item>, Revision), StateError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match list_pages(state, prefix).await {
            Err(StateError::Compacted { .. }) if attempts < 3 => {}
            end => return end,
        }
    }
}

async fn list_pages(state: &dyn State, prefix: &str) -> Result<(Vec<Item>, Revision), StateError> {
    let Page { mut items, revision, mut more } = state.list(prefix, None, limits::PAGE_ITEMS, None).await?;
    while more {
        let after = items.last().map(|item| item.key.clone());
        let page = state.list(prefix, after.as_deref(), limits::PAGE_ITEMS, Some(revision)).await?;
        more = page.more;
        items.extend(page.items);
    }
    Ok((items, revision))
}
