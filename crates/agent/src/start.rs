//! The one way in which an instance is started, whoever asked for it: a sandbox, one message to its
//! parked init, and looking until it listens and is well.

use std::{net::Ipv4Addr, num::NonZeroU64, sync::Arc, time::Duration};

use minato_model::{
    code::Code,
    ids::{InstanceId, ReleaseKey},
    manifest::Resources,
    node::Phases,
    route::Endpoint,
};
use minato_network::{Listening, NodeNetwork, Probe};
use minato_runtime::{
    crash,
    keeper::{Client, MakeError},
    sandbox::{Ordered, Sandbox, StartError},
    spec::{Binding, Limits, SandboxSpec, Start},
};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::{
    adopt::Tag,
    decide::DrainCause,
    drain, health, identity,
    life::{Fault, Stop, fault_of},
    look::{self, Unopened, Unseen},
    metrics::Started,
    node::Node,
    pool::{self, Parked, Pool},
    prepare::{Prepared, whole},
    slice,
    table::{Orders, Phase, Record},
};

/// From the beginning of a start until the instance must listen and be well.
const READY_MAX: Duration = Duration::from_secs(60);
/// Who has listened on loopback only for so long means it.
const LOOPBACK_MAX: Duration = Duration::from_secs(2);
/// The first looks, from a thread of their own: a timer of the runtime is no finer than a millisecond,
/// and many programs listen before that.
const FIRST: Duration = Duration::from_millis(10);
/// The pause between the first two of these; each is a quarter longer than the one before.
const FIRST_PAUSE: Duration = Duration::from_micros(60);
/// Then it is looked every millisecond, this long.
const EAGER: Duration = Duration::from_millis(100);
/// Then with pauses of at most this.
const PAUSE_MAX: Duration = Duration::from_millis(50);
/// Who has waited so long for its turn gets another certificate: some of the first one's life is over.
const LATE: Duration = Duration::from_secs(1);
/// The size at which a log file is turned over.
const LOG_MAX: u64 = 8 << 20;

/// What a sandbox is made of and what runs in it.
struct Plan {
    client: Client,
    network: NodeNetwork,
    sandbox: SandboxSpec,
    start: Start,
    port: u16,
    begun: Instant,
}

/// Until when an instance must have been seen listening.
#[derive(Clone, Copy)]
struct Deadline {
    at: Instant,
    /// It ran before this server did.
    adopted: bool,
}

/// What a start has come to.
struct Launched {
    pid: u32,
    phases: Phases,
    port: u16,
    probe: Option<Probe>,
    /// It was seen to listen already.
    listens: bool,
    /// Requests go to it already.
    admitted: bool,
}

/// A start whose init has its order.
struct Ordering {
    ordered: Ordered,
    /// Of the start, until the sandbox was there.
    taken: Duration,
    port: u16,
    probe: Option<Probe>,
}

