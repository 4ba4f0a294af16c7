//! What `minato top` shows: the node, the pool, the starts, and what each instance uses and carries.
//!
//! A look costs a handful of small files an instance, and keeps what only rises for the next one, so
//! that shares and rates can be told. Looks that come close together share one.

mod processes;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use minato_model::{
    ids::{InstanceId, ServiceKey},
    routing::{Flow, Traffic},
    top::{InstanceTop, Machine, PhaseTop, Pool, Process, ServiceTop, Starts, Top, Used},
};
use minato_runtime::usage::{Reader, Usage};
use tokio::time::{Instant, sleep};

use self::processes::Counted;
use crate::{
    metrics::{PHASES, Started},
    node::Node,
    prepare::whole,
    table::{Record, Table},
};

/// A look this soon after another shows the same: more would only measure themselves.
const SAME: Duration = Duration::from_millis(100);
/// A look this long after another has nothing to compare with, and takes two.
const STALE: Duration = Duration::from_secs(15);
/// The time between those two.
const BETWEEN: Duration = Duration::from_millis(200);

/// The looks at a node, one after another.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    reader: Option<Arc<Reader>>,
    last: Option<Last>,
}

/// The look before.
#[derive(Debug)]
struct Last {
    at: Instant,
    counters: Counters,
    top: Top,
}

/// What only rises, and is compared with the look before: processor time in microseconds, requests.
#[derive(Debug, Default)]
struct Counters {
    server: u64,
    /// Another keeper begins at zero again.
    keeper: Option<(u32, u64)>,
    instances: BTreeMap<InstanceId, (Option<u64>, u64)>,
    services: BTreeMap<ServiceKey, Flow>,
}

/// What the pool says of itself.
#[derive(Debug, Default)]
pub(crate) struct PoolFigures {
    /// How many sandboxes there should be.
    pub(crate) target: u32,
    /// Starts that found one.
    pub(crate) taken: u64,
    /// Starts that found none, and made their own.
    pub(crate) missed: u64,
    /// What making one took lately, in milliseconds: the median.
    pub(crate) preparation_ms: Option<f64>,
    /// The first process of each that is ready.
    pub(crate) parked: Vec<u32>,
}

/// What the table and the edge know.
struct Known {
    instances: Vec<InstanceTop>,
    /// Every service that has a slice here, with what waits for it.
    waiting: BTreeMap<ServiceKey, u32>,
    /// What has come of its requests.
    flows: BTreeMap<ServiceKey, Flow>,
    starts: Starts,
    pool: PoolFigures,
    keeper: Option<u32>,
}

/// What the kernel knows.
#[derive(Default)]
struct Read {
    machine: Machine,
    server: Counted,
    keeper: Option<Counted>,
    usage: Vec<Option<Usage>>,
    pool: Pool,
}

/// A look at the node.
pub(crate) async fn top(node: &Node) -> Top {
    // One at a time: who comes meanwhile waits, and is shown the same.
    let mut looks = node.looks.lock().await;
    if let Some(last) = looks.last.as_ref().filter(|last| last.at.elapsed() < SAME) {
        return last.top.clone();
    }
    if looks.last.as_ref().is_none_or(|last| last.at.elapsed() > STALE) {
        looks.last = None;
        look(node, &mut looks).await;
        sleep(BETWEEN).await;
    }
    look(node, &mut looks).await
}

async fn look(node: &Node, looks: &mut Looks) -> Top {
    let known = known(node);
    let reader = looks.reader(node);
    let ids: Vec<InstanceId> = known.instances.iter().map(|instance| instance.id.clone()).collect();
    let (keeper, parked) = (known.keeper, known.pool.parked.clone());
    let group = format!("/minato-{}/", node.id);
    let read =
        tokio::task::spawn_blocking(move || Read::now(reader.as_deref(), &ids, keeper, &parked, &group));
    // Only a fault of this code breaks it off, and then there is nothing to show.
    let read = read.await.unwrap_or_default();
    let at = Instant::now();
    let before = looks.last.as_ref().map(|last| (&last.counters, at.duration_since(last.at)));
    let counters = Counters::of(&known, &read);
    let top = shown(node, known, read, &counters, before);
    looks.last = Some(Last { at, counters, top: top.clone() });
    top
}

