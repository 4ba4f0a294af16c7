//! The one thread that writes.
//!
//! A commit is acknowledged after COMMIT has synced the disk, and after the ring has it: whoever
//! hears of a revision can watch from it. If the disk ever fails to sync, nothing is written any
//! more: what is in the page cache and what is on the disk may differ from then on.

use std::{
    fs::File,
    ops::ControlFlow,
    sync::{
        Arc, PoisonError,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError, TryRecvError},
    },
    time::Duration,
};

use rusqlite::Connection;
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot, watch as head},
    time::Instant,
};

use super::{
    Config, Shared,
    apply::{self, Applied},
    compact::{self, Marks},
    fault,
    schema::Opened,
};
use crate::{Changes, Committed, Guard, Revision, StateError, Write};

/// How many commits, and how many bytes of them, share one transaction: bounds its time and memory.
const BATCH_COMMITS: usize = 256;
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// How long nothing must have come before the write-ahead log is moved into the database.
const IDLE: Duration = Duration::from_millis(500);

type Answer<T> = oneshot::Sender<Result<T, StateError>>;

/// What the writer is asked for.
pub(super) enum Job {
    Commit(CommitJob),
    Compact {
        oldest: Revision,
        answer: Answer<()>,
    },
    /// For tests: whatever SQL.
    #[cfg(test)]
    Execute {
        sql: String,
        answer: Answer<()>,
    },
}

/// A commit in the queue.
pub(super) struct CommitJob {
    pub(super) guards: Vec<Guard>,
    pub(super) writes: Vec<Write>,
    pub(super) answer: Answer<Committed>,
    pub(super) size: usize,
    /// Its share of the queue, free again when the job is dropped.
    pub(super) space: OwnedSemaphorePermit,
}

/// What is to be done when no commit waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Upkeep {
    Nothing,
    Sweep,
    Vacuum,
}

/// A transaction that went through.
struct Batch {
    /// What each caller is told.
    results: Vec<Result<Committed, StateError>>,
    /// What happened.
    history: Vec<Changes>,
}

/// Why a transaction did not go through.
enum Failure {
    /// Nothing was written.
    Undone(rusqlite::Error),
    /// COMMIT failed: it may be on the disk.
    Open(rusqlite::Error),
}

pub(super) struct Writer {
    connection: Connection,
    config: Config,
    shared: Arc<Shared>,
    revision: Revision,
    oldest: Revision,
    marks: Marks,
    upkeep: Upkeep,
    /// When the history is next looked at.
    due: Instant,
    /// Whether the write-ahead log holds something.
    dirty: bool,
    /// Why nothing may be written any more.
    stopped: Option<StateError>,
    /// Dropped after the connection, in this order: the file is free, then everybody knows.
    _lock: File,
    head: head::Sender<Revision>,
}

impl Writer {
    pub(super) fn new(
        opened: Opened,
        config: Config,
        shared: Arc<Shared>,
        head: head::Sender<Revision>,
    ) -> Self {
        let now = Instant::now();
        let mut marks = Marks::new(config.history, config.history_revisions);
        marks.tick(now, opened.meta.revision);
        Self {
            connection: opened.connection,
            shared,
            revision: opened.meta.revision,
            oldest: opened.meta.oldest,
            marks,
            // A sweep may have been interrupted.
            upkeep: Upkeep::Sweep,
            due: now + config.compact_every,
            dirty: false,
            stopped: None,
            config,
            _lock: opened.lock,
            head,
        }
    }

    /// Works until nobody can ask any more and the queue is empty.
    pub(super) fn run(mut self, queue: &Receiver<Job>) {
        while let ControlFlow::Continue(mut next) = self.wait(queue) {
            while let Some(job) = next.take() {
                match job {
                    Job::Commit(first) => next = self.commit(first, queue),
                    Job::Compact { oldest, answer } => {
                        let result = self.compact(oldest);
                        // Whoever asked may have gone.
                        drop(answer.send(result));
                    }
                    #[cfg(test)]
                    Job::Execute { sql, answer } => {
                        let result = self.connection.query_row(&sql, [], |_| Ok(()));
                        drop(answer.send(result.map_err(fault::meaning)));
                    }
                }
            }
            self.keep_house();
        }
    }

