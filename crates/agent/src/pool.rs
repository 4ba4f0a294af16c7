//! Sandboxes that are made before it is known for whom, so that a start is one message to one of them.
//!
//! The pool holds as many as the largest number of starts in one second of the last minute, a few at
//! least while anything could be started, none otherwise; it shrinks slowly. It is refilled one at a
//! time, and not while starts go on: they come first. A sandbox whose server is gone ends by itself.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use minato_model::ids::InstanceId;
use minato_network::{NodeNetwork, Probe, link};
use minato_runtime::{
    keeper::{Client, MakeError},
    sandbox::Sandbox,
    spec::{Limits, SandboxSpec},
};
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, sleep},
};

use crate::{
    life::draw_id,
    look::probe_in,
    node::Node,
    prepare::whole,
    table::{Preparation, Table},
    top::PoolFigures,
};

/// Parked while anything may be started: a service and what it calls.
const FEW: u32 = 4;
/// How long the largest number of starts counts.
const MEMORY: u64 = 60;
/// What is remembered of how long making one took.
const TIMES: usize = 64;
/// Nothing is made within so long of a start: what it started is about to answer its first request.
const QUIET: Duration = Duration::from_millis(5);
/// But if starts go on and on, one is made after so long.
const QUIET_MAX: Duration = Duration::from_millis(25);
/// Between tries when one could not be made; and a look at what there should be.
const TICK: Duration = Duration::from_secs(1);
/// Addresses that are tried, one after another, where former links aren't gone yet.
const TRIES: usize = 8;

/// What most releases have: then nothing is to be changed at the start.
pub(crate) const LIMITS: Limits = Limits { memory: 128 << 20, pids: 256, cpu_millis: 500, cpu_max_millis: 0 };
pub(crate) const SCRATCH: u64 = 64 << 20;

/// The node's pool.
#[derive(Debug)]
pub(crate) struct Pool {
    most: u32,
    state: Mutex<State>,
    changed: Notify,
    /// Starts between their sandbox and their program.
    busy: AtomicU32,
}

#[derive(Debug)]
struct State {
    parked: VecDeque<Parked>,
    /// Those that are on their way out, with their numbers, which nobody else may have until then.
    parting: BTreeMap<InstanceId, Numbers>,
    /// The one that is just made, and whether it was told already that it ended.
    making: Option<(InstanceId, bool)>,
    target: u32,
    /// Changes with the keeper: what was begun before is of no use.
    keeper: u64,
    closed: bool,
    starts: Starts,
    last_start: Option<Instant>,
    taken: u64,
    missed: u64,
    times: VecDeque<f64>,
}

/// What is lent of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Numbers {
    pub(crate) offset: u32,
    pub(crate) range: u32,
}

/// A sandbox that waits for a start.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) numbers: Numbers,
    pub(crate) sandbox: Sandbox,
    pub(crate) probe: Probe,
}

/// Starts by second.
#[derive(Debug)]
struct Starts {
    begun: Instant,
    seconds: VecDeque<(u64, u32)>,
}

/// While it is there a start goes on, and nothing is made.
#[derive(Debug)]
pub(crate) struct Busy<'a>(&'a Pool);

impl Pool {
    /// `most` 0: there is none, and every start makes its own.
    pub(crate) fn new(most: u32) -> Self {
        let state = State {
            parked: VecDeque::new(),
            parting: BTreeMap::new(),
            making: None,
            target: 0,
            keeper: 0,
            closed: false,
            starts: Starts { begun: Instant::now(), seconds: VecDeque::new() },
            last_start: None,
            taken: 0,
            missed: 0,
            times: VecDeque::new(),
        };
        Self { most, state: Mutex::new(state), changed: Notify::new(), busy: AtomicU32::new(0) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One for a start that begins now; `None`: it makes its own. Called with the table held, so that an
    /// end that is told meanwhile finds it in one of the two.
    pub(crate) fn take(&self) -> Option<Parked> {
        let mut state = self.state();
        let now = Instant::now();
        state.starts.note(now);
        state.last_start = Some(now);
        let parked = state.parked.pop_front();
        if parked.is_some() {
            state.taken += 1;
        } else {
            state.missed += 1;
        }
        drop(state);
        self.changed.notify_one();
        parked
    }

    /// A start goes on.
    pub(crate) fn busy(&self) -> Busy<'_> {
        self.busy.fetch_add(1, Relaxed);
        Busy(self)
    }

    /// How many starts go on.
    pub(crate) fn starts(&self) -> u32 {
        self.busy.load(Relaxed)
    }

    /// What a sandbox had that ended: its numbers are free.
    pub(crate) fn ended(&self, id: &InstanceId) -> Option<Numbers> {
        let mut state = self.state();
        if let Some(numbers) = state.parting.remove(id) {
            return Some(numbers);
        }
        if let Some((_, ended)) = state.making.as_mut().filter(|(making, _)| making == id) {
            // Who makes it gives them back.
            *ended = true;
            return None;
        }
        let index = state.parked.iter().position(|parked| parked.sandbox.instance() == id)?;
        self.changed.notify_one();
        state.parked.remove(index).map(|parked| parked.numbers)
    }

    /// A sandbox that is of no use ends now: its numbers are free when that is told.
    pub(crate) fn part(&self, id: InstanceId, numbers: Numbers) {
        self.state().parting.insert(id, numbers);
    }

    /// The keeper is gone and all sandboxes with it; what they had.
    pub(crate) fn lose(&self) -> Vec<Numbers> {
        let mut state = self.state();
        state.keeper += 1;
        let parked = std::mem::take(&mut state.parked);
        let parting = std::mem::take(&mut state.parting);
        parked.iter().map(|parked| parked.numbers).chain(parting.into_values()).collect()
    }

    fn lacks(&self) -> bool {
        let state = self.state();
        !state.closed && state.parked.len() < state.target as usize
    }

    /// Whether anything could be started now, or was started lately.
    fn waits_for_starts(&self) -> bool {
        let state = self.state();
        !state.closed && (state.target > 0 || state.last_start.is_some())
    }

    /// Makes the pool as large as it should be; those that are too many end.
    fn resize(&self, startable: bool) {
        let mut state = self.state();
        let peak = state.starts.peak(Instant::now());
        state.target = target(startable, peak, state.target, self.most);
        while state.parked.len() > state.target as usize {
            let Some(parked) = state.parked.pop_front() else { break };
            state.parting.insert(parked.sandbox.instance().clone(), parked.numbers);
        }
    }

    fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        while let Some(parked) = state.parked.pop_front() {
            state.parting.insert(parked.sandbox.instance().clone(), parked.numbers);
        }
    }