/// Starts an instance that the table has, until requests go to it.
pub(crate) async fn start(
    node: &Arc<Node>,
    id: &InstanceId,
    key: &ReleaseKey,
    prepared: &Prepared,
    parked: Option<Parked>,
    orders: &mut watch::Receiver<Orders>,
) -> Result<(), Stop> {
    let pooled = parked.is_some();
    // A sandbox that was there ends as any other; of one that never was no keeper tells.
    let undone = |stop| if pooled { stop } else { unmade(node, id, stop) };
    let plan = || plan(node, id, key, prepared).map_err(|fault| undone(Stop::Fault(fault)));
    let planned = plan()?;
    let (address, begun) = (planned.sandbox.address, planned.begun);
    let waiting = Instant::now();
    let slot = tokio::select! {
        slot = node.slots.enter(key) => slot,
        stop = unwanted(orders) => return Err(undone(stop)),
    };
    let waited = waiting.elapsed();
    let planned = if waited >= LATE { plan()? } else { planned };
    crash::point("start.begun");
    node.routing.introduce(id, &key.service, address);
    let busy = node.pool.busy();
    let launching = match parked {
        // Giving the order takes less than waking a thread that does.
        Some(Parked { sandbox, probe, .. }) => {
            order(planned, sandbox, Some(probe)).map(|ordering| Launching::Ordered(Box::new(ordering)))
        }
        None => Ok(Launching::Planned(Box::new(planned))),
    };
    // Said while the init does its part.
    let asked_by = node.table().instances.get_mut(id).map(|record| {
        record.slot_ms = Some(milliseconds(waited));
        record.pooled = Some(pooled);
        record.asked_by.clone()
    });
    let how = if pooled { "a sandbox that was made ahead is taken" } else { "its sandbox is made" };
    node.record("instance_starting", key, id, how, json!({ "asked_by": asked_by }));
    let (of, instance, release) = (Arc::clone(node), id.clone(), key.clone());
    let launching = tokio::task::spawn_blocking(move || {
        let mut launched = launching?.launched()?;
        // What the program does now takes as long as it takes: others may start.
        drop(slot);
        launched.look(&of.pool);
        launched.note(&of, &instance);
        if launched.listens && health::configured(&of, &release).is_none() {
            // From here: every change of threads is time in which nobody is answered.
            launched.phases.listening = Some(milliseconds(begun.elapsed()));
            admit(&of, &instance, &release, launched.phases, true);
            launched.admitted = true;
        }
        Ok(launched)
    });
    let launched = launching.await;
    drop(busy);
    let launched = match launched {
        Ok(Ok(launched)) => launched,
        Ok(Err(NotLaunched::Make(error @ MakeError::Busy { .. }))) => {
            // Who had the address before isn't quite gone: another one is as good.
            return Err(unmade(node, id, Stop::Unlucky(Fault::new(Code::NodeFault, whole(&error)))));
        }
        Ok(Err(NotLaunched::Make(error))) => {
            return Err(unmade(node, id, Stop::Fault(Fault::new(Code::NodeFault, whole(&error)))));
        }
        Ok(Err(NotLaunched::Start(error))) => {
            if matches!(error, StartError::Root { .. }) {
                // Whatever became of the tree: the next start has one that was looked at anew.
                slice::prepare_again(node, key);
            }
            let gone = matches!(error, StartError::Gone);
            return Err(match start_fault(error, orders).await {
                // It died while it waited for somebody, whoever that would have been.
                Stop::Fault(fault) if pooled && gone && fault.code == Code::NodeFault => Stop::Unlucky(fault),
                stop @ (Stop::Drain(_) | Stop::Fault(_) | Stop::Unlucky(_) | Stop::Ended(_)) => stop,
            });
        }
        Err(panicked) => return Err(Stop::Fault(Fault::new(Code::NodeFault, panicked.to_string()))),
    };
    if launched.admitted {
        return Ok(());
    }
    until_ready(node, id, key, launched, begun, orders).await
}

/// Takes over an instance that an earlier server started.
pub(crate) async fn adopt(
    node: &Arc<Node>,
    id: &InstanceId,
    key: &ReleaseKey,
    pid: u32,
    orders: &mut watch::Receiver<Orders>,
) -> Result<(), Stop> {
    let Some(address) = node.table().instances.get(id).map(|record| record.address) else {
        return Err(Stop::Fault(Fault::new(Code::NodeFault, "it isn't in the node's table")));
    };
    node.routing.introduce(id, &key.service, address);
    still_wanted(orders)?;
    let probe = tokio::task::spawn_blocking(move || look::open(pid, address).ok()).await.ok().flatten();
    crash::point("adopt.probed");
    let phases = node.table().instances.get(id).map(|record| record.phases).unwrap_or_default();
    until_ready(
        node,
        id,
        key,
        Launched { pid, phases, probe, port: 0, listens: false, admitted: false },
        Instant::now(),
        orders,
    )
    .await?;
    crash::point("adopt.done");
    Ok(())
}

/// Waits until the instance listens and is well, then lets requests go to it.
async fn until_ready(
    node: &Arc<Node>,
    id: &InstanceId,
    key: &ReleaseKey,
    launched: Launched,
    begun: Instant,
    orders: &mut watch::Receiver<Orders>,
) -> Result<(), Stop> {
    let Launched { pid, mut phases, probe, listens, .. } = launched;
    let Some((address, port)) = node.table().instances.get(id).map(|record| (record.address, record.port))
    else {
        return Err(Stop::Fault(Fault::new(Code::NodeFault, "it isn't in the node's table")));
    };
    // Who never was executed by this server was adopted.
    let deadline = Deadline { at: Instant::now() + READY_MAX, adopted: phases.executed.is_none() };
    let listening = if listens {
        Ok(())
    } else {
        let say = |why: &str| look::say_unseen(node, id, key, why);
        listening(probe, Place { pid, address, port }, deadline, say, orders).await
    };
    if matches!(&listening, Err(Stop::Fault(fault)) if fault.code == Code::ListensOnLoopback)
        && let Some(record) = node.table().instances.get_mut(id)
    {
        record
            .findings
            .push(format!("it listens on port {port} of 127.0.0.1 only: make it listen on 0.0.0.0"));
    }
    listening?;
    health::first(node, (id, key), address, port, deadline.at, orders).await?;
    still_wanted(orders)?;
    let cold = phases.executed.is_some() && phases.listening.is_none();
    if cold {
        phases.listening = Some(milliseconds(begun.elapsed()));
    }
    admit(node, id, key, phases, cold);
    Ok(())
}

