//! What the node knows: what it is told, what runs, and what ran lately. Plain data behind one short
//! lock; nothing here waits, asks or does.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::Ipv4Addr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use minato_model::{
    code::Code,
    digest::Digest,
    ids::{InstanceId, NodeName, ReleaseKey, ServiceKey},
    inventory::{Instance, InstanceState},
    node::{Life, Phases},
    release::Release,
    routing::Traffic,
    slice::Slice,
    time::Moment,
};
use minato_runtime::spec::Ended;
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::Instant};

use crate::{
    backoff::Backoff,
    decide::DrainCause,
    doors::Doors,
    identity::Certified,
    prepare::Prepared,
    rehearsal::{Replaces, Withdrawn},
    rotation::Rotation,
    vitals::Vitals,
};

/// Instances that ended are remembered up to this many, as [`minato_model::node::NodeView`] says.
const PAST_MAX: usize = 1_000;

/// All that the node knows.
#[derive(Debug)]
pub(crate) struct Table {
    /// Slices in force here.
    pub(crate) slices: BTreeMap<ServiceKey, Arc<Slice>>,
    /// Services whose slice is there and can't be read: what runs of them stays as it is.
    pub(crate) unread: BTreeSet<ServiceKey>,
    /// What the edge presents of services' own files.
    pub(crate) doors: Doors,
    /// Releases that a slice names, or that still have instances.
    pub(crate) releases: BTreeMap<ReleaseKey, ReleaseState>,
    /// Instances that are not gone yet.
    pub(crate) instances: BTreeMap<InstanceId, Record>,
    /// Instances that are gone, the oldest first.
    pub(crate) past: VecDeque<Life>,
    /// Offsets of instances in the node's network.
    pub(crate) offsets: Rotation,
    /// Numbers of ranges of user and group ids.
    pub(crate) ranges: Rotation,
    /// Nothing is started any more.
    pub(crate) stopping: bool,
    /// Another server takes over: nothing is begun any more, nor is anybody told to stop.
    pub(crate) handing_over: bool,
    /// Those that were told to stop.
    pub(crate) told_to_stop: BTreeSet<InstanceId>,
}

/// How a release stands here.
#[derive(Debug)]
pub(crate) struct ReleaseState {
    pub(crate) release: Arc<Release>,
    pub(crate) preparation: Preparation,
    pub(crate) backoff: Backoff,
    /// An instance ended by itself, and no other has become ready since.
    pub(crate) replacing: bool,
    /// Starts that came to nothing without its fault, since one has succeeded or failed.
    pub(crate) unlucky: u32,
    /// What the edge was told to answer 503 for.
    pub(crate) refused: Option<(Code, Option<InstanceId>)>,
    /// When it is to be looked at before the next tick.
    pub(crate) look: Option<Instant>,
}

/// How far a release's root file system is.
#[derive(Debug, Clone)]
pub(crate) enum Preparation {
    Preparing,
    Prepared(Arc<Prepared>),
    Failed { code: Code, reason: String },
}

/// Where an instance stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Starting,
    Ready {
        since: Instant,
    },
    /// Out of routing until its health check is well again.
    Unhealthy {
        since: Instant,
    },
    /// Out of routing: it finishes what it has, then stops.
    Draining,
    /// It has nothing left but streams, which may last: it counts as running no more.
    Streaming,
}

/// How an instance is to end, as it was known when it began: its slice may be gone by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Farewell {
    /// The stop signal's number.
    pub(crate) signal: i32,
    pub(crate) drain_ms: u64,
    pub(crate) streams_ms: u64,
}

impl Farewell {
    /// What a slice asks for; without one, what is fair.
    pub(crate) fn of(slice: Option<&Slice>, signal: i32) -> Self {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let drain = slice.map_or(Duration::from_secs(30), |slice| slice.drain);
        let streams = slice.map_or(drain, |slice| slice.drain_streams);
        Self { signal, drain_ms: millis(drain), streams_ms: millis(streams) }
    }
}

impl Default for Farewell {
    fn default() -> Self {
        Self::of(None, 15)
    }
}