    /// Until no start goes on, or has for long enough.
    async fn quiet(&self) {
        let begun = Instant::now();
        while begun.elapsed() < QUIET_MAX {
            let last = self.state().last_start;
            if self.busy.load(Relaxed) == 0 && last.is_none_or(|last| last.elapsed() >= QUIET) {
                return;
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    pub(crate) fn figures(&self) -> PoolFigures {
        let state = self.state();
        let mut times: Vec<f64> = state.times.iter().copied().collect();
        times.sort_by(f64::total_cmp);
        PoolFigures {
            target: state.target,
            taken: state.taken,
            missed: state.missed,
            preparation_ms: times.get(times.len() / 2).copied(),
            parked: state.parked.iter().map(|parked| parked.sandbox.pid()).collect(),
        }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Relaxed);
        self.0.state().last_start = Some(Instant::now());
    }
}

impl Numbers {
    /// `None`: all are lent.
    pub(crate) fn lend(table: &mut Table) -> Option<Self> {
        let offset = table.offsets.lend()?;
        let Some(range) = table.ranges.lend() else {
            table.offsets.give_back(offset);
            return None;
        };
        Some(Self { offset, range })
    }

    /// Takes what somebody has already; whether both were free.
    pub(crate) fn take(self, table: &mut Table) -> bool {
        let (offset, range) = (table.offsets.take(self.offset), table.ranges.take(self.range));
        offset && range
    }

    pub(crate) fn give_back(self, table: &mut Table) {
        table.offsets.give_back(self.offset);
        table.ranges.give_back(self.range);
    }
}

impl Starts {
    fn note(&mut self, now: Instant) {
        let second = now.duration_since(self.begun).as_secs();
        match self.seconds.back_mut() {
            Some((last, count)) if *last == second => *count += 1,
            _ => self.seconds.push_back((second, 1)),
        }
        while self.seconds.front().is_some_and(|(at, _)| at + MEMORY <= second) {
            self.seconds.pop_front();
        }
    }

    fn peak(&self, now: Instant) -> u32 {
        let second = now.duration_since(self.begun).as_secs();
        let lately = self.seconds.iter().filter(|(at, _)| at + MEMORY > second);
        lately.map(|(_, count)| *count).max().unwrap_or(0)
    }
}

/// How many there should be, looked at once a second.
fn target(startable: bool, peak: u32, before: u32, most: u32) -> u32 {
    let wanted = if startable { peak.max(FEW).min(most) } else { 0 };
    if wanted >= before { wanted } else { wanted.max(before - (before / 8).max(1)) }
}

/// Whether any release is prepared that may get one more instance.
fn startable(table: &Table) -> bool {
    let may = |(key, state): (&minato_model::ids::ReleaseKey, &crate::table::ReleaseState)| {
        let share = table.slices.get(&key.service).and_then(|slice| slice.share(key.number));
        let max = share.map_or(0, |share| share.max as usize);
        matches!(state.preparation, Preparation::Prepared(_)) && table.of_release(key).count() < max
    };
    !table.stopping && !table.handing_over && table.releases.iter().any(may)
}

/// Keeps the pool filled.
pub(crate) async fn run(node: Arc<Node>) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = node.over.cancelled() => break,
            _ = tick.tick() => {
                let startable = startable(&node.table());
                node.pool.resize(startable);
            }
            () = node.pool.changed.notified() => {}
        }
        while node.pool.lacks() && !node.over.is_cancelled() {
            node.pool.quiet().await;
            if !refill(&node).await {
                break;
            }
        }
        while node.pool.waits_for_starts() && node.issuer.lacks() && !node.over.is_cancelled() {
            node.pool.quiet().await;
            if !make_keys(&node).await {
                break;
            }
        }
    }
    node.pool.close();
}

