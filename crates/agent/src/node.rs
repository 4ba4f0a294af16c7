//! What every part of the agent has in hand, and the node's loop.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use minato_model::{
    event::{Event, Journal},
    ids::{InstanceId, NodeName, ReleaseKey, ServiceKey},
    network::AddressPlan,
    routing::Routing,
    time::Moment,
};
use minato_network::NodeId8;
use minato_runtime::{ids::Ids, keeper::Client};
use minato_state::State;
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Clock,
    identity::Issuer,
    metrics::Metrics,
    pool::Pool,
    prepare::Trees,
    slots::Slots,
    steer::steer,
    table::{Orders, Preparation, ReleaseState, Table},
    top::Looks,
};

/// How often the loop looks at everything, asked or not.
pub(crate) const TICK: Duration = Duration::from_secs(1);
/// How often trees are looked through for those that nobody needs.
const SWEEP: Duration = Duration::from_secs(60);

/// What every part of the agent has in hand.
pub(crate) struct Node {
    pub(crate) name: NodeName,
    pub(crate) data: PathBuf,
    pub(crate) plan: AddressPlan,
    pub(crate) id: NodeId8,
    pub(crate) zone: Option<String>,
    pub(crate) state: Arc<dyn State>,
    pub(crate) routing: Arc<dyn Routing>,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) clock: Clock,
    pub(crate) trees: Arc<Trees>,
    pub(crate) metrics: Metrics,
    /// When an instance's memory is taken as what it needs.
    pub(crate) baseline_after: Duration,
    pub(crate) signals: Signals,
    /// Starts that go on at the same time, first come first served.
    pub(crate) slots: Arc<Slots>,
    /// Sandboxes that were made ahead.
    pub(crate) pool: Pool,
    /// The instances' certificates, with keys that were made ahead.
    pub(crate) issuer: Issuer,
    /// How instances are spoken to over TLS.
    pub(crate) client: minato_identity::client::Client,
    /// The looks at what it uses, by those who ask.
    pub(crate) looks: tokio::sync::Mutex<Looks>,
    /// What follows, decides and reports.
    pub(crate) loops: TaskTracker,
    /// Instances, and what is done on the side.
    pub(crate) tasks: TaskTracker,
    /// Ends the loops and what is done on the side; an instance's task ends with its instance.
    pub(crate) over: CancellationToken,
    /// Ends the instances' tasks without their instances: another server has them.
    pub(crate) left: CancellationToken,
    pub(crate) keeper: Mutex<Option<Keeper>>,
    pub(crate) table: Mutex<Table>,
}

/// The keeper while it is there.
#[derive(Debug, Clone)]
pub(crate) struct Keeper {
    pub(crate) client: Client,
    pub(crate) ids: Ids,
}

/// What the loop is told. Each kind is merged, so that it is bounded by what there is.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    waiting: Mutex<Told>,
    changed: Notify,
    pub(crate) reports: Notify,
}

#[derive(Debug, Default)]
struct Told {
    services: BTreeSet<ServiceKey>,
    /// Those whose time has come before the tick.
    looks: BTreeSet<ServiceKey>,
    wakes: BTreeMap<ReleaseKey, u32>,
    suspects: BTreeSet<InstanceId>,
    failing: BTreeSet<InstanceId>,
    /// And why, as it was said last.
    distrusted: BTreeMap<InstanceId, String>,
}

impl Signals {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something about a service has changed: decide anew, and report.
    pub(crate) fn changed(&self, service: &ServiceKey) {
        self.told().services.insert(service.clone());
        self.changed.notify_one();
        self.reports.notify_one();
    }

    /// A service is to be looked at as if the tick had come.
    pub(crate) fn look(&self, service: &ServiceKey) {
        self.told().looks.insert(service.clone());
        self.changed.notify_one();
    }

    /// The edge needs so many instances.
    pub(crate) fn wake(&self, release: &ReleaseKey, need: u32) {
        let mut told = self.told();
        match told.wakes.get_mut(release) {
            Some(known) => *known = need.max(*known),
            None => {
                told.wakes.insert(release.clone(), need);
            }
        }
        drop(told);
        self.changed.notify_one();
    }

    /// The edge doubts that an instance lives.
    pub(crate) fn suspect(&self, instance: &InstanceId) {
        self.told().suspects.insert(instance.clone());
        self.changed.notify_one();
    }

