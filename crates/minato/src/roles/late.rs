//! A counterpart that is made later, and made anew: the edge is there before the agent, wakes through
//! this, and stays when the agent makes way for another server's.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock, RwLockWriteGuard},
};

use minato_model::{
    ids::{InstanceId, ReleaseKey},
    routing::Wake,
};

/// Passes wakes on; those that come before there is somebody to pass them to are kept, merged, and given
/// on then: an edge before this one asks as soon as it is linked.
#[derive(Clone, Default)]
pub(super) struct Late(Arc<RwLock<Counterpart>>);

#[derive(Default)]
struct Counterpart {
    wake: Option<Arc<dyn Wake>>,
    wakes: BTreeMap<ReleaseKey, u32>,
    suspects: BTreeSet<InstanceId>,
    failing: BTreeSet<InstanceId>,
}

impl Late {
    /// Sets the counterpart, and gives it what was asked for before.
    pub(super) fn set(&self, wake: Arc<dyn Wake>) {
        let early = std::mem::replace(
            &mut *self.counterpart(),
            Counterpart { wake: Some(Arc::clone(&wake)), ..Counterpart::default() },
        );
        for (release, need) in &early.wakes {
            wake.wake(release, *need);
        }
        for instance in &early.suspects {
            wake.suspect(instance);
        }
        for instance in &early.failing {
            wake.failing(instance);
        }
    }

    /// Passes on, or keeps.
    fn pass(&self, pass: impl FnOnce(&dyn Wake), keep: impl FnOnce(&mut Counterpart)) {
        let mut known = self.0.read().unwrap_or_else(PoisonError::into_inner).wake.clone();
        if known.is_none() {
            let mut counterpart = self.counterpart();
            known.clone_from(&counterpart.wake);
            if known.is_none() {
                return keep(&mut counterpart);
            }
        }
        if let Some(wake) = known {
            pass(&*wake);
        }
    }

    fn counterpart(&self) -> RwLockWriteGuard<'_, Counterpart> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Late {
    fn wake(&self, release: &ReleaseKey, need: u32) {
        self.pass(
            |wake| wake.wake(release, need),
            |early| {
                let known = early.wakes.entry(release.clone()).or_default();
                *known = need.max(*known);
            },
        );
    }

    fn suspect(&self, instance: &InstanceId) {
        self.pass(
            |wake| wake.suspect(instance),
            |early| {
                early.suspects.insert(instance.clone());
            },
        );
    }

    fn failing(&self, instance: &InstanceId) {
        self.pass(
            |wake| wake.failing(instance),
            |early| {
                early.failing.insert(instance.clone());
            },
        );
    }

    fn distrust(&self, instance: &InstanceId, reason: &str) {
        self.pass(
            |wake| wake.distrust(instance, reason),
            |early| {
                early.suspects.insert(instance.clone());
            },
        );
    }

    fn is_starting(&self, release: &ReleaseKey) -> bool {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner).wake.clone();
        known.is_none_or(|wake| wake.is_starting(release))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use minato_model::{
        ids::{InstanceId, ReleaseKey},
        routing::Wake,
    };

    use super::Late;

    #[derive(Default)]
    struct Heard(Mutex<Vec<u32>>);

    impl Wake for Heard {
        fn wake(&self, _: &ReleaseKey, need: u32) {
            self.0.lock().unwrap().push(need);
        }

        fn suspect(&self, _: &InstanceId) {}
    }

    #[test]
    fn what_is_asked_for_early_is_given_on_once_and_the_rest_at_once() {
        let late = Late::default();
        let release = ReleaseKey { service: "app/web".parse().unwrap(), number: 1 };
        for need in [1, 3, 2] {
            late.wake(&release, need);
        }
        let (first, second) = (Arc::new(Heard::default()), Arc::new(Heard::default()));
        assert!(late.is_starting(&release), "as far as anybody knows");
        late.set(first.clone());
        assert!(!late.is_starting(&release));
        late.wake(&release, 4);
        late.set(second.clone());
        assert_eq!(*first.0.lock().unwrap(), [3, 4]);
        assert!(second.0.lock().unwrap().is_empty());
    }
}