impl Looks {
    fn reader(&mut self, node: &Node) -> Option<Arc<Reader>> {
        if self.reader.is_none() {
            match Reader::open(&node.id.to_string()) {
                Ok(reader) => self.reader = Some(Arc::new(reader)),
                Err(error) => tracing::warn!(error = %whole(&error), "control groups not readable"),
            }
        }
        self.reader.clone()
    }
}

impl Node {
    /// What the pool of sandboxes is and did.
    pub(crate) fn pool_figures(&self) -> PoolFigures {
        self.pool.figures()
    }
}

fn known(node: &Node) -> Known {
    let ids: Vec<InstanceId> = node.table().instances.keys().cloned().collect();
    // The edge is asked without holding the table.
    let traffic: Vec<Traffic> = ids.iter().map(|id| node.routing.traffic(id)).collect();
    let releases: Vec<_> = node.table().releases.keys().cloned().collect();
    let mut waiting: BTreeMap<ServiceKey, u32> =
        node.table().slices.keys().map(|key| (key.clone(), 0)).collect();
    let mut flows: BTreeMap<ServiceKey, Flow> = BTreeMap::new();
    for release in releases {
        *waiting.entry(release.service.clone()).or_default() += node.routing.load(&release).waiting;
        let flow = flows.entry(release.service.clone()).or_default();
        *flow = std::mem::take(flow).and(node.routing.flow(&release));
    }
    let pool = node.pool_figures();
    let keeper = node.keeper().and_then(|keeper| keeper.client.pid());
    let starts = starts(node);
    let table = node.table();
    let row = |(id, traffic): (&InstanceId, _)| {
        table.instances.get(id).map(|record| instance(node, &table, record, traffic))
    };
    let mut instances: Vec<InstanceTop> = ids.iter().zip(traffic).filter_map(row).collect();
    instances.sort_by(|one, other| {
        let place = |instance: &InstanceTop| (instance.app.clone(), instance.service.clone());
        place(one).cmp(&place(other)).then(other.age_ms.cmp(&one.age_ms))
    });
    Known { instances, waiting, flows, starts, pool, keeper }
}

fn instance(node: &Node, table: &Table, record: &Record, traffic: Traffic) -> InstanceTop {
    let resources = table.releases.get(&record.release).map(|state| &state.release.spec.resources);
    let seen = record.seen(&node.name, traffic);
    InstanceTop {
        age_ms: millis(node.now().since(seen.started_at)),
        id: seen.id,
        app: seen.app,
        service: seen.service,
        release: seen.release,
        state: seen.state,
        memory_max: resources.map_or(0, |resources| resources.memory),
        pids_max: resources.map_or(0, |resources| resources.pids),
        used: Used {
            requests: traffic.requests,
            in_flight: traffic.in_flight,
            streams: traffic.streams,
            errors: traffic.errors,
            ..Used::default()
        },
    }
}

/// The starts of the last minute, and the slots now.
#[expect(clippy::cast_precision_loss, reason = "a number of starts")]
fn starts(node: &Node) -> Starts {
    let lately = node.metrics.lately();
    let (slots, slots_taken, waiting) = slots(node);
    let phases = std::iter::once("slot").chain(PHASES).enumerate().filter_map(|(index, phase)| {
        let milliseconds = |started: &Started| match index.checked_sub(1) {
            None => started.slot_ms,
            Some(index) => started.milliseconds().get(index).copied().flatten(),
        };
        let mut all: Vec<f64> = lately.iter().filter_map(milliseconds).collect();
        all.sort_by(f64::total_cmp);
        let (p50_ms, p99_ms) = (quantile(&all, 50)?, quantile(&all, 99)?);
        Some(PhaseTop { phase: phase.to_owned(), p50_ms, p99_ms })
    });
    Starts {
        ready: count(lately.len()),
        rate: lately.len() as f64 / crate::metrics::LATELY.as_secs_f64(),
        pooled: count(lately.iter().filter(|started| started.pooled == Some(true)).count()),
        slots,
        slots_taken,
        waiting,
        phases: phases.collect(),
    }
}