/// Lets requests go to an instance, and says so.
fn admit(node: &Arc<Node>, id: &InstanceId, key: &ReleaseKey, phases: Phases, cold: bool) {
    let known = |record: &Record| (record.address, record.port, record.pooled, record.pid);
    let Some((address, port, pooled, pid)) = node.table().instances.get(id).map(known) else { return };
    // Without it the edge goes by the address.
    if let Some(Ok(namespace)) = pid.map(look::namespace) {
        node.routing.reach(id, namespace.into());
    }
    let protocol = health::protocol(node, key);
    node.routing.admit(Endpoint {
        instance: id.clone(),
        release: key.clone(),
        address,
        port,
        cold: cold.then_some(phases),
        pooled,
        zone: node.zone.clone(),
        protocol,
    });
    crash::point("start.ready");
    let mut table = node.table();
    let (mut asked_by, mut slot_ms, mut certificate_ms, mut pooled) = (String::new(), None, None, None);
    if let Some(record) = table.instances.get_mut(id) {
        (slot_ms, certificate_ms, pooled) = (record.slot_ms, record.certificate_ms, record.pooled);
        record.phase = Phase::Ready { since: Instant::now() };
        record.first_ready.get_or_insert_with(Instant::now);
        record.phases = phases;
        "requests go to it".clone_into(&mut record.reason);
        asked_by.clone_from(&record.asked_by);
    }
    if let Some(state) = table.releases.get_mut(key) {
        state.backoff.ready();
        (state.replacing, state.refused, state.unlucky) = (false, None, 0);
    }
    drop(table);
    node.signals.changed(&key.service);
    if cold {
        node.metrics.started(Started { phases, slot_ms, pooled });
    }
    let reason = if cold { "it listens, and requests go to it" } else { "it ran already, and was adopted" };
    let data = json!({
        "phases": phases,
        "asked_by": asked_by,
        "slot_ms": slot_ms,
        "certificate_ms": certificate_ms,
        "pooled": pooled,
    });
    node.record("instance_ready", key, id, reason, data);
}

/// Everything that is known before the start, its certificate included.
fn plan(node: &Node, id: &InstanceId, key: &ReleaseKey, prepared: &Prepared) -> Result<Plan, Fault> {
    let gone = |reason: &str| Fault::new(Code::NodeFault, reason);
    let identity = identity::certify(node, id, key)?;
    let keeper = node.keeper().ok_or_else(|| gone("the keeper is gone; it is being started again"))?;
    let table = node.table();
    let record = table.instances.get(id).ok_or_else(|| gone("it isn't in the node's table"))?;
    let state = table.releases.get(key).ok_or_else(|| gone("its release is gone"))?;
    let spec = &state.release.spec;
    let id_range_start = keeper.ids.range(record.range).ok_or_else(|| gone("no range of ids is left"))?;
    let recipe = &prepared.recipe;
    let sandbox = SandboxSpec {
        instance: id.clone(),
        address: record.address,
        plan: node.plan,
        id_range_start,
        hostname: id.to_string(),
        limits: limits(&spec.resources),
        scratch: spec.resources.scratch,
        dns: node.plan.gateway(),
        log: record.log.clone(),
        log_max: LOG_MAX,
    };
    let start = Start {
        root: prepared.tree.clone(),
        argv: recipe.process.argv.clone(),
        env: recipe.environment(key, record.port, id),
        cwd: recipe.process.cwd.clone(),
        uid: recipe.uid,
        gid: recipe.gid,
        groups: recipe.groups.clone(),
        writable: recipe.process.volumes.clone(),
        scratch: spec.resources.scratch,
        files: spec.resources.files,
        init: spec.init,
        identity,
        tag: Tag::of(record).encode(),
    };
    let network = NodeNetwork { id: node.id, plan: node.plan };
    Ok(Plan { client: keeper.client, network, sandbox, start, port: record.port, begun: record.begun })
}

