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

use crate::{
    clock::Micros,
    release::{Lease, Release},
    shed::Shedder,
};

/// What waits for a release.
#[derive(Default)]
pub(crate) struct Queue {
    next: u64,
    waiters: BTreeMap<u64, Waiting>,
    /// Why none shall wait now.
    refusal: Option<Refusal>,
    /// The last refusal since an instance was admitted, even if it was taken back.
    failure: Option<Refusal>,
    pub(crate) shedder: Shedder,
}

impl Queue {
    /// There is an instance.
    pub(crate) fn admitted(&mut self, now: Micros) {
        self.refusal = None;
        self.failure = None;
        self.shedder.admitted(now);
    }

    /// What the last start came to, if it failed.
    pub(crate) fn failure(&self) -> Option<&Refusal> {
        self.failure.as_ref()
    }
}

/// Who waits.
struct Waiting {
    grant: oneshot::Sender<Grant>,
    since: Micros,
    /// What tells its client apart, where that decides.
    key: Option<u64>,
}

/// What one waited for.
pub(crate) enum Grant {
    /// A place.
    Place(Lease),
    /// There will be none.
    Refused(Refusal),
    /// It waited for too long where too many do.
    Shed,
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
    /// The routes in force don't name the release any more.
    Again,
}

/// A place in the queue; dropping it leaves the queue.
pub(crate) struct Waiter {
    release: Arc<Release>,
    pub(crate) number: u64,
    granted: oneshot::Receiver<Grant>,
}

impl Release {
    /// Begins to wait, unless `pending` others do already. Whoever has waited before and could make
    /// nothing of what was granted comes again with its `number`, and is where it was.
    pub(crate) fn enter(self: &Arc<Self>, pending: u32, number: Option<u64>, key: Option<u64>) -> Entrance {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.serves() {
            // Those who waited are scattered, or will be: this one would stay.
            return Entrance::Again;
        }
        let before = self.waiting.fetch_add(1, SeqCst);
        let first = queue.waiters.first_key_value().map(|(first, _)| *first);
        let is_next = first.is_none_or(|first| number.is_some_and(|number| number < first));
        let place = if is_next { self.pick(None, key) } else { None };
        let entrance = if let Some(lease) = place {
            Entrance::Place(lease)
        } else if let Some(refusal) = queue.refusal.clone() {
            Entrance::Refused(refusal)
        } else if before >= pending && number.is_none() {
            Entrance::Full
        } else {
            let (grant, granted) = oneshot::channel();
            let number = number.unwrap_or(queue.next);
            queue.next = queue.next.max(number + 1);
            let since = self.clock.now();
            if queue.waiters.is_empty() {
                queue.shedder.begin(since);
            }
            queue.waiters.insert(number, Waiting { grant, since, key });
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

    /// Hands free places to who waits longest; under overload, to who waits longest of those that haven't
    /// waited for too long.
    pub(crate) fn dispatch(self: &Arc<Self>) {
        if self.waiting.load(SeqCst) == 0 {
            return;
        }
        let (mut gone, now) = (0, self.clock.now());
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let mut place = None;
        while let Some(key) = queue.waiters.first_key_value().map(|(_, waiter)| waiter.key)
            && let Some(lease) = place.take().or_else(|| self.pick(None, key))
            && let Some((_, waiter)) = queue.waiters.pop_first()
        {
            let waiting = self.waiting.fetch_sub(1, SeqCst) - 1;
            // Who is the last gets the place however long it waited: nobody else could have it.
            if !queue.waiters.is_empty() && queue.shedder.turns_away(waiter.since, now) {
                gone += 1;
                place = Some(lease);
                // Whoever has hung up needs no answer.
                drop(waiter.grant.send(Grant::Shed));
                continue;
            }
            if let Err(Grant::Place(back)) = waiter.grant.send(Grant::Place(lease)) {
                gone += 1;
                place = Some(back);
            } else {
                queue.shedder.serves(waiter.since, now, self.carried(waiting), || self.is_starting());
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
        if refusal.is_some() {
            queue.failure.clone_from(&refusal);
        }
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
            drop(waiter.grant.send(grant()));
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    use minato_model::{
        ids::{InstanceId, ReleaseKey},
        routing::Wake,
    };

    use super::*;
    use crate::{clock::Clock, target::tests::target};

    #[derive(Default)]
    struct Agent(AtomicU32);

    impl Wake for Agent {
        fn wake(&self, _: &ReleaseKey, _: u32) {
            self.0.fetch_add(1, SeqCst);
        }
        fn suspect(&self, _: &InstanceId) {}
    }

    fn release(agent: &Arc<Agent>) -> Arc<Release> {
        let key = ReleaseKey { service: "shop/web".parse().unwrap(), number: 1 };
        let wake: Arc<dyn Wake> = Arc::<Agent>::clone(agent);
        Arc::new(Release::new(key, Clock::start(), wake))
    }

    #[test]
    fn nobody_waits_for_a_release_that_the_routes_dont_name() {
        let agent = Arc::new(Agent::default());
        let release = release(&agent);
        assert!(matches!(release.enter(9, None, None), Entrance::Again));
        assert_eq!((agent.0.load(SeqCst), release.load().waiting), (0, 0));
        release.serve(true);
        assert!(matches!(release.enter(9, None, None), Entrance::Waiting(_)));
        assert_eq!(agent.0.load(SeqCst), 1);
    }

    #[test]
    fn who_comes_again_is_where_it_was() {
        let release = release(&Arc::default());
        release.serve(true);
        let enter = |number| match release.enter(2, number, None) {
            Entrance::Waiting(waiter) => waiter,
            Entrance::Place(_) | Entrance::Full | Entrance::Refused(_) | Entrance::Again => {
                panic!("it waits")
            }
        };
        let first = enter(None);
        let mut second = enter(None);
        let number = first.number;
        drop(first);
        let _third = enter(None);
        let mut first = enter(Some(number));
        release.admit(&Arc::new(target(1)));
        assert!(matches!(first.granted.try_recv(), Ok(Grant::Place(_))));
        assert!(matches!(second.granted.try_recv(), Ok(Grant::Place(_))));
        assert!(matches!(release.enter(2, None, None), Entrance::Waiting(_)));
    }
}