/// How many starts may go on at once, how many do, and how many wait for that.
pub(crate) fn slots(node: &Node) -> (u32, u32, u32) {
    node.slots.figures()
}

/// The value that so many of a hundred don't pass (nearest rank).
fn quantile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

impl Read {
    /// Reads all of it: some small files an instance, and the page tables of two processes.
    fn now(
        reader: Option<&Reader>,
        instances: &[InstanceId],
        keeper: Option<u32>,
        parked: &[u32],
        group: &str,
    ) -> Self {
        // One that is gone in between has no figures any more.
        let usage = |id| reader.and_then(|reader| reader.usage(id).ok());
        Self {
            machine: processes::machine(),
            server: processes::counted(std::process::id()).unwrap_or_default(),
            keeper: keeper.and_then(processes::counted),
            usage: instances.iter().map(usage).collect(),
            pool: processes::parked(parked, group),
        }
    }
}

impl Counters {
    fn of(known: &Known, read: &Read) -> Self {
        let instances = known.instances.iter().zip(&read.usage).map(|(instance, usage)| {
            let cpu = usage.map(|usage| usage.cpu_micros);
            (instance.id.clone(), (cpu, instance.used.requests))
        });
        Self {
            server: read.server.cpu_micros,
            keeper: read.keeper.as_ref().map(|keeper| (keeper.process.pid, keeper.cpu_micros)),
            instances: instances.collect(),
            services: known.flows.clone(),
        }
    }
}

/// All of it put together.
fn shown(
    node: &Node,
    known: Known,
    read: Read,
    counters: &Counters,
    before: Option<(&Counters, Duration)>,
) -> Top {
    let Known { mut instances, waiting, flows, starts, pool, .. } = known;
    for (instance, usage) in instances.iter_mut().zip(&read.usage) {
        let then = before.map(|(before, since)| (before.instances.get(&instance.id).copied(), since));
        fill(&mut instance.used, *usage, then);
    }
    let mut services = services(&instances, &waiting);
    for service in &mut services {
        let key = ServiceKey { app: service.app.clone(), service: service.service.clone() };
        let then = before.map(|(before, since)| (before.services.get(&key), since));
        flowed(service, flows.get(&key), then);
    }
    let at_rest = waiting.len().saturating_sub(services.len());
    let keeper = read.keeper.map(|keeper| {
        let then = before.and_then(|(before, since)| Some((before.keeper?, since)));
        let then = then.filter(|((pid, _), _)| *pid == keeper.process.pid);
        let cpu = then.map(|((_, then), since)| per_second(keeper.cpu_micros, then, since) / 1e6);
        Process { cpu, ..keeper.process }
    });
    let cpu = before.map(|(before, since)| per_second(counters.server, before.server, since) / 1e6);
    let missed_lately = starts.ready.saturating_sub(starts.pooled);
    Top {
        node: node.name.clone(),
        at: node.now(),
        since_ms: before.map(|(_, since)| millis(since)),
        machine: read.machine,
        server: Process { cpu, ..read.server.process },
        keeper,
        pool: Pool {
            ready: count(pool.parked.len()),
            target: pool.target,
            taken: pool.taken,
            missed: pool.missed,
            taken_lately: starts.pooled,
            missed_lately,
            preparation_ms: pool.preparation_ms,
            ..read.pool
        },
        starts,
        held: waiting.values().sum(),
        services,
        at_rest: count(at_rest),
        instances,
    }
}

