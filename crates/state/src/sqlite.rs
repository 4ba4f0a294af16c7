//! The embedded engine: SQLite, one file, for one machine.
//!
//! One thread writes: it takes all commits that wait, does them in one SQL transaction (each in a
//! savepoint of its own) and acknowledges them after COMMIT, so that many share one sync of the
//! disk. Reads have connections of their own and see one snapshot each. A watch reads the stored
//! history until it meets the ring of recent revisions in memory, and falls back when it is slow.
//!
//! ```text
//! commit ─▶ queue ─▶ writer ─▶ COMMIT ─▶ ring ─▶ watch
//!                      │                           ▲ behind the ring
//!                      └─▶ state.db ─▶ readers ────┘
//! ```

mod apply;
mod compact;
mod fault;
mod read;
mod ring;
mod schema;
mod watch;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use minato_model::BoxFuture;
use tokio::sync::{Semaphore, oneshot, watch as head};

pub use self::schema::OpenError;
use self::{
    read::Readers,
    ring::Ring,
    watch::Watcher,
    writer::{CommitJob, Job, Writer},
};
use crate::{Committed, Guard, Item, Page, Revision, State, StateError, Watch, Write, limits};

/// How many bytes of commits may wait for the writer: callers beyond that wait before they queue.
const QUEUE_BYTES: usize = 32 * 1024 * 1024;

/// What a commit counts in the queue besides its keys and values; bounds how many can wait.
const QUEUE_OVERHEAD_BYTES: usize = 1024;

/// How the engine keeps house.
#[derive(Debug, Clone)]
pub struct Config {
    /// How long the history is kept; a restart begins anew to count.
    pub history: Duration,
    /// How many revisions of it are kept at most.
    pub history_revisions: u64,
    /// How often it is compacted.
    pub compact_every: Duration,
    /// At how many pages of 4 KiB the write-ahead log is moved into the database; 0: only at open
    /// and close.
    pub checkpoint_pages: u32,
    /// How many recent revisions are held in memory for those who watch.
    pub ring_revisions: usize,
    /// How many bytes these may have.
    pub ring_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            history: Duration::from_mins(10),
            history_revisions: 100_000,
            compact_every: Duration::from_mins(1),
            // 16 MiB: the writer itself seldom gets there, it moves the log when it is idle.
            checkpoint_pages: 4000,
            // Who watches is milliseconds behind, and who is not reads the stored history: a second of a
            // busy node is enough.
            ring_revisions: 4096,
            ring_bytes: 256 * 1024,
        }
    }
}

/// What the writer, the readers and those who watch have in common.
#[derive(Debug)]
struct Shared {
    ring: Mutex<Ring>,
    readers: Readers,
    /// The oldest revision that may still be asked for.
    oldest: AtomicU64,
}

/// The engine. Dropping it ends it, after the commits that it has accepted.
pub struct Engine {
    path: PathBuf,
    cluster: String,
    shared: Arc<Shared>,
    /// The newest revision; closed when the writer has ended.
    head: head::Receiver<Revision>,
    queue: Mutex<Option<mpsc::Sender<Job>>>,
    space: Arc<Semaphore>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Engine {
    /// Opens the state in a file, or in `state.db` of an existing folder, and makes it if there is
    /// none. Blocks shortly: meant for the start of a process.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(path: &Path, config: Config) -> Result<Arc<Self>, OpenError> {
        let path = if path.is_dir() { path.join("state.db") } else { path.to_owned() };
        let opened = schema::open(&path, &config)?;
        let readers = Readers::open(&path).map_err(|source| schema::storage(&path, source))?;
        let shared = Arc::new(Shared {
            ring: Mutex::new(Ring::new(opened.meta.revision, &config)),
            readers,
            oldest: AtomicU64::new(opened.meta.oldest),
        });
        let (head_sender, head) = head::channel(opened.meta.revision);
        let (sender, receiver) = mpsc::channel();
        let cluster = opened.meta.cluster.clone();
        let writer = Writer::new(opened, config, Arc::clone(&shared), head_sender);
        let thread = std::thread::Builder::new()
            .name("minato-state".to_owned())
            .spawn(move || writer.run(&receiver))
            .map_err(|source| OpenError::Thread { source })?;
        Ok(Arc::new(Self {
            path,
            cluster,
            shared,
            head,
            queue: Mutex::new(Some(sender)),
            space: Arc::new(Semaphore::new(QUEUE_BYTES)),
            thread: Mutex::new(Some(thread)),
        }))
    }

