//! Requests that wait for an instance: first come, first served, bounded, and gone as soon as their
//! client is.
//!
//! Invariant: while somebody waits, every place that becomes free is handed on under the queue's
//! lock; and whoever begins to wait counts itself before it looks for a place a last time, so that a
//! place freed in between is seen by one of the two.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, atomic::Ordering::SeqCst},
};

use minato_model::routing::Refusal;
use tokio::sync::oneshot;

use crate::release::{Lease, Release};

/// What waits for a release.
#[derive(Default)]
pub(crate) struct Queue {
    next: u64,
    waiters: BTreeMap<u64, oneshot::Sender<Grant>>,
    /// Why none shall wait now.
    pub(crate) refusal: Option<Refusal>,
}

/// What one waited for.
pub(crate) enum Grant {
    /// A place.
    Place(Lease),
    /// There will be none.
    Refused(Refusal),
    /// Routes have changed: choose a release again.
    Again,
}

/// How a request may wait.
pub(crate) enum Entrance {
    /// It needn't.
    Place(Lease),
    /// It may.
    Waiting(Waiter),
    /// Too many wait already.
    Full,
    /// The release can't start.
    Refused(Refusal),
}

/// A place in the queue; dropping it leaves the queue.
pub(crate) struct Waiter {
    release: Arc<Release>,
    number: u64,
    granted: oneshot::Receiver<Grant>,
}

impl Release {
    /// Begins to wait, unless `pending` others do already.
    pub(crate) fn enter(self: &Arc<Self>, pending: u32) -> Entrance {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.waiting.fetch_add(1, SeqCst);
        let place = if queue.waiters.is_empty() { self.pick(None) } else { None };
        let entrance = if let Some(lease) = place {
            Entrance::Place(lease)
        } else if let Some(refusal) = queue.refusal.clone() {
            Entrance::Refused(refusal)
        } else if before >= pending {
            Entrance::Full
        } else {
            let (grant, granted) = oneshot::channel();
            let number = queue.next;
            queue.next += 1;
            queue.waiters.insert(number, grant);
            Entrance::Waiting(Waiter { release: Arc::clone(self), number, granted })
        };
        if !matches!(entrance, Entrance::Waiting(_)) {
            self.waiting.fetch_sub(1, SeqCst);
        }
        drop(queue);
        if matches!(entrance, Entrance::Waiting(_) | Entrance::Place(_)) {
            self.rose();
        }
        entrance
    }

    /// Hands free places to who waits longest.
    pub(crate) fn dispatch(self: &Arc<Self>) {
        if self.waiting.load(SeqCst) == 0 {
            return;
        }
        let mut gone = 0;
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let mut place = None;
        while !queue.waiters.is_empty()
            && let Some(lease) = place.take().or_else(|| self.pick(None))
            && let Some((_, waiter)) = queue.waiters.pop_first()
        {
            self.waiting.fetch_sub(1, SeqCst);
            if let Err(Grant::Place(back)) = waiter.send(Grant::Place(lease)) {
                gone += 1;
                place = Some(back);
            }
        }
        drop(queue);
        for _ in 0..gone {
            self.fell();
        }
        if let Some(lease) = place {
            // Nobody is left to have it. It counts as a request's until it is dropped.
            self.rose();
            lease.return_unused();
        }
    }

    /// Sets or clears why nothing can be answered, and tells who waits.
    pub(crate) fn refuse(&self, refusal: Option<Refusal>) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.refusal.clone_from(&refusal);
        if let Some(refusal) = refusal {
            self.dismiss(queue, || Grant::Refused(refusal.clone()));
        }
    }

    /// Lets everybody who waits choose again.
    pub(crate) fn scatter(&self) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        self.dismiss(queue, || Grant::Again);
    }

    fn dismiss(&self, mut queue: std::sync::MutexGuard<'_, Queue>, grant: impl Fn() -> Grant) {
        let waiters = std::mem::take(&mut queue.waiters);
        drop(queue);
        for waiter in waiters.into_values() {
            self.waiting.fetch_sub(1, SeqCst);
            // Whoever has hung up needs no answer.
            drop(waiter.send(grant()));
            self.fell();
        }
    }
}

impl Waiter {
    /// Waits. Cancel-safe.
    pub(crate) async fn granted(&mut self) -> Grant {
        (&mut self.granted).await.unwrap_or(Grant::Again)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let left = {
            let mut queue = self.release.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.waiters.remove(&self.number).is_some()
        };
        if left {
            self.release.waiting.fetch_sub(1, SeqCst);
            self.release.fell();
        }
        // A place that was granted at this very moment is given back, and goes to the next.
        self.granted.close();
        if let Ok(Grant::Place(lease)) = self.granted.try_recv() {
            lease.return_unused();
        }
    }
}