    /// An instance isn't who it should be for the edge, for this reason.
    pub(crate) fn distrust(&self, instance: &InstanceId, reason: &str) {
        self.told().distrusted.entry(instance.clone()).or_insert_with(|| reason.to_owned());
        self.changed.notify_one();
    }

    /// An instance fails the edge's probes.
    pub(crate) fn failing(&self, instance: &InstanceId) {
        self.told().failing.insert(instance.clone());
        self.changed.notify_one();
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Node {
    /// What the node knows. Never held across an await.
    pub(crate) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn keeper(&self) -> Option<Keeper> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn now(&self) -> Moment {
        (self.clock)()
    }

    /// Tells an instance's task something.
    pub(crate) fn order(&self, id: &InstanceId, tell: impl FnOnce(&mut Orders)) -> bool {
        self.table().instances.get(id).map(|record| record.orders.send_modify(tell)).is_some()
    }

    /// An event of an instance.
    pub(crate) fn record(
        &self,
        kind: &str,
        key: &ReleaseKey,
        id: &InstanceId,
        reason: &str,
        data: serde_json::Value,
    ) {
        let event = Event::new(self.now(), kind, reason).with_service(&key.service).with_release(key.number);
        self.journal.record(event.with_instance(id).with_data(data));
    }

    /// Looks at a service after a while, before the next tick.
    pub(crate) fn look_after(self: &Arc<Self>, service: &ServiceKey, wait: Duration) {
        let (node, service) = (Arc::clone(self), service.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = node.over.cancelled() => {}
                () = tokio::time::sleep(wait) => node.signals.look(&service),
            }
        });
    }

    /// Decides anew about a service after a while.
    pub(crate) fn changed_after(self: &Arc<Self>, service: &ServiceKey, wait: Duration) {
        let (node, service) = (Arc::clone(self), service.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = node.over.cancelled() => {}
                () = tokio::time::sleep(wait) => node.signals.changed(&service),
            }
        });
    }
}

/// The node's loop: on a signal about what it names, on a tick about everything.
pub(crate) async fn run(node: Arc<Node>) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut swept = Instant::now();
    loop {
        let ticked = tokio::select! {
            biased;
            () = node.over.cancelled() => return,
            () = node.signals.changed.notified() => false,
            _ = tick.tick() => true,
        };
        let told = std::mem::take(&mut *node.signals.told());
        for id in told.suspects.iter().chain(told.distrusted.keys()) {
            node.order(id, |orders| orders.suspected += 1);
        }
        for (id, reason) in told.distrusted {
            note_distrust(&node, &id, reason);
        }
        let mut services = told.services;
        for id in &told.failing {
            if let Some(record) = node.table().instances.get_mut(id) {
                record.vitals.failing = true;
                services.insert(record.release.service.clone());
            }
        }
        services.extend(told.looks.iter().cloned());
        services.extend(told.wakes.keys().map(|release| release.service.clone()));
        if ticked {
            services.extend(node.table().releases.keys().map(|key| key.service.clone()));
        }
        for service in &services {
            steer(&node, service, &told.wakes, ticked || told.looks.contains(service));
        }
        // Which trees a service needs whose slice can't be read is not known.
        if ticked && swept.elapsed() >= SWEEP && node.table().unread.is_empty() {
            swept = Instant::now();
            let (trees, needed) = (Arc::clone(&node.trees), needed(&node.table()));
            node.tasks.spawn(async move { trees.sweep(needed).await });
        }
    }
}

/// Keeps for its story why the edge sends an instance nothing. The edge says so with each request.
fn note_distrust(node: &Node, id: &InstanceId, reason: String) {
    let release = {
        let mut table = node.table();
        let Some(record) = table.instances.get_mut(id) else { return };
        if record.vitals.distrusted.as_ref() == Some(&reason) {
            return;
        }
        record.vitals.distrusted = Some(reason.clone());
        record.release.clone()
    };
    let reason = format!("the edge doesn't trust it: {reason}");
    node.record("instance_distrusted", &release, id, &reason, serde_json::Value::Null);
}

/// The trees that a release or an instance needs.
fn needed(table: &Table) -> BTreeSet<PathBuf> {
    let prepared = |state: &ReleaseState| match &state.preparation {
        Preparation::Prepared(prepared) => Some(prepared.tree.clone()),
        Preparation::Preparing | Preparation::Failed { .. } => None,
    };
    table.releases.values().filter_map(prepared).collect()
}