    /// The name that this state got when it was made; a restored backup keeps it.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Gives up the history before a revision; what is current stays, however old. Returns once
    /// nobody can ask for it; the space is freed in the background.
    ///
    /// # Errors
    /// `Future` for a revision that has not happened yet, `Closed`, and what the disk says.
    pub async fn compact(&self, oldest: Revision) -> Result<(), StateError> {
        let (answer, answered) = oneshot::channel();
        self.send(Job::Compact { oldest, answer })?;
        answered.await.unwrap_or(Err(StateError::Closed))
    }

    /// Ends the engine: what was accepted is written, what comes later is `Closed`.
    pub async fn close(&self) {
        let connections = self.shared.readers.close().await;
        drop(self.take_queue());
        let mut head = self.head.clone();
        while head.changed().await.is_ok() {}
        drop(connections);
    }

    /// For tests of what the writer's connection does when SQLite refuses.
    #[cfg(test)]
    async fn execute_in_writer(&self, sql: &str) {
        let (answer, answered) = oneshot::channel();
        self.send(Job::Execute { sql: sql.to_owned(), answer }).unwrap();
        answered.await.unwrap().unwrap();
    }

    fn take_queue(&self) -> Option<mpsc::Sender<Job>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn send(&self, job: Job) -> Result<(), StateError> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = queue.as_ref().ok_or(StateError::Closed)?;
        sender.send(job).map_err(|_| StateError::Closed)
    }

    async fn enqueue(&self, guards: Vec<Guard>, writes: Vec<Write>) -> Result<Committed, StateError> {
        let size = limits::check(&guards, &writes)? + QUEUE_OVERHEAD_BYTES;
        let permits = u32::try_from(size).unwrap_or(u32::MAX);
        let space = Arc::clone(&self.space).acquire_many_owned(permits).await;
        let space = space.map_err(|_| StateError::Closed)?;
        let (answer, answered) = oneshot::channel();
        self.send(Job::Commit(CommitJob { guards, writes, answer, size, space }))?;
        // Only a writer that died leaves a commit without an answer.
        answered.await.unwrap_or(Err(StateError::Unknown))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        drop(self.take_queue());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The file is free once the writer has ended: whoever opens it next must not find it in use.
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(path = %self.path.display(), "the state's writer died");
        }
    }
}

impl State for Engine {
    fn get(&self, key: &str) -> BoxFuture<'_, Result<(Option<Item>, Revision), StateError>> {
        let key = key.to_owned();
        Box::pin(async move {
            limits::check_key(&key)?;
            self.shared.readers.run(move |connection| read::get(connection, &key)).await
        })
    }

    fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> BoxFuture<'_, Result<Page, StateError>> {
        let range = read::Range::below(prefix, after);
        let limit = limit.clamp(1, limits::PAGE_ITEMS);
        Box::pin(async move {
            self.shared.readers.run(move |connection| read::list(connection, &range, limit, at)).await
        })
    }

    fn commit(&self, guards: Vec<Guard>, writes: Vec<Write>) -> BoxFuture<'_, Result<Committed, StateError>> {
        Box::pin(self.enqueue(guards, writes))
    }

    fn watch(&self, prefix: &str, from: Revision) -> BoxFuture<'_, Result<Box<dyn Watch>, StateError>> {
        let prefix = prefix.to_owned();
        Box::pin(async move {
            let from = from.max(schema::FIRST_REVISION);
            let oldest = self.shared.oldest.load(Ordering::Acquire);
            if from < oldest {
                return Err(StateError::Compacted { oldest });
            }
            if self.head.has_changed().is_err() {
                return Err(StateError::Closed);
            }
            let watcher = Watcher::new(Arc::clone(&self.shared), self.head.clone(), prefix, from);
            Ok(Box::new(watcher) as Box<dyn Watch>)
        })
    }
}