/// What the control group of an instance is given.
pub(crate) fn limits(resources: &Resources) -> Limits {
    Limits {
        memory: resources.memory,
        pids: resources.pids,
        cpu_millis: resources.cpu_millis,
        cpu_max_millis: resources.cpu_max_millis,
    }
}

enum NotLaunched {
    Make(MakeError),
    Start(StartError),
}

/// A start that has its turn.
enum Launching {
    Ordered(Box<Ordering>),
    /// Its sandbox is to be made.
    Planned(Box<Plan>),
}

impl Launching {
    /// The part that blocks, until the program was executed: a millisecond with a sandbox that was made
    /// ahead, some more without.
    fn launched(self) -> Result<Launched, NotLaunched> {
        let ordering = match self {
            Self::Ordered(ordering) => *ordering,
            Self::Planned(plan) => {
                let (sandbox, probe) =
                    pool::make(&plan.client, &plan.network, &plan.sandbox).map_err(NotLaunched::Make)?;
                order(*plan, sandbox, probe)?
            }
        };
        let Ordering { ordered, taken, port, probe } = ordering;
        let running = ordered.executed().map_err(NotLaunched::Start)?;
        crash::point("start.executed");
        let since = |micros: u64| Some(milliseconds(taken + Duration::from_micros(micros)));
        let phases = Phases {
            taken: Some(milliseconds(taken)),
            mounted: since(running.phases.mounted),
            executed: since(running.phases.executed),
            listening: None,
        };
        Ok(Launched { pid: running.pid, phases, port, probe, listens: false, admitted: false })
    }
}

/// Says to a sandbox for whom it is, and what to execute.
fn order(plan: Plan, mut sandbox: Sandbox, probe: Option<Probe>) -> Result<Ordering, NotLaunched> {
    let taken = plan.begun.elapsed();
    crash::point("start.taken");
    sandbox.bind(Binding::of(&plan.sandbox));
    let ordered = sandbox.order(&plan.start).map_err(NotLaunched::Start)?;
    Ok(Ordering { ordered, taken, port: plan.port, probe })
}

impl Launched {
    /// What is known of it now.
    fn note(&self, node: &Node, id: &InstanceId) {
        if let Some(record) = node.table().instances.get_mut(id) {
            record.pid = Some(self.pid);
            record.phases = self.phases;
            "waiting until it listens".clone_into(&mut record.reason);
        }
    }

    /// The first looks whether it listens; less often while there are more starts, which all need the
    /// processors.
    fn look(&mut self, pool: &Pool) {
        let Some(probe) = &mut self.probe else { return };
        // As short as they are said to be: a thread's slack would be most of the first ones.
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1_000)).ok();
        let begun = Instant::now();
        let mut pause = FIRST_PAUSE;
        while begun.elapsed() < FIRST {
            if matches!(probe.look(self.port), Ok(Listening::Yes)) {
                self.listens = true;
                return;
            }
            #[expect(
                clippy::disallowed_methods,
                reason = "this thread is a blocking one, for a few milliseconds"
            )]
            std::thread::sleep(pause * pool.starts().clamp(1, 8));
            pause = pause * 5 / 4;
        }
    }
}

/// Where an instance listens once it does.
#[derive(Clone, Copy)]
struct Place {
    pid: u32,
    address: Ipv4Addr,
    port: u16,
}

/// Looks until it listens. The probe, which keeps the instance's network alive, ends with this. Who ran
/// before (`deadline.adopted`) isn't ended for what the node can't see.
async fn listening(
    mut probe: Option<Probe>,
    place: Place,
    deadline: Deadline,
    mut say: impl FnMut(&str),
    orders: &mut watch::Receiver<Orders>,
) -> Result<(), Stop> {
    let Place { pid, address, port } = place;
    let begun = Instant::now();
    let mut pause = Duration::from_millis(1);
    let (mut loopback, mut unseen) = (None, Unseen::default());
    loop {
        let now = Instant::now();
        let mut unknown = None;
        if probe.is_none() {
            let opened = tokio::task::spawn_blocking(move || look::open(pid, address)).await;
            match opened.unwrap_or_else(|panicked| Err(Unopened::Unknown(panicked.to_string()))) {
                Ok(opened) => probe = Some(opened),
                Err(Unopened::Gone) => return Err(vanished(orders).await),
                Err(Unopened::Unknown(why)) => unknown = Some(why),
            }
        }
        match probe.as_mut().map(|probe| probe.look(port)) {
            Some(Ok(Listening::Yes)) => return Ok(()),
            Some(Ok(Listening::No)) => loopback = None,
            Some(Ok(Listening::Loopback)) => loopback = loopback.or(Some(now)),
            Some(Err(error)) => unknown = Some(whole(&error)),
            None => {}
        }
        if loopback.is_some_and(|since| now.duration_since(since) >= LOOPBACK_MAX) {
            let reason = format!("it listens on port {port} of 127.0.0.1 only");
            return Err(Stop::Fault(Fault::new(Code::ListensOnLoopback, reason)));
        }
        if look::lives(pid) == Some(false) {
            drop(probe);
            return Err(vanished(orders).await);
        }
        if unseen.note(unknown.is_none(), now) {
            say(unknown.as_deref().unwrap_or_default());
        }
        if now >= deadline.at
            && let Some(fault) = not_listening(port, unknown, deadline.adopted)
        {
            return Err(Stop::Fault(fault));
        }
        if now.duration_since(begun) >= EAGER {
            pause = PAUSE_MAX.min(pause * 3 / 2);
        }
        pause_for(pause, orders).await?;
    }
}

