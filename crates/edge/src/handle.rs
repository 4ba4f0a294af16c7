//! What the edge does for the node's agent.
//!
//! Every change takes effect when it is called, not when its future is first polled; the future
//! waits for the threads' confirmation.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::OwnedFd,
    sync::{Arc, PoisonError},
};

use minato_model::{
    BoxFuture,
    ids::{InstanceId, ReleaseKey, ServiceKey},
    manifest::Protocol,
    route::{Endpoint, Route, Table},
    routing::{Flow, Load, Refusal, Routing, Traffic},
    tls::{Challenges, Secured, Source},
};
use tokio::sync::oneshot;

use crate::{
    edge::FAREWELL, handover::Name, inbound::Entry, serve::Command, shared::Shared, snapshot::Snapshot,
    target::Target,
};

/// The edge as the agent knows it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
}

impl Handle {
    /// What was measured, as Prometheus text.
    #[must_use]
    pub fn metrics(&self) -> String {
        self.shared.metrics()
    }

    fn target(&self, instance: &InstanceId) -> Option<Arc<Target>> {
        let instances = self.shared.instances.lock().unwrap_or_else(PoisonError::into_inner);
        instances.get(instance)?.target.clone()
    }

    /// The same, before it what it was earlier and has not finished.
    fn targets(&self, instance: &InstanceId) -> Vec<Arc<Target>> {
        let instances = self.shared.instances.lock().unwrap_or_else(PoisonError::into_inner);
        let known = instances.get(instance);
        known.map(|known| known.all().cloned().collect()).unwrap_or_default()
    }

    /// Opens and closes listeners, so that every service of the snapshot has its own.
    fn listen(&self, snapshot: &Snapshot) {
        let mut listening = self.shared.listening.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock, as retiring closes what is there.
        if self.shared.is_retired() {
            return;
        }
        let mut before = std::mem::take(&mut *listening);
        for service in snapshot.services() {
            let offset = service.route.virtual_offset;
            for (name, address, entry) in self.places(&service.route) {
                let stop = before.remove(&(name, entry));
                if listening.contains_key(&(name, entry)) {
                    continue;
                }
                let stop = stop.unwrap_or_else(|| self.listen_at(name, address, entry, offset));
                listening.insert((name, entry), stop);
            }
        }
        // Those left are of no service any more: dropping their senders stops them.
        drop::<BTreeMap<_, _>>(before);
    }

    /// Where a service is listened for, beside the ports that all share.
    fn places(&self, route: &Route) -> impl Iterator<Item = (Name, SocketAddr, Entry)> {
        let tcp = route.protocol == Protocol::Tcp;
        let (offset, port) = (route.virtual_offset, route.port);
        let cluster = self.shared.tls.is_cluster();
        let inner = self.shared.plan.into_iter().flat_map(move |plan| {
            let all = [(80, !tcp, false), (443, !tcp && cluster, true)];
            let all = all.into_iter().filter_map(|(port, there, tls)| there.then_some((port, tls)));
            // An own port 443 speaks as all do there.
            let own = Some((port, false)).filter(|_| port != 443 || tcp || !cluster);
            all.chain(own).map(move |(port, tls)| {
                let address = SocketAddrV4::new(plan.at(offset), port);
                (Name::Virtual(address), address.into(), Entry::Virtual { offset, tls })
            })
        });
        let outer = self.shared.public.zip(route.listen).filter(|_| tcp).map(move |(ip, port)| {
            let address = SocketAddr::new(ip, port);
            (Name::Outer(address), address, Entry::Outer { offset })
        });
        inner.chain(outer)
    }

    fn listen_at(&self, name: Name, address: SocketAddr, entry: Entry, offset: u16) -> oneshot::Sender<()> {
        let (stop, stopped) = oneshot::channel();
        let thread = usize::from(offset) % self.shared.threads().max(1);
        let listener = self.shared.inherited().of_service(name, address);
        let listener = listener.inspect_err(|error| {
            tracing::error!(%address, %error, "can't listen for a service yet: it is tried again until the address is free");
        });
        let command = Command::Listen { name, address, entry, listener: listener.ok(), stop: stopped };
        self.shared.tell(thread, command);
        stop
    }
}

