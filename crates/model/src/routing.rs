//! Where the edge and the node's agent meet. Neither knows the other: the binary hands each its
//! counterpart through these traits.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    BoxFuture,
    code::Code,
    ids::{InstanceId, ReleaseKey, ServiceKey},
    route::{Endpoint, Table},
};

/// What the edge does for the agent.
pub trait Routing: Send + Sync + 'static {
    /// Puts a table in force; resolves when every edge thread answers by it.
    fn publish(&self, table: Arc<Table>) -> BoxFuture<'_, ()>;

    /// Lets requests go to an instance, beginning with those that wait for its release, first come
    /// first served, and at first no more than its concurrency. Clears the release's refusal.
    fn admit(&self, endpoint: Endpoint);

    /// Tells whose address this is from before its first packet until it is `forget`ten: an
    /// instance's address proves who calls.
    fn introduce(&self, instance: &InstanceId, service: &ServiceKey, address: Ipv4Addr);

    /// Takes an instance out of routing; resolves when every edge thread has confirmed that it
    /// picks it no more. Connections to it are closed as they fall idle.
    fn withdraw(&self, instance: &InstanceId) -> BoxFuture<'_, ()>;

    /// Resolves when nothing but streams is in flight on a withdrawn instance.
    fn quiet(&self, instance: &InstanceId) -> BoxFuture<'_, ()>;

    /// Resolves when no stream is left on a withdrawn instance either.
    fn streams_over(&self, instance: &InstanceId) -> BoxFuture<'_, ()>;

    /// Ends the streams that are left on a withdrawn instance, in the protocol's own words where it
    /// has some (WebSocket: close with 1001); resolves when they are said.
    fn end_streams(&self, instance: &InstanceId) -> BoxFuture<'_, ()>;

    /// The instance is gone: cuts what is left of its connections and forgets its address.
    fn forget(&self, instance: &InstanceId);

    /// Answers what waits for the release, and what comes until the next `admit` or `refuse`, with
    /// 503 at once; `None`: requests are held for an instance again.
    fn refuse(&self, release: &ReleaseKey, refusal: Option<Refusal>);

    /// What the release has to carry now.
    fn load(&self, release: &ReleaseKey) -> Load;

    /// What the instance has carried; zeros for one that isn't known.
    fn traffic(&self, instance: &InstanceId) -> Traffic;
}

/// What the agent does for the edge.
pub trait Wake: Send + Sync + 'static {
    /// A release needs this many instances for what is in flight and waiting. Called from an edge
    /// thread at every rise of the need; never blocks; the agent keeps within the envelope and
    /// starts each missing instance once, however often it is called.
    fn wake(&self, release: &ReleaseKey, need: u32);

    /// Connecting to an instance was refused, or its connection broke before an answer: look at
    /// whether it still lives. Never blocks.
    fn suspect(&self, instance: &InstanceId);

    /// An instance failed its probes, one after another: replace it. Never blocks. What the edge says
    /// again while the instance is there changes nothing.
    fn failing(&self, instance: &InstanceId) {
        self.suspect(instance);
    }
}

/// Why no request of a release can be answered just now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The kind of reason, which the answer names.
    pub code: Code,
    /// The last instance that failed.
    pub instance: Option<InstanceId>,
    /// When to come again, for `Retry-After`.
    pub retry_after: Duration,
}

/// What a release has to carry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Requests that instances have.
    pub in_flight: u32,
    /// Requests that wait for an instance.
    pub waiting: u32,
    /// The greatest `in_flight + waiting` of the last 60 s, or since the release got its first
    /// request if that is later.
    pub peak: u32,
    /// How long there has been no request; `None`: there never was one.
    pub idle: Option<Duration>,
}

/// What an instance has carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Requests it was given.
    pub requests: u64,
    /// Requests it has now, streams included.
    pub in_flight: u32,
    /// Of those: WebSockets and server-sent events, which may last.
    pub streams: u32,
    /// Requests that it failed: no answer began, or a 5xx.
    pub errors: u64,
    /// How long the oldest request in flight has waited for its answer to begin; `None`: none does.
    pub oldest: Option<Duration>,
    /// How long ago an answer of it began last; `None`: it never gave one.
    pub answered: Option<Duration>,
}

impl Traffic {
    /// What it has carried here and elsewhere.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            in_flight: self.in_flight.saturating_add(other.in_flight),
            streams: self.streams.saturating_add(other.streams),
            errors: self.errors.saturating_add(other.errors),
            oldest: self.oldest.max(other.oldest),
            answered: self.answered.into_iter().chain(other.answered).min(),
        }
    }
}