/// Makes some more keys; `false`: it is tried again later.
async fn make_keys(node: &Arc<Node>) -> bool {
    let of = Arc::clone(node);
    tokio::task::spawn_blocking(move || of.issuer.make_some()).await.unwrap_or(false)
}

/// Makes one more; `false`: it is tried again later.
async fn refill(node: &Arc<Node>) -> bool {
    let Some(keeper) = node.keeper().filter(|keeper| keeper.client.binds_late()) else { return false };
    let era = node.pool.state().keeper;
    for _ in 0..TRIES {
        let lent = Numbers::lend(&mut node.table());
        let Some(numbers) = lent else { return false };
        let Some((spec, id)) = keeper.ids.range(numbers.range).and_then(|first| spec(node, numbers, first))
        else {
            numbers.give_back(&mut node.table());
            return false;
        };
        let network = NodeNetwork { id: node.id, plan: node.plan };
        let client = keeper.client.clone();
        node.pool.state().making = Some((id.clone(), false));
        let begun = Instant::now();
        let made = tokio::task::spawn_blocking(move || make(&client, &network, &spec)).await;
        let took = begun.elapsed().as_secs_f64() * 1_000.0;
        let mut state = node.pool.state();
        let ended = state.making.take().is_some_and(|(_, ended)| ended);
        if state.keeper != era {
            // Its keeper is gone with everything that it had made; the next one has other ranges of ids.
            drop(state);
            node.table().offsets.give_back(numbers.offset);
            return false;
        }
        if ended {
            drop(state);
            numbers.give_back(&mut node.table());
            return false;
        }
        match made {
            Ok(Ok((sandbox, Some(probe)))) if !state.closed => {
                state.times.push_back(took);
                if state.times.len() > TIMES {
                    state.times.pop_front();
                }
                state.parked.push_back(Parked { numbers, sandbox, probe });
                return true;
            }
            Ok(Ok(_)) => {
                // It ends with its handle.
                state.parting.insert(id, numbers);
                return false;
            }
            Ok(Err(error)) => {
                drop(state);
                numbers.give_back(&mut node.table());
                if !matches!(error, MakeError::Busy { .. }) {
                    tracing::warn!(error = %whole(&error), "sandbox not made ahead; trying again");
                    return false;
                }
            }
            Err(_panicked) => {
                state.parting.insert(id, numbers);
                return false;
            }
        }
    }
    false
}

fn spec(node: &Node, numbers: Numbers, id_range_start: u32) -> Option<(SandboxSpec, InstanceId)> {
    let id = draw_id()?;
    let spec = SandboxSpec {
        instance: id.clone(),
        address: node.plan.at(u16::try_from(numbers.offset).ok()?),
        plan: node.plan,
        id_range_start,
        hostname: id.to_string(),
        limits: LIMITS,
        scratch: SCRATCH,
        dns: node.plan.gateway(),
        // Said with the start; a sandbox that never comes to one writes nothing.
        log: node.data.join("logs").join("parked"),
        log_max: 0,
    };
    Some((spec, id))
}

/// Makes a sandbox, and all that a start of it needs of the node. Blocks for some milliseconds.
pub(crate) fn make(
    client: &Client,
    network: &NodeNetwork,
    spec: &SandboxSpec,
) -> Result<(Sandbox, Option<Probe>), MakeError> {
    let sandbox = client.make(spec)?;
    if let Err(error) = link::settle(network, spec.address) {
        // Gone already, with its sandbox: what becomes of that is told elsewhere.
        tracing::debug!(error = %whole(&error), address = %spec.address, "links not settled");
    }
    let probe = probe_in(sandbox.network_namespace(), spec.address);
    Ok((sandbox, probe))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_follows_the_starts_and_shrinks_slowly() {
        assert_eq!(target(false, 9, 0, 64), 0);
        assert_eq!(target(true, 0, 0, 64), FEW);
        assert_eq!(target(true, 20, 4, 64), 20);
        assert_eq!(target(true, 500, 4, 64), 64);
        assert_eq!(target(true, 0, 64, 64), 56);
        assert_eq!(target(true, 0, 5, 64), FEW);
        assert_eq!(target(false, 0, 3, 64), 2);
        // Switched off.
        assert_eq!(target(true, 20, 0, 0), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_busiest_second_of_the_last_minute_counts() {
        let mut starts = Starts { begun: Instant::now(), seconds: VecDeque::new() };
        for _ in 0..7 {
            starts.note(Instant::now());
        }
        tokio::time::advance(Duration::from_secs(30)).await;
        starts.note(Instant::now());
        assert_eq!(starts.peak(Instant::now()), 7);
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(starts.peak(Instant::now()), 1);
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(starts.peak(Instant::now()), 0);
    }
}
