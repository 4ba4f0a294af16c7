//! What stands in for the edge: it writes down what it is told, and says what it is given to say.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use minato_model::{
    BoxFuture,
    ids::{InstanceId, ReleaseKey, ServiceKey},
    route::{Endpoint, Table},
    routing::{Load, Refusal, Routing, Traffic},
    tls::{Secured, Source},
};

#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) table: Arc<Table>,
    pub(crate) secured: Vec<Arc<Secured>>,
    pub(crate) admitted: BTreeMap<InstanceId, Endpoint>,
    pub(crate) introduced: BTreeMap<InstanceId, Ipv4Addr>,
    pub(crate) refused: BTreeMap<ReleaseKey, Refusal>,
    pub(crate) load: BTreeMap<ReleaseKey, Load>,
    pub(crate) traffic: BTreeMap<InstanceId, Traffic>,
    /// Everything that was told, in order, shortened to a word.
    pub(crate) told: Vec<String>,
}

/// The edge.
#[derive(Debug, Default)]
pub(crate) struct Edge(Mutex<Seen>);

impl Edge {
    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap()
    }
}

impl Routing for Edge {
    fn publish(&self, table: Arc<Table>) -> BoxFuture<'_, ()> {
        self.seen().table = table;
        Box::pin(async {})
    }

    fn secure(&self, source: Source, secured: Arc<Secured>) {
        assert_eq!(source, Source::Files);
        self.seen().secured.push(secured);
    }

    fn admit(&self, endpoint: Endpoint) {
        let mut seen = self.seen();
        seen.told.push(format!("admit {}", endpoint.instance));
        seen.refused.remove(&endpoint.release);
        seen.admitted.insert(endpoint.instance.clone(), endpoint);
    }

    fn reach(&self, _: &InstanceId, _: std::os::fd::OwnedFd) {}

    fn introduce(&self, instance: &InstanceId, _service: &ServiceKey, address: Ipv4Addr) {
        let mut seen = self.seen();
        seen.told.push(format!("introduce {instance}"));
        seen.introduced.insert(instance.clone(), address);
    }

    fn withdraw(&self, instance: &InstanceId) -> BoxFuture<'_, ()> {
        let mut seen = self.seen();
        seen.told.push(format!("withdraw {instance}"));
        seen.admitted.remove(instance);
        Box::pin(async {})
    }

    fn quiet(&self, instance: &InstanceId) -> BoxFuture<'_, ()> {
        self.seen().told.push(format!("quiet {instance}"));
        Box::pin(async {})
    }

    fn streams_over(&self, instance: &InstanceId) -> BoxFuture<'_, ()> {
        let instance = instance.clone();
        Box::pin(async move {
            while self.traffic(&instance).streams > 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
    }

    fn end_streams(&self, instance: &InstanceId) -> BoxFuture<'_, ()> {
        let mut seen = self.seen();
        seen.told.push(format!("end_streams {instance}"));
        if let Some(traffic) = seen.traffic.get_mut(instance) {
            traffic.streams = 0;
        }
        Box::pin(std::future::ready(()))
    }

    fn forget(&self, instance: &InstanceId) {
        let mut seen = self.seen();
        seen.told.push(format!("forget {instance}"));
        seen.introduced.remove(instance);
    }

    fn refuse(&self, release: &ReleaseKey, refusal: Option<Refusal>) {
        let mut seen = self.seen();
        match refusal {
            Some(refusal) => seen.refused.insert(release.clone(), refusal),
            None => seen.refused.remove(release),
        };
    }

    fn load(&self, release: &ReleaseKey) -> Load {
        self.seen().load.get(release).copied().unwrap_or_default()
    }

    fn traffic(&self, instance: &InstanceId) -> Traffic {
        self.seen().traffic.get(instance).copied().unwrap_or_default()
    }
}