/// What it means that an instance wasn't seen listening in its time; `None`: it is given more.
fn not_listening(port: u16, unknown: Option<String>, adopted: bool) -> Option<Fault> {
    match unknown {
        None => {
            let seconds = READY_MAX.as_secs();
            let why =
                format!("nothing listens on port {port} after {seconds} s; $PORT says which port is meant");
            Some(Fault::new(Code::NotListening, why))
        }
        Some(_) if adopted => None,
        Some(why) => Some(Fault::new(Code::NodeFault, format!("it can't be seen whether it listens: {why}"))),
    }
}

/// A pause that ends early when the instance is told something that ends its start.
pub(crate) async fn pause_for(pause: Duration, orders: &mut watch::Receiver<Orders>) -> Result<(), Stop> {
    tokio::select! {
        () = sleep(pause) => Ok(()),
        stop = unwanted(orders) => Err(stop),
    }
}

/// The process is gone: the keeper tells how it ended.
async fn vanished(orders: &mut watch::Receiver<Orders>) -> Stop {
    match tokio::time::timeout(Duration::from_secs(10), drain::wait(orders, |_| false)).await {
        Ok(Some(end)) => Stop::Ended(end),
        Ok(None) | Err(_) => Stop::Fault(Fault::new(
            Code::NodeFault,
            "its process is gone, and the keeper doesn't tell how it ended",
        )),
    }
}

/// Resolves when the instance is not to be started any more.
pub(crate) async fn unwanted(orders: &mut watch::Receiver<Orders>) -> Stop {
    drain::wait(orders, |orders| orders.drain.is_some()).await;
    stop_of(orders)
}

/// Whether nothing has ended it or asked for its end.
fn still_wanted(orders: &watch::Receiver<Orders>) -> Result<(), Stop> {
    let over = {
        let orders = orders.borrow();
        orders.ended.is_some() || orders.drain.is_some()
    };
    if over { Err(stop_of(orders)) } else { Ok(()) }
}

/// Nothing was made: no keeper will ever tell that it ended.
fn unmade(node: &Node, id: &InstanceId, stop: Stop) -> Stop {
    node.order(id, |orders| orders.unmade = true);
    stop
}

/// What the orders say to do.
pub(crate) fn stop_of(orders: &watch::Receiver<Orders>) -> Stop {
    let orders = orders.borrow();
    match &orders.ended {
        Some(end) => Stop::Ended(end.clone()),
        None => Stop::Drain(orders.drain.unwrap_or(DrainCause::Retired)),
    }
}

/// Why the program wasn't executed.
async fn start_fault(error: StartError, orders: &mut watch::Receiver<Orders>) -> Stop {
    let code = match &error {
        StartError::Missing { .. }
        | StartError::NoInterpreter { .. }
        | StartError::NotExecutable { .. }
        | StartError::WrongFormat { .. }
        | StartError::Directory { .. } => Code::EntrypointMissing,
        StartError::Root { .. } | StartError::Invalid(_) | StartError::Step { .. } => Code::NodeFault,
        StartError::Gone => match vanished(orders).await {
            Stop::Ended(end) if end.oom => return Stop::Fault(fault_of(&end)),
            Stop::Ended(_) | Stop::Drain(_) | Stop::Fault(_) | Stop::Unlucky(_) => Code::NodeFault,
        },
    };
    Stop::Fault(Fault::new(code, whole(&error)))
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}
