//! The routing of a server that took over: its own edge, and the edge of the server before it for as
//! long as that has connections. Both are told the same; what they carry is added up.

use std::{net::Ipv4Addr, os::fd::OwnedFd, sync::Arc};

use minato_model::{
    BoxFuture,
    ids::{InstanceId, ReleaseKey, ServiceKey},
    route::{Endpoint, Table},
    routing::{Flow, Load, Refusal, Routing, Traffic},
    tls::{Challenges, Secured, Source},
};

use super::{link::Link, protocol::Call};

/// Two edges as one.
pub(super) struct Mirror {
    own: Arc<dyn Routing>,
    before: Arc<Link>,
}

impl Mirror {
    pub(super) fn new(own: Arc<dyn Routing>, before: Arc<Link>) -> Self {
        Self { own, before }
    }

    /// Asks the edge before for the same; resolves when both are done.
    fn both<'a>(
        &self,
        own: BoxFuture<'a, ()>,
        call: impl FnOnce() -> Call,
        quick: bool,
    ) -> BoxFuture<'a, ()> {
        if self.before.is_over() {
            return own;
        }
        let before = self.before.ask(call(), quick);
        Box::pin(async move {
            tokio::join!(own, before);
        })
    }

    fn tell(&self, call: impl FnOnce() -> Call) {
        if !self.before.is_over() {
            self.before.tell(call());
        }
    }
}

impl Routing for Mirror {
    fn publish(&self, table: Arc<Table>) -> BoxFuture<'_, ()> {
        let own = self.own.publish(Arc::clone(&table));
        self.both(own, || Call::Publish { table: (*table).clone() }, true)
    }

    // Handshakes begin at the own edge only: the listeners are its.
    fn secure(&self, source: Source, secured: Arc<Secured>) {
        self.own.secure(source, secured);
    }

    fn challenge(&self, challenges: Arc<Challenges>) {
        self.own.challenge(challenges);
    }

    fn admit(&self, endpoint: Endpoint) {
        self.own.admit(endpoint.clone());
        self.tell(|| Call::Admit { endpoint: Box::new(endpoint) });
    }

    fn reach(&self, instance: &InstanceId, namespace: OwnedFd) {
        self.own.reach(instance, namespace);
    }

    fn introduce(&self, instance: &InstanceId, service: &ServiceKey, address: Ipv4Addr) {
        self.own.introduce(instance, service, address);
        self.tell(|| Call::Introduce { instance: instance.clone(), service: service.clone(), address });
    }

    fn withdraw(&self, instance: &InstanceId) -> BoxFuture<'_, ()> {
        self.both(self.own.withdraw(instance), || Call::Withdraw { instance: instance.clone() }, true)
    }

    fn quiet(&self, instance: &InstanceId) -> BoxFuture<'_, ()> {
        self.both(self.own.quiet(instance), || Call::Quiet { instance: instance.clone() }, false)
    }

    fn streams_over(&self, instance: &InstanceId) -> BoxFuture<'_, ()> {
        self.both(self.own.streams_over(instance), || Call::StreamsOver { instance: instance.clone() }, false)
    }

    fn end_streams(&self, instance: &InstanceId) -> BoxFuture<'_, ()> {
        self.both(self.own.end_streams(instance), || Call::EndStreams { instance: instance.clone() }, true)
    }

    fn forget(&self, instance: &InstanceId) {
        self.own.forget(instance);
        self.before.forget(instance.clone());
    }

    fn refuse(&self, release: &ReleaseKey, refusal: Option<Refusal>) {
        self.own.refuse(release, refusal.clone());
        self.tell(|| Call::Refuse { release: release.clone(), refusal });
    }

    fn load(&self, release: &ReleaseKey) -> Load {
        let (own, before) = (self.own.load(release), self.before.load(release));
        Load {
            in_flight: own.in_flight.saturating_add(before.in_flight),
            waiting: own.waiting.saturating_add(before.waiting),
            peak: own.peak.saturating_add(before.peak),
            idle: least(own.idle, before.idle),
        }
    }

    /// Of this edge alone: what the one before still ends is little.
    fn flow(&self, release: &ReleaseKey) -> Flow {
        self.own.flow(release)
    }

    fn traffic(&self, instance: &InstanceId) -> Traffic {
        self.own.traffic(instance).and(self.before.traffic(instance))
    }
}

/// The lesser of two, where there are two.
fn least<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