/// An instance that isn't gone yet.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) id: InstanceId,
    pub(crate) release: ReleaseKey,
    /// Of its release, which may be known no more.
    pub(crate) hash: String,
    pub(crate) image: Digest,
    pub(crate) port: u16,
    pub(crate) address: Ipv4Addr,
    pub(crate) offset: u32,
    pub(crate) range: u32,
    pub(crate) log: PathBuf,
    pub(crate) farewell: Farewell,
    pub(crate) phase: Phase,
    pub(crate) reason: String,
    pub(crate) pid: Option<u32>,
    pub(crate) started_at: Moment,
    pub(crate) begun: Instant,
    /// When requests first went to it.
    pub(crate) first_ready: Option<Instant>,
    pub(crate) asked_by: String,
    /// Whether its sandbox was made ahead, once it has one.
    pub(crate) pooled: Option<bool>,
    /// How long it waited for a slot, in milliseconds, once it has had one.
    pub(crate) slot_ms: Option<f64>,
    /// How long issuing its certificate took, in milliseconds.
    pub(crate) certificate_ms: Option<f64>,
    pub(crate) phases: Phases,
    pub(crate) findings: Vec<String>,
    /// Whose place it was started for.
    pub(crate) replaces: Option<Replaces>,
    /// Since when it drains, told by this server or one before.
    pub(crate) draining: Option<Moment>,
    /// When it left routing, if it is out.
    pub(crate) withdrawn: Option<Withdrawn>,
    /// Its certificate, once it was issued.
    pub(crate) identity: Option<Certified>,
    pub(crate) vitals: Vitals,
    pub(crate) orders: watch::Sender<Orders>,
}

/// What an instance's task is told.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Orders {
    /// Drain and stop.
    pub(crate) drain: Option<DrainCause>,
    /// Without waiting for what is in flight.
    pub(crate) hurry: bool,
    /// The node stops: streams get no more time than requests.
    pub(crate) stopping: bool,
    /// It ended.
    pub(crate) ended: Option<Ended>,
    /// It never came to be: there is nobody to stop, and no end will be told.
    pub(crate) unmade: bool,
    /// It ended because the keeper did.
    pub(crate) orphaned: bool,
    /// Counts how often the edge found it suspicious.
    pub(crate) suspected: u32,
}

impl ReleaseState {
    pub(crate) fn new(release: Arc<Release>) -> Self {
        Self {
            release,
            preparation: Preparation::Preparing,
            backoff: Backoff::default(),
            replacing: false,
            unlucky: 0,
            refused: None,
            look: None,
        }
    }
}

impl Record {
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready { .. })
    }

    /// Requests go to it, and go on doing so.
    pub(crate) fn serves(&self) -> bool {
        self.is_ready() && self.orders.borrow().drain.is_none()
    }

    /// It as others see it.
    pub(crate) fn seen(&self, node: &NodeName, traffic: Traffic) -> Instance {
        Instance {
            id: self.id.clone(),
            app: self.release.service.app.clone(),
            service: self.release.service.service.clone(),
            release: self.release.number,
            image: self.image.clone(),
            state: match self.phase {
                Phase::Starting => InstanceState::Starting,
                Phase::Ready { .. } => InstanceState::Ready,
                Phase::Unhealthy { .. } | Phase::Draining | Phase::Streaming => InstanceState::Draining,
            },
            reason: self.reason.clone(),
            address: Some(self.address),
            node: node.clone(),
            pid: self.pid,
            started_at: self.started_at,
            requests: traffic.requests,
            in_flight: traffic.in_flight,
            identity: self.identity.as_ref().map(Certified::seen),
        }
    }

    /// Its story so far.
    pub(crate) fn life(&self, instance: Instance, end: Option<String>, last_lines: Vec<String>) -> Life {
        Life {
            instance,
            asked_by: self.asked_by.clone(),
            pooled: self.pooled,
            slot_ms: self.slot_ms,
            phases: self.phases,
            end,
            last_lines,
            findings: self.findings.clone(),
        }
    }
}

impl Table {
    pub(crate) fn new(offsets: Rotation, ranges: Rotation) -> Self {
        Self {
            slices: BTreeMap::new(),
            unread: BTreeSet::new(),
            doors: Doors::default(),
            releases: BTreeMap::new(),
            instances: BTreeMap::new(),
            past: VecDeque::new(),
            offsets,
            ranges,
            stopping: false,
            handing_over: false,
            told_to_stop: BTreeSet::new(),
        }
    }

    /// Whether an instance may be told to stop, which is noted. Not while another server takes over: it
    /// adopts only what may run on.
    pub(crate) fn may_stop(&mut self, id: &InstanceId) -> bool {
        if !self.handing_over {
            self.told_to_stop.insert(id.clone());
        }
        !self.handing_over
    }

    /// The instances of a release.
    pub(crate) fn of_release<'a>(&'a self, key: &'a ReleaseKey) -> impl Iterator<Item = &'a Record> {
        self.instances.values().filter(move |record| record.release == *key)
    }

    /// The releases of a service that the table knows.
    pub(crate) fn releases_of(&self, service: &ServiceKey) -> Vec<ReleaseKey> {
        let first = ReleaseKey { service: service.clone(), number: 0 };
        self.releases
            .range(first..)
            .map(|(key, _)| key)
            .take_while(|key| key.service == *service)
            .cloned()
            .collect()
    }

    /// Adds to those that are gone.
    pub(crate) fn remember(&mut self, life: Life) {
        if self.past.len() == PAST_MAX {
            self.past.pop_front();
        }
        self.past.push_back(life);
    }
}
