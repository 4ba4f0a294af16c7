//! A watch: a place in the history that moves forward, from the ring while it keeps up, else from
//! the disk. It holds no queue of its own, so a slow one costs nobody anything.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError},
};

use minato_model::BoxFuture;
use tokio::sync::watch as head;

use super::{
    Shared,
    read::{self, Replayed},
    ring::Place,
};
use crate::{Changes, Revision, StateError, Watch};

#[derive(Debug)]
pub(super) struct Watcher {
    shared: Arc<Shared>,
    head: head::Receiver<Revision>,
    prefix: String,
    /// The first revision that was not looked at yet.
    next: Revision,
    /// What was found and not yet handed out.
    found: VecDeque<Changes>,
}

impl Watcher {
    pub(super) fn new(
        shared: Arc<Shared>,
        head: head::Receiver<Revision>,
        prefix: String,
        from: Revision,
    ) -> Self {
        Self { shared, head, prefix, next: from, found: VecDeque::new() }
    }

    async fn step(&mut self) -> Result<Changes, StateError> {
        loop {
            if let Some(changes) = self.found.pop_front() {
                return Ok(changes);
            }
            // Marked as seen before looking: what comes in between wakes the wait below.
            self.head.mark_unchanged();
            let place = self.shared.ring.lock().unwrap_or_else(PoisonError::into_inner).find(self.next);
            match place {
                Place::Ahead => self.head.changed().await.map_err(|_| StateError::Closed)?,
                Place::Here(recent) => self.take(&recent),
                Place::Behind => self.replay().await?,
            }
        }
    }

    fn take(&mut self, recent: &[Arc<Changes>]) {
        for Changes { revision, changes } in recent.iter().map(Arc::as_ref) {
            let mine = changes.iter().filter(|change| change.key().starts_with(&self.prefix));
            let changes: Vec<_> = mine.cloned().collect();
            if !changes.is_empty() {
                self.found.push_back(Changes { revision: *revision, changes });
            }
            self.next = revision + 1;
        }
    }

    async fn replay(&mut self) -> Result<(), StateError> {
        let (prefix, from) = (self.prefix.clone(), self.next);
        let read = move |connection: &rusqlite::Connection| read::replay(connection, &prefix, from);
        let Replayed { changes, next } = self.shared.readers.run(read).await?;
        self.found.extend(changes);
        self.next = next;
        Ok(())
    }
}

impl Watch for Watcher {
    fn next(&mut self) -> BoxFuture<'_, Result<Changes, StateError>> {
        Box::pin(self.step())
    }
}