    /// The next job, or none when there is something else to do.
    fn wait(&mut self, queue: &Receiver<Job>) -> ControlFlow<(), Option<Job>> {
        if self.upkeep != Upkeep::Nothing {
            return match queue.try_recv() {
                Ok(job) => ControlFlow::Continue(Some(job)),
                Err(TryRecvError::Empty) => ControlFlow::Continue(None),
                Err(TryRecvError::Disconnected) => ControlFlow::Break(()),
            };
        }
        let until_due = self.due.saturating_duration_since(Instant::now());
        let timeout = if self.dirty { until_due.min(IDLE) } else { until_due };
        match queue.recv_timeout(timeout) {
            Ok(job) => ControlFlow::Continue(Some(job)),
            Err(RecvTimeoutError::Disconnected) => ControlFlow::Break(()),
            Err(RecvTimeoutError::Timeout) => {
                self.checkpoint();
                ControlFlow::Continue(None)
            }
        }
    }

    /// Commits all that waits, together; gives back a job of another kind that it met.
    fn commit(&mut self, first: CommitJob, queue: &Receiver<Job>) -> Option<Job> {
        let mut size = first.size;
        let mut jobs = vec![first];
        let mut other = None;
        while jobs.len() < BATCH_COMMITS && size < BATCH_BYTES && other.is_none() {
            match queue.try_recv() {
                Ok(Job::Commit(job)) => {
                    size += job.size;
                    jobs.push(job);
                }
                Ok(job) => other = Some(job),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        self.commit_batch(jobs);
        other
    }

    fn commit_batch(&mut self, jobs: Vec<CommitJob>) {
        let alone = jobs.len() == 1;
        let everyone = match self.write(&jobs) {
            Ok(batch) => return self.publish(jobs, batch),
            // One that does not fit must not take the others with it.
            Err(Failure::Undone(error)) if !alone && !fault::lost_sync(&error) => {
                return jobs.into_iter().for_each(|job| self.commit_batch(vec![job]));
            }
            Err(Failure::Undone(error)) => self.failed(error, false),
            Err(Failure::Open(error)) => self.failed(error, true),
        };
        for job in jobs {
            // Whoever asked may have gone.
            drop(job.answer.send(Err(everyone.clone())));
        }
    }

    /// Makes the transaction undone as far as it can be, and says what the callers are told.
    fn failed(&mut self, error: rusqlite::Error, open: bool) -> StateError {
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "the state cannot take back a transaction: it takes no more writes");
            self.stopped = Some(fault::meaning(error));
        }
        let lost_sync = fault::lost_sync(&error);
        if open || lost_sync {
            // What the disk holds is open, so nothing may be written on top of it: the next revision
            // could be one that is already there. Opening the file again settles it.
            tracing::error!(%error, "the disk failed under the state: it takes no more writes until a restart");
            self.stopped = Some(fault::meaning(error));
            return StateError::Unknown;
        }
        fault::meaning(error)
    }

    /// Writes a batch in one transaction.
    fn write(&self, jobs: &[CommitJob]) -> Result<Batch, Failure> {
        if let Some(stopped) = &self.stopped {
            let results = jobs.iter().map(|_| Err(stopped.clone())).collect();
            return Ok(Batch { results, history: Vec::new() });
        }
        let run = |sql: &str| self.connection.prepare_cached(sql)?.execute([]);
        run("BEGIN IMMEDIATE").map_err(Failure::Undone)?;
        let mut batch = Batch { results: Vec::with_capacity(jobs.len()), history: Vec::new() };
        for job in jobs {
            let result = self.write_one(job, &mut batch.history).map_err(Failure::Undone)?;
            batch.results.push(result);
        }
        if let Some(last) = batch.history.last() {
            self.connection
                .prepare_cached("UPDATE meta SET revision = ?1")
                .and_then(|mut statement| statement.execute([last.revision]))
                .map_err(Failure::Undone)?;
        }
        run("COMMIT").map_err(|error| {
            if fault::leaves_open(&error) { Failure::Open(error) } else { Failure::Undone(error) }
        })?;
        Ok(batch)
    }

