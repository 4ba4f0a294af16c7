//! Starts that go on at the same time: more would only take the processors from one another.
//!
//! First come, first served, except that each further start of a release lets some that came later go
//! first: who asks for twenty keeps nobody's first instance waiting, and is kept waiting by a bounded
//! number of others itself.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use minato_model::ids::ReleaseKey;
use tokio::sync::oneshot;

/// So many later ones go before each further start of a release.
const STEP: u64 = 16;

/// The slots of a node.
#[derive(Debug)]
pub(crate) struct Slots {
    all: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: u32,
    arrived: u64,
    /// By their turn, which is their arrival plus what they let go first.
    waiting: BTreeMap<(u64, u64), oneshot::Sender<Free>>,
    /// How many starts of a release wait or go on.
    starting: BTreeMap<ReleaseKey, u32>,
}

/// A start that may go on, until this is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    _free: Free,
    _counted: Counted,
}

/// A slot that is nobody else's.
#[derive(Debug)]
struct Free(Arc<Slots>);

/// A start that is counted with its release.
#[derive(Debug)]
struct Counted {
    slots: Arc<Slots>,
    key: ReleaseKey,
}

impl Slots {
    pub(crate) fn new(all: u32) -> Arc<Self> {
        let state = State { free: all, arrived: 0, waiting: BTreeMap::new(), starting: BTreeMap::new() };
        Arc::new(Self { all, state: Mutex::new(state) })
    }

    /// Waits for its turn. Cancel-safe: who goes away waits no more.
    pub(crate) async fn enter(self: &Arc<Self>, key: &ReleaseKey) -> Slot {
        let (counted, granted) = {
            let mut state = self.state();
            let before = state.starting.entry(key.clone()).or_default();
            let ahead = *before;
            *before += 1;
            let counted = Counted { slots: Arc::clone(self), key: key.clone() };
            let (grant, granted) = oneshot::channel();
            if state.free > 0 {
                state.free -= 1;
                // Nobody waits while one is free; this one is there to be received.
                drop(grant.send(Free(Arc::clone(self))));
            } else {
                state.arrived += 1;
                let arrived = state.arrived;
                state.waiting.insert((arrived + STEP * u64::from(ahead), arrived), grant);
            }
            (counted, granted)
        };
        match granted.await {
            Ok(free) => Slot { _free: free, _counted: counted },
            // A grant is sent before it is dropped.
            Err(_closed) => std::future::pending().await,
        }
    }

    /// How many there are, how many are taken, and how many starts wait.
    pub(crate) fn figures(&self) -> (u32, u32, u32) {
        let state = self.state();
        let waiting = state.waiting.values().filter(|grant| !grant.is_closed()).count();
        (self.all, self.all - state.free, u32::try_from(waiting).unwrap_or(u32::MAX))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Free {
    fn drop(&mut self) {
        let next = {
            let mut state = self.0.state();
            let next = state.waiting.pop_first();
            if next.is_none() {
                state.free += 1;
            }
            next
        };
        if let Some((_, grant)) = next {
            // One who went away drops it, and so hands it on.
            drop(grant.send(Self(Arc::clone(&self.0))));
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut state = self.slots.state();
        if let Some(count) = state.starting.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                state.starting.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]
mod tests {
    use super::*;

    fn key(service: &str) -> ReleaseKey {
        ReleaseKey { service: format!("shop/{service}").parse().unwrap(), number: 1 }
    }

    #[tokio::test]
    async fn twenty_of_one_keep_nobodys_first_waiting() {
        let slots = Slots::new(1);
        let held = slots.enter(&key("a")).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for name in std::iter::repeat_n("many", 20).chain(["b", "c", "many"]) {
            let (slots, order) = (Arc::clone(&slots), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                let _slot = slots.enter(&key(name)).await;
                order.lock().unwrap().push(name);
            }));
            tokio::task::yield_now().await;
        }
        assert_eq!(slots.figures(), (1, 1, 23));
        // One who goes away is passed over.
        tasks.remove(0).abort();
        tokio::task::yield_now().await;
        drop(held);
        for task in tasks {
            task.await.unwrap();
        }
        let order = order.lock().unwrap();
        assert_eq!(order.len(), 22);
        let place = |name| order.iter().position(|other| *other == name).unwrap();
        assert!(place("b") < 3 && place("c") < 4, "{order:?}");
        assert_eq!(slots.figures(), (1, 0, 0));
        assert!(slots.state().starting.is_empty());
    }
}