/// What the kernel says of an instance; `then`: what it was at the look before, and how long ago. One
/// that wasn't there then began at zero.
fn fill(used: &mut Used, usage: Option<Usage>, then: Option<(Option<(Option<u64>, u64)>, Duration)>) {
    used.memory = usage.map(|usage| usage.memory);
    used.pids = usage.map(|usage| usage.pids);
    let Some((then, since)) = then else { return };
    let (cpu, requests) = then.unwrap_or((Some(0), 0));
    used.rate = Some(per_second(used.requests, requests, since));
    let cpu = usage.zip(cpu).map(|(usage, cpu)| per_second(usage.cpu_micros, cpu, since) / 1e6);
    used.cpu = cpu;
}

/// What came of a service's requests since the look before; of one that was unknown then, since ever.
#[expect(clippy::cast_precision_loss, reason = "requests between two looks")]
fn flowed(service: &mut ServiceTop, flow: Option<&Flow>, then: Option<(Option<&Flow>, Duration)>) {
    let Some(flow) = flow else { return };
    service.tripped = flow.tripped;
    let Some((before, since)) = then else { return };
    let lately = before.map_or_else(|| flow.clone(), |before| flow.clone().since(before));
    service.ended = Some(per_second(lately.requests, 0, since));
    service.retries = Some(per_second(lately.retries, 0, since));
    service.error_share = (lately.requests > 0).then(|| lately.errors as f64 / lately.requests as f64);
    (service.p50_ms, service.p99_ms) = (lately.quantile(0.5), lately.quantile(0.99));
}

#[expect(clippy::cast_precision_loss, reason = "what a process does between two looks")]
fn per_second(now: u64, then: u64, since: Duration) -> f64 {
    now.saturating_sub(then) as f64 / since.as_secs_f64().max(0.001)
}

/// The services of which something runs or waits.
fn services(instances: &[InstanceTop], waiting: &BTreeMap<ServiceKey, u32>) -> Vec<ServiceTop> {
    let mut services: BTreeMap<ServiceKey, ServiceTop> = BTreeMap::new();
    let row = |key: &ServiceKey| ServiceTop {
        app: key.app.clone(),
        service: key.service.clone(),
        instances: 0,
        ready: 0,
        tripped: 0,
        held: 0,
        ended: None,
        error_share: None,
        p50_ms: None,
        p99_ms: None,
        retries: None,
        used: Used::default(),
    };
    for instance in instances {
        let key = ServiceKey { app: instance.app.clone(), service: instance.service.clone() };
        let service = services.entry(key.clone()).or_insert_with(|| row(&key));
        service.instances += 1;
        service.ready += u32::from(instance.state == minato_model::inventory::InstanceState::Ready);
        service.used.add(&instance.used);
    }
    for (key, held) in waiting.iter().filter(|(_, held)| **held > 0) {
        services.entry(key.clone()).or_insert_with(|| row(key)).held = *held;
    }
    services.into_values().collect()
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((quantile(&hundred, 50), quantile(&hundred, 99)), (Some(50.0), Some(99.0)));
        assert_eq!((quantile(&[3.0], 50), quantile(&[3.0], 99)), (Some(3.0), Some(3.0)));
        assert_eq!(quantile(&[], 50), None);
    }

    #[test]
    fn shares_and_rates_are_told_from_the_second_look_on() {
        let usage = Some(Usage { cpu_micros: 900_000, memory: 7, pids: 2, ..Usage::default() });
        let mut used = Used { requests: 30, ..Used::default() };
        fill(&mut used, usage, None);
        assert_eq!((used.cpu, used.rate, used.memory, used.pids), (None, None, Some(7), Some(2)));
        fill(&mut used, usage, Some((Some((Some(400_000), 10)), Duration::from_secs(2))));
        assert_eq!((used.cpu, used.rate), (Some(0.25), Some(10.0)));
        fill(&mut used, usage, Some((None, Duration::from_secs(2))));
        assert_eq!((used.cpu, used.rate), (Some(0.45), Some(15.0)));
        // Its group is gone already, or the edge has forgotten it.
        fill(&mut used, None, Some((Some((Some(400_000), 40)), Duration::from_secs(2))));
        assert_eq!((used.cpu, used.rate, used.memory), (None, Some(0.0), None));
    }
}