impl Routing for Handle {
    fn publish(&self, table: Arc<Table>) -> BoxFuture<'_, ()> {
        let shared = &self.shared;
        let before = shared.snapshot.load_full();
        let snapshot = Arc::new(Snapshot::compile(&table, &before, |key| shared.release(key)));
        for service in snapshot.services().filter(|service| !before.holds(service)) {
            for release in service.releases() {
                release.configure(&service.route);
                release.serve(true);
            }
        }
        self.listen(&snapshot);
        shared.snapshot.store(Arc::clone(&snapshot));
        shared.tls.keep(&snapshot);
        let mut changed = Vec::new();
        shared.prune(|release| {
            let service = snapshot.service(&release.key.service);
            if !service.is_some_and(|service| before.holds(service)) {
                changed.push((Arc::clone(release), service));
            }
            // Those without a weight too: their instances may be admitted already.
            service.is_some_and(|service| service.names(release.key.number))
        });
        for (release, service) in changed {
            if service.is_some_and(|service| service.has(&release)) {
                // Limits may have risen.
                release.dispatch();
                release.reconsider();
            } else if service
                .is_some_and(|service| service.releases().any(|other| Arc::ptr_eq(other, &release)))
            {
                // Only for those who match: the others choose again.
                release.scatter();
                release.reconsider();
            } else {
                release.serve(false);
                release.scatter();
            }
        }
        Box::pin(shared.confirmed())
    }

    fn secure(&self, source: Source, secured: Arc<Secured>) {
        self.shared.tls.secure(source, secured);
    }

    fn challenge(&self, challenges: Arc<Challenges>) {
        self.shared.tls.challenge(&challenges);
    }

    fn admit(&self, endpoint: Endpoint) {
        let shared = &self.shared;
        let release = shared.release(&endpoint.release);
        let target = {
            let mut instances = self.shared.instances.lock().unwrap_or_else(PoisonError::into_inner);
            let known = instances.entry(endpoint.instance.clone()).or_default();
            if known.target.as_ref().is_some_and(|target| !target.is_withdrawn()) {
                return;
            }
            let door = known.namespace.clone();
            let target = Target::new(shared.next_serial(), endpoint, shared.clock.now(), shared.threads());
            let target = Arc::new(target.behind(door));
            known.former.extend(known.target.replace(Arc::clone(&target)));
            known.former.retain(|former| former.in_flight() > 0);
            target
        };
        release.admit(&target);
    }

    fn introduce(&self, instance: &InstanceId, service: &ServiceKey, address: Ipv4Addr) {
        let mut instances = self.shared.instances.lock().unwrap_or_else(PoisonError::into_inner);
        instances.entry(instance.clone()).or_default().address = Some(address);
        self.shared.introduce(instance, service, address);
    }

    fn reach(&self, instance: &InstanceId, namespace: OwnedFd) {
        let mut instances = self.shared.instances.lock().unwrap_or_else(PoisonError::into_inner);
        instances.entry(instance.clone()).or_default().namespace = Some(Arc::new(namespace));
    }

    fn withdraw(&self, instance: &InstanceId) -> BoxFuture<'_, ()> {
        let Some(target) = self.target(instance) else { return Box::pin(std::future::ready(())) };
        if let Some(release) = self.shared.known_release(&target.endpoint.release) {
            release.withdraw(&target);
        } else {
            target.withdraw();
        }
        self.shared.tell_all(|| Command::Withdraw(target.serial));
        Box::pin(self.shared.confirmed())
    }

    fn quiet(&self, instance: &InstanceId) -> BoxFuture<'_, ()> {
        let targets = self.targets(instance);
        Box::pin(async move {
            for target in targets {
                target.quiet().await;
            }
        })
    }

    fn streams_over(&self, instance: &InstanceId) -> BoxFuture<'_, ()> {
        let targets = self.targets(instance);
        Box::pin(async move {
            for target in targets {
                target.streams_over().await;
            }
        })
    }

    fn end_streams(&self, instance: &InstanceId) -> BoxFuture<'_, ()> {
        for target in self.targets(instance) {
            target.end_streams();
        }
        let over = self.streams_over(instance);
        Box::pin(async move {
            // What a client doesn't take isn't waited for.
            drop(tokio::time::timeout(FAREWELL, over).await);
        })
    }

    fn forget(&self, instance: &InstanceId) {
        let known = self.shared.instances.lock().unwrap_or_else(PoisonError::into_inner).remove(instance);
        let Some(known) = known else { return };
        if let Some(address) = known.address {
            self.shared.dismiss(instance, address);
        }
        if let Some(target) = known.target {
            if !target.is_withdrawn()
                && let Some(release) = self.shared.known_release(&target.endpoint.release)
            {
                release.withdraw(&target);
            }
            self.shared.tell_all(|| Command::Cut(target.serial));
        }
        for former in known.former {
            self.shared.tell_all(|| Command::Cut(former.serial));
        }
    }

    fn refuse(&self, release: &ReleaseKey, refusal: Option<Refusal>) {
        self.shared.release(release).refuse(refusal);
    }

    fn load(&self, release: &ReleaseKey) -> Load {
        self.shared.known_release(release).map(|release| release.load()).unwrap_or_default()
    }

    fn flow(&self, release: &ReleaseKey) -> Flow {
        self.shared.known_release(release).map(|release| release.flow()).unwrap_or_default()
    }

    fn traffic(&self, instance: &InstanceId) -> Traffic {
        let all = self.targets(instance).into_iter().map(|target| target.traffic(self.shared.clock));
        all.reduce(Traffic::and).unwrap_or_default()
    }
}
