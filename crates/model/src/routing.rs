//! Where the edge and the node's agent meet. Neither knows the other: the binary hands each its
//! counterpart through these traits.

use std::{net::Ipv4Addr, os::fd::OwnedFd, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    BoxFuture,
    code::Code,
    ids::{InstanceId, ReleaseKey, ServiceKey},
    route::{Endpoint, Table},
    tls::{Challenges, Secured, Source},
};

/// What the edge does for the agent.
pub trait Routing: Send + Sync + 'static {
    /// Puts a table in force; resolves when every edge thread answers by it.
    fn publish(&self, table: Arc<Table>) -> BoxFuture<'_, ()>;

    /// Puts in force what handshakes that begin from now on are answered with; what was given of the same
    /// source before goes. Connections that are there go on. To be called before the table is published
    /// whose hosts it is for.
    fn secure(&self, source: Source, secured: Arc<Secured>) {
        drop((source, secured));
    }

    /// What authorities are answered from now on; what was given before goes.
    fn challenge(&self, challenges: Arc<Challenges>) {
        drop(challenges);
    }

    /// Lets requests go to an instance, beginning with those that wait for its release, first come
    /// first served, and at first no more than its concurrency. Clears the release's refusal.
    fn admit(&self, endpoint: Endpoint);

    /// Tells whose address this is from before its first packet until it is `forget`ten: an
    /// instance's address proves who calls.
    fn introduce(&self, instance: &InstanceId, service: &ServiceKey, address: Ipv4Addr);

    /// Tells of an instance's network namespace before it is `admit`ted: connections to it may be made from
    /// within it, past the node's own network. Kept until it is `forget`ten. Without it the instance is reached
    /// by its address.
    fn reach(&self, instance: &InstanceId, namespace: OwnedFd);

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

    /// What has come of the release's requests; nothing for one that isn't known.
    fn flow(&self, release: &ReleaseKey) -> Flow {
        let _ = release;
        Flow::default()
    }
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

    /// An instance isn't who it should be, or doesn't speak TLS as it should, for this reason: no request goes
    /// to it. Said with each request that it fails. Never blocks.
    fn distrust(&self, instance: &InstanceId, reason: &str) {
        let _ = reason;
        self.suspect(instance);
    }

    /// Whether an instance of the release is being started: what waits for it is not turned away. Asked
    /// seldom, and only of releases that have more to do than they can. Never blocks: the edge holds
    /// locks. Who can't tell at once says yes.
    fn is_starting(&self, release: &ReleaseKey) -> bool {
        let _ = release;
        false
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

/// What has come of a release's requests since the edge knows it. All but `tripped` only rises.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Requests that ended.
    pub requests: u64,
    /// Of those, with a 5xx, whoever said so.
    pub errors: u64,
    /// Times that a request was tried again.
    pub retries: u64,
    /// Instances that get no requests at the moment although they run: their breakers tripped.
    pub tripped: u32,
    /// How many requests took how long, by upper bounds in microseconds that rise; the last, `u64::MAX`, is
    /// for all others.
    pub durations: Vec<(u64, u64)>,
}

impl Flow {
    /// What came of both.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        if self.durations.is_empty() {
            self.durations.clone_from(&other.durations);
        } else {
            for ((_, own), (_, more)) in self.durations.iter_mut().zip(&other.durations) {
                *own = own.saturating_add(*more);
            }
        }
        Self {
            requests: self.requests.saturating_add(other.requests),
            errors: self.errors.saturating_add(other.errors),
            retries: self.retries.saturating_add(other.retries),
            tripped: self.tripped.saturating_add(other.tripped),
            durations: self.durations,
        }
    }

    /// What came since `before`.
    #[must_use]
    pub fn since(mut self, before: &Self) -> Self {
        for ((_, own), (_, less)) in self.durations.iter_mut().zip(&before.durations) {
            *own = own.saturating_sub(*less);
        }
        Self {
            requests: self.requests.saturating_sub(before.requests),
            errors: self.errors.saturating_sub(before.errors),
            retries: self.retries.saturating_sub(before.retries),
            ..self
        }
    }

    /// The time in milliseconds that a share of the requests (0 to 1) didn't exceed: where it lies among
    /// its neighbours is guessed evenly, as Prometheus does. `None`: there were none.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts and times are shown to three digits")]
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let total: u64 = self.durations.iter().map(|(_, count)| count).sum();
        let rank = share * total as f64;
        let (mut below, mut from) = (0_u64, 0_u64);
        for (to, count) in self.durations.iter().filter(|_| total > 0) {
            if *count > 0 && (below + count) as f64 >= rank {
                // Nothing is known of the longest but that they were longer than the last bound.
                let to = if *to == u64::MAX { from } else { *to };
                let part = ((rank - below as f64) / *count as f64).clamp(0.0, 1.0);
                return Some((from as f64 + (to - from) as f64 * part) / 1e3);
            }
            below += count;
            from = *to;
        }
        None
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(counts: [u64; 3]) -> Flow {
        let durations = [1_000, 10_000, u64::MAX].into_iter().zip(counts).collect();
        Flow { requests: counts.iter().sum(), durations, ..Flow::default() }
    }

    #[test]
    fn quantiles_lie_within_their_buckets() {
        assert_eq!(flow([0, 0, 0]).quantile(0.5), None);
        assert_eq!(Flow::default().quantile(0.5), None);
        assert_eq!(flow([4, 0, 0]).quantile(0.5), Some(0.5));
        assert_eq!(flow([5, 5, 0]).quantile(0.9), Some(8.2));
        assert_eq!(flow([0, 0, 3]).quantile(0.99), Some(10.0), "the last bound is the most that is known");
    }

    #[test]
    fn flows_are_added_and_compared() {
        let sum = Flow::default().and(flow([1, 2, 3])).and(flow([1, 0, 0]));
        assert_eq!(sum, flow([2, 2, 3]));
        assert_eq!(sum.clone().since(&flow([1, 2, 0])), flow([1, 0, 3]));
        assert_eq!(sum.clone().since(&Flow::default()), sum);
    }
}
