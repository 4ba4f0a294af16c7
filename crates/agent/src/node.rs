//! What every part of the agent has in hand, and the node's loop: the one place where decisions
//! become instances and drains.

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
    routing::{Load, Refusal, Routing},
    time::Moment,
};
use minato_network::NodeId8;
use minato_runtime::{ids::Ids, keeper::Client};
use minato_state::State;
use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Clock,
    decide::{self, Candidate, DrainCause, Envelope, Start, View},
    life,
    metrics::Metrics,
    prepare::Trees,
    table::{Orders, Phase, Preparation, Record, ReleaseState, Table},
    top::Looks,
};

/// How often the loop looks at everything, asked or not.
const TICK: Duration = Duration::from_secs(1);
/// How often trees are looked through for those that nobody needs.
const SWEEP: Duration = Duration::from_secs(60);

/// What every part of the agent has in hand.
pub(crate) struct Node {
    pub(crate) name: NodeName,
    pub(crate) data: PathBuf,
    pub(crate) plan: AddressPlan,
    pub(crate) id: NodeId8,
    pub(crate) state: Arc<dyn State>,
    pub(crate) routing: Arc<dyn Routing>,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) clock: Clock,
    pub(crate) trees: Arc<Trees>,
    pub(crate) metrics: Metrics,
    pub(crate) signals: Signals,
    /// Starts that go on at the same time, first come first served.
    pub(crate) slots: Arc<Semaphore>,
    /// How many there are of them.
    pub(crate) slots_all: u32,
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
    wakes: BTreeMap<ReleaseKey, u32>,
    suspects: BTreeSet<InstanceId>,
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
        for id in &told.suspects {
            node.order(id, |orders| orders.suspected += 1);
        }
        let mut services = told.services;
        services.extend(told.wakes.keys().map(|release| release.service.clone()));
        if ticked {
            services.extend(node.table().releases.keys().map(|key| key.service.clone()));
        }
        for service in &services {
            steer(&node, service, &told.wakes, ticked);
        }
        if ticked && swept.elapsed() >= SWEEP {
            swept = Instant::now();
            let (trees, needed) = (Arc::clone(&node.trees), needed(&node.table()));
            node.tasks.spawn(async move { trees.sweep(needed).await });
        }
    }
}

/// Makes each release of a service what the decision about it says.
fn steer(node: &Arc<Node>, service: &ServiceKey, wakes: &BTreeMap<ReleaseKey, u32>, tick: bool) {
    if node.table().handing_over {
        return;
    }
    let keys = node.table().releases_of(service);
    for key in keys {
        let load = node.routing.load(&key);
        let in_flight = in_flight(node, &key);
        let woken = wakes.get(&key).copied().unwrap_or(0);
        let mut table = node.table();
        let view = view(&table, &key, load, woken, tick, &in_flight, node.keeper().is_some());
        let decision = decide::decide(&view);
        let begun = decision.start.map_or_else(Vec::new, |start| begin(node, &mut table, &key, start));
        for (id, cause) in &decision.drain {
            if let Some(record) = table.instances.get(id) {
                record.orders.send_modify(|orders| orders.drain = Some(*cause));
            }
        }
        let refusal = change_of_refusal(&mut table, &key);
        forget_release(&mut table, &key);
        drop(table);
        if let Some(refusal) = refusal {
            node.routing.refuse(&key, refusal);
        }
        for birth in begun {
            node.tasks.spawn(life::live(Arc::clone(node), birth));
        }
        note_idle(node, &key, &decision.drain);
    }
}

/// What the instances of a release have in flight, asked of the edge without holding the table.
fn in_flight(node: &Node, key: &ReleaseKey) -> BTreeMap<InstanceId, u32> {
    let ids: Vec<InstanceId> = node.table().of_release(key).map(|record| record.id.clone()).collect();
    ids.into_iter().map(|id| (id.clone(), node.routing.traffic(&id).in_flight)).collect()
}

