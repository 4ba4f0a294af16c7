//! A counterpart that is made later, and made anew: the edge is there before the agent, wakes through
//! this, and stays when the agent makes way for another server's.

use std::sync::{Arc, PoisonError, RwLock};

use minato_model::{
    ids::{InstanceId, ReleaseKey},
    routing::Wake,
};

/// Passes wakes on once there is somebody to pass them to. Before, no route is published here, so that no
/// request can need one; what an edge before this one asks for meanwhile is in the load that it tells.
#[derive(Clone, Default)]
pub(super) struct Late(Arc<RwLock<Option<Arc<dyn Wake>>>>);

impl Late {
    /// Sets the counterpart.
    pub(super) fn set(&self, wake: Arc<dyn Wake>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(wake);
    }

    fn get(&self) -> Option<Arc<dyn Wake>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Wake for Late {
    fn wake(&self, release: &ReleaseKey, need: u32) {
        if let Some(wake) = self.get() {
            wake.wake(release, need);
        }
    }

    fn suspect(&self, instance: &InstanceId) {
        if let Some(wake) = self.get() {
            wake.suspect(instance);
        }
    }
}
