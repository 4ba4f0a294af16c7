//! Events: what happened, and why.

use serde::{Deserialize, Serialize};

use crate::{
    BoxFuture,
    ids::{AppName, InstanceId, ReleaseNumber, ServiceKey, ServiceName},
    time::Moment,
};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub at: Moment,
    /// What: `instance_ready`, `instance_failed`, `release_stable`, …
    pub kind: String,
    /// Of which app.
    pub app: Option<AppName>,
    /// Of which service.
    pub service: Option<ServiceName>,
    /// Of which release.
    pub release: Option<ReleaseNumber>,
    /// Of which instance.
    pub instance: Option<InstanceId>,
    /// Why, in a sentence.
    pub reason: String,
    /// What was measured or decided, as JSON.
    pub data: serde_json::Value,
}

impl Event {
    /// An event of a kind, to be completed by the `with_…` calls.
    #[must_use]
    pub fn new(at: Moment, kind: &str, reason: impl Into<String>) -> Self {
        Self {
            at,
            kind: kind.to_owned(),
            app: None,
            service: None,
            release: None,
            instance: None,
            reason: reason.into(),
            data: serde_json::Value::Null,
        }
    }

    /// The same, of a service.
    #[must_use]
    pub fn with_service(mut self, key: &ServiceKey) -> Self {
        self.app = Some(key.app.clone());
        self.service = Some(key.service.clone());
        self
    }

    /// The same, of a release.
    #[must_use]
    pub fn with_release(mut self, number: ReleaseNumber) -> Self {
        self.release = Some(number);
        self
    }

    /// The same, of an instance.
    #[must_use]
    pub fn with_instance(mut self, id: &InstanceId) -> Self {
        self.instance = Some(id.clone());
        self
    }

    /// The same, with data.
    #[must_use]
    pub fn with_data(mut self, data: serde_json::Value) -> Self {
        self.data = data;
        self
    }
}

/// Where a node keeps its events: bounded, in order, and across restarts.
pub trait Journal: Send + Sync + 'static {
    /// Adds an event. Never blocks; never fails the caller.
    fn record(&self, event: Event);

    /// Events with a sequence number above `after`, at most `limit`, oldest first; without `after`
    /// the last `limit`.
    fn read(&self, after: Option<u64>, limit: usize) -> Vec<(u64, Event)>;

    /// Resolves when there is an event with a number above this.
    fn grown(&self, above: u64) -> BoxFuture<'_, ()>;
}
