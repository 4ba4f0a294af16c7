//! A counterpart that is made later: the edge is there before the agent, and wakes through this.

use std::sync::{Arc, OnceLock};

use minato_model::{
    ids::{InstanceId, ReleaseKey},
    routing::Wake,
};

/// Passes wakes on once there is somebody to pass them to. Before, no route is published, so that no
/// request can need one.
#[derive(Clone, Default)]
pub(super) struct Late(Arc<OnceLock<Arc<dyn Wake>>>);

impl Late {
    /// Sets the counterpart, once.
    pub(super) fn set(&self, wake: Arc<dyn Wake>) {
        // A second one is never given.
        drop(self.0.set(wake));
    }
}

impl Wake for Late {
    fn wake(&self, release: &ReleaseKey, need: u32) {
        if let Some(wake) = self.0.get() {
            wake.wake(release, need);
        }
    }

    fn suspect(&self, instance: &InstanceId) {
        if let Some(wake) = self.0.get() {
            wake.suspect(instance);
        }
    }
}