fn view(
    table: &Table,
    key: &ReleaseKey,
    load: Load,
    woken: u32,
    tick: bool,
    in_flight: &BTreeMap<InstanceId, u32>,
    keeper: bool,
) -> View {
    let slice = table.slices.get(&key.service);
    let share = slice.and_then(|slice| slice.share(key.number).map(|share| (slice, share)));
    let envelope = share.filter(|_| !table.stopping).map(|(slice, share)| Envelope {
        min: share.min,
        max: share.max,
        weight: share.weight,
        concurrency: slice.route.concurrency,
        idle: slice.idle,
    });
    let state = table.releases.get(key);
    let now = Instant::now();
    let startable = state.is_some_and(|state| {
        matches!(state.preparation, Preparation::Prepared(_)) && state.backoff.waits(now).is_zero()
    });
    // One that is out of routing is as good as gone: what starts now takes its place.
    let unhealthy = table.of_release(key).any(|record| matches!(record.phase, Phase::Unhealthy { .. }));
    let candidates = table.of_release(key).filter(|record| record.orders.borrow().drain.is_none());
    let instances = candidates.filter_map(|record| {
        let ready = match record.phase {
            Phase::Starting => None,
            Phase::Ready { since } => Some(now.duration_since(since)),
            Phase::Unhealthy { .. } | Phase::Draining => return None,
        };
        let in_flight = in_flight.get(&record.id).copied().unwrap_or(0);
        Some(Candidate { id: record.id.clone(), ready, in_flight })
    });
    View {
        envelope,
        load,
        woken,
        startable: startable && keeper,
        replacing: unhealthy || state.is_some_and(|state| state.replacing),
        tick,
        instances: instances.collect(),
    }
}

/// Enters instances into the table; their tasks do the rest.
fn begin(node: &Node, table: &mut Table, key: &ReleaseKey, start: Start) -> Vec<life::Birth> {
    let mut births = Vec::new();
    for _ in 0..start.count {
        match life::Birth::start(node, table, key, start.asked_by.as_str()) {
            Some(birth) => births.push(birth),
            None => {
                tracing::warn!(release = %key, "no address or range of ids is free: nothing more is started");
                break;
            }
        }
    }
    births
}

/// What the edge is to be told anew about whether a release's requests are refused.
fn change_of_refusal(table: &mut Table, key: &ReleaseKey) -> Option<Option<Refusal>> {
    let refusal = refusal(table, key);
    let state = table.releases.get_mut(key)?;
    let reason = refusal.as_ref().map(|refusal| (refusal.code, refusal.instance.clone()));
    let changed = state.refused != reason;
    state.refused = reason;
    changed.then_some(refusal)
}

/// Why no request of a release can be answered now. While one instance serves or starts, some can.
fn refusal(table: &Table, key: &ReleaseKey) -> Option<Refusal> {
    let wanted = table.slices.get(&key.service)?.share(key.number)?.max > 0;
    let coming = |record: &Record| matches!(record.phase, Phase::Starting | Phase::Ready { .. });
    if !wanted || table.of_release(key).any(coming) {
        return None;
    }
    let state = table.releases.get(key)?;
    if let Preparation::Failed { code, .. } = &state.preparation {
        return Some(Refusal { code: *code, instance: None, retry_after: Duration::from_secs(5) });
    }
    let wait = state.backoff.waits(Instant::now());
    let failing = state.backoff.failing().filter(|_| !wait.is_zero())?;
    Some(Refusal { code: failing.code, instance: Some(failing.instance.clone()), retry_after: wait })
}

/// A release that no slice names and no instance has is forgotten.
fn forget_release(table: &mut Table, key: &ReleaseKey) {
    let named = table.slices.get(&key.service).is_some_and(|slice| slice.share(key.number).is_some());
    if !named && table.of_release(key).next().is_none() {
        table.releases.remove(key);
    }
}

/// The trees that a release or an instance needs.
fn needed(table: &Table) -> BTreeSet<PathBuf> {
    let prepared = |state: &ReleaseState| match &state.preparation {
        Preparation::Prepared(prepared) => Some(prepared.tree.clone()),
        Preparation::Preparing | Preparation::Failed { .. } => None,
    };
    table.releases.values().filter_map(prepared).collect()
}

fn note_idle(node: &Node, key: &ReleaseKey, drains: &[(InstanceId, DrainCause)]) {
    let Some((_, cause)) = drains.iter().find(|(_, cause)| *cause == DrainCause::Idle) else { return };
    let serving = |table: &Table| {
        table.of_release(key).any(|record| record.is_ready() && record.orders.borrow().drain.is_none())
    };
    if !serving(&node.table()) {
        let event = Event::new(node.now(), "scale_to_zero", cause.reason());
        node.journal.record(event.with_service(&key.service).with_release(key.number));
    }
}