    /// Writes one commit in its savepoint. An error is one of the whole transaction.
    fn write_one(
        &self,
        job: &CommitJob,
        history: &mut Vec<Changes>,
    ) -> rusqlite::Result<Result<Committed, StateError>> {
        let run = |sql: &str| self.connection.prepare_cached(sql)?.execute([]);
        let revision = history.last().map_or(self.revision, |last| last.revision);
        run("SAVEPOINT one")?;
        let result = match apply::apply(&self.connection, revision + 1, &job.guards, &job.writes) {
            Ok(Applied::Written(changes)) => {
                history.push(changes);
                Ok(Committed::Done(revision + 1))
            }
            Ok(Applied::Unchanged) => Ok(Committed::Done(revision)),
            Ok(Applied::Refused) => Ok(Committed::Refused { revision }),
            // SQLite has taken the whole transaction back (a full disk, for one).
            Err(error) if self.connection.is_autocommit() => return Err(error),
            Err(error) => {
                run("ROLLBACK TO one")?;
                Err(fault::meaning(error))
            }
        };
        run("RELEASE one")?;
        Ok(result)
    }

    fn publish(&mut self, jobs: Vec<CommitJob>, batch: Batch) {
        if let Some(last) = batch.history.last() {
            self.revision = last.revision;
            self.dirty = self.config.checkpoint_pages > 0;
            let mut ring = self.shared.ring.lock().unwrap_or_else(PoisonError::into_inner);
            batch.history.into_iter().for_each(|changes| ring.push(changes));
            drop(ring);
            self.head.send_replace(self.revision);
        }
        for (job, result) in jobs.into_iter().zip(batch.results) {
            drop(job.space);
            // Whoever asked may have gone; it is written all the same.
            drop(job.answer.send(result));
        }
    }

    fn compact(&mut self, oldest: Revision) -> Result<(), StateError> {
        if oldest > self.revision {
            return Err(StateError::Future { asked: oldest, current: self.revision });
        }
        if let Some(stopped) = &self.stopped {
            return Err(stopped.clone());
        }
        if oldest > self.oldest {
            compact::set_oldest(&self.connection, oldest).map_err(|error| {
                let open = fault::lost_sync(&error);
                self.failed(error, open)
            })?;
            self.oldest = oldest;
            self.shared.oldest.store(oldest, Ordering::Release);
            self.upkeep = Upkeep::Sweep;
        }
        Ok(())
    }

    /// One step of what is to be done between commits. What fails is tried again when it is next due.
    fn keep_house(&mut self) {
        if self.stopped.is_some() {
            self.upkeep = Upkeep::Nothing;
        }
        let now = Instant::now();
        if now >= self.due {
            self.due = now + self.config.compact_every;
            let oldest = self.marks.tick(now, self.revision);
            if let Err(error) = self.compact(oldest) {
                tracing::warn!(%error, "the state's history was not compacted");
            }
            if self.upkeep == Upkeep::Nothing && self.stopped.is_none() {
                self.upkeep = Upkeep::Sweep;
            }
        }
        let (done, next) = match self.upkeep {
            Upkeep::Nothing => return,
            Upkeep::Sweep => (compact::sweep(&self.connection), Upkeep::Vacuum),
            Upkeep::Vacuum => (compact::vacuum(&self.connection), Upkeep::Nothing),
        };
        match done {
            Ok(true) => self.upkeep = next,
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, "the state's old history was not removed");
                if fault::lost_sync(&error) {
                    self.stopped = Some(fault::meaning(error));
                }
                self.upkeep = Upkeep::Nothing;
            }
        }
    }

    /// Moves the write-ahead log into the database while nobody waits.
    fn checkpoint(&mut self) {
        if std::mem::take(&mut self.dirty)
            && let Err(error) = self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
        {
            tracing::warn!(%error, "the state's write-ahead log was not moved into the database");
            if fault::lost_sync(&error) {
                self.stopped = Some(fault::meaning(error));
            }
        }
    }
}
