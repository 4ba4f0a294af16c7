//! Makes each release of a service what the decision about it says: the one place where decisions
//! become starts, drains and refusals.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use minato_model::{
    event::Event,
    ids::{InstanceId, ReleaseKey, ServiceKey},
    routing::{Load, Refusal, Traffic},
    slice::Slice,
    time::Moment,
};
use tokio::time::Instant;

use crate::{
    decide::{self, AskedBy, Candidate, Decision, DrainCause, Envelope, Unwell, View},
    life,
    node::{Node, TICK},
    recycle::Why,
    rehearsal::Replaces,
    table::{Phase, Preparation, Record, Table},
    vitals::Rules,
};

/// No look is sooner than this.
const LOOK_MIN: Duration = Duration::from_millis(10);

type Carried = BTreeMap<InstanceId, Traffic>;

/// Decides about each release of a service, and does it.
pub(crate) fn steer(node: &Arc<Node>, service: &ServiceKey, wakes: &BTreeMap<ReleaseKey, u32>, tick: bool) {
    if node.table().handing_over {
        return;
    }
    let keys = node.table().releases_of(service);
    for key in keys {
        let load = node.routing.load(&key);
        let carried = carried(node, &key);
        let woken = wakes.get(&key).copied().unwrap_or(0);
        let mut table = node.table();
        if tick {
            look(&mut table, &key, &carried);
        }
        let view = view(node, &table, &key, load, woken, tick, &carried);
        let decision = decide::decide(&view);
        let births = begin(node, &mut table, &key, &decision, &carried);
        for (id, cause) in &decision.drain {
            if let Some(record) = table.instances.get(id) {
                record.orders.send_modify(|orders| orders.drain = Some(*cause));
            }
        }
        let refusal = change_of_refusal(&mut table, &key);
        let again = look_again(&mut table, &key, decision.look);
        forget_release(&mut table, &key);
        drop(table);
        if let Some(refusal) = refusal {
            node.routing.refuse(&key, refusal);
        }
        for birth in births {
            node.tasks.spawn(life::live(Arc::clone(node), birth));
        }
        if let Some(again) = again {
            node.look_after(service, again);
        }
        note_idle(node, &key, &decision.drain);
    }
}

/// What the instances of a release carry, asked of the edge without holding the table.
fn carried(node: &Node, key: &ReleaseKey) -> Carried {
    let ids: Vec<InstanceId> = node.table().of_release(key).map(|record| record.id.clone()).collect();
    ids.into_iter().map(|id| (id.clone(), node.routing.traffic(&id))).collect()
}

fn rules(slice: &Slice) -> Rules<'_> {
    Rules { recycle: &slice.recycle, timeout: slice.route.timeout, concurrency: slice.route.concurrency }
}

/// Looks at how each of those that serve does, beside the others.
fn look(table: &mut Table, key: &ReleaseKey, carried: &Carried) {
    let Some(slice) = table.slices.get(&key.service).cloned() else { return };
    let now = Instant::now();
    let serving = table.of_release(key).filter(|record| record.serves());
    let serving: Vec<(InstanceId, Traffic)> = serving
        .map(|record| (record.id.clone(), carried.get(&record.id).copied().unwrap_or_default()))
        .collect();
    for (id, own) in &serving {
        let others = serving.iter().filter(|(other, _)| other != id);
        let siblings: Vec<Traffic> = others.map(|(_, traffic)| *traffic).collect();
        if let Some(record) = table.instances.get_mut(id) {
            record.vitals.look(own, &siblings, &rules(&slice), now);
        }
    }
}

fn view(
    node: &Node,
    table: &Table,
    key: &ReleaseKey,
    load: Load,
    woken: u32,
    tick: bool,
    carried: &Carried,
) -> View {
    let (keeper, today) = (node.keeper().is_some(), node.now());
    let slice = table.slices.get(&key.service);
    let share = slice.and_then(|slice| slice.share(key.number).map(|share| (slice, share)));
    let envelope = share.filter(|_| !table.stopping).map(|(slice, share)| Envelope {
        min: share.min,
        max: share.max,
        weight: share.weight,
        concurrency: slice.route.concurrency,
        idle: slice.idle,
    });
    let rules = slice.map(|slice| rules(slice));
    let state = table.releases.get(key);
    let now = Instant::now();
    let startable = state.is_some_and(|state| {
        matches!(state.preparation, Preparation::Prepared(_)) && state.backoff.waits(now).is_zero()
    });
    let (mut instances, mut unwell) = (Vec::new(), Vec::new());
    for record in table.of_release(key).filter(|record| record.orders.borrow().drain.is_none()) {
        match record.phase {
            Phase::Unhealthy { since } => unwell.push(Unwell {
                id: record.id.clone(),
                since: now.duration_since(since),
                why: record.vitals.ailment(rules.as_ref()),
            }),
            Phase::Starting | Phase::Ready { .. } => {
                let traffic = carried.get(&record.id).copied().unwrap_or_default();
                instances.push(candidate(record, &traffic, rules.as_ref(), now, today));
            }
            Phase::Draining | Phase::Streaming => {}
        }
    }
    let replacing = !unwell.is_empty() || state.is_some_and(|state| state.replacing);
    let alone = slice.is_some_and(|slice| slice.releases.iter().filter(|share| share.max > 0).count() == 1);
    let fails = state.is_none_or(|state| !state.backoff.is_calm(now));
    let starting = instances.iter().any(|one| one.ready.is_none() && one.replaces.is_none());
    let (leaving, ending) = going(table, key);
    View {
        calm: startable && unwell.is_empty() && alone && !fails && !starting && load.waiting == 0,
        envelope,
        load,
        woken,
        startable: startable && keeper,
        // One that is out of routing is as good as gone: what starts now takes its place.
        replacing,
        tick,
        leaving,
        ending,
        instances,
        unwell,
    }
}

fn candidate(
    record: &Record,
    traffic: &Traffic,
    rules: Option<&Rules<'_>>,
    now: Instant,
    today: Moment,
) -> Candidate {
    let ready = match record.phase {
        Phase::Ready { since } => Some(now.duration_since(since)),
        Phase::Starting | Phase::Unhealthy { .. } | Phase::Draining | Phase::Streaming => None,
    };
    let age = now.duration_since(record.begun);
    let vital = |rules| record.vitals.renew(&record.id, traffic.requests, age, rules, now);
    let vital = rules.filter(|_| ready.is_some()).and_then(vital);
    let certified = record.identity.as_ref();
    let due = certified.is_some_and(|certified| certified.is_due(&record.id, today));
    Candidate {
        id: record.id.clone(),
        ready,
        in_flight: traffic.in_flight,
        // Repair is more than what it would be renewed for.
        renew: vital.filter(|why| !due || !why.is_routine()).or_else(|| due.then_some(Why::Identity)),
        pressing: due && certified.is_some_and(|certified| certified.presses(today)),
        replaces: record.replaces.as_ref().map(|replaces| (replaces.old.clone(), replaces.why)),
    }
}

/// How many were told to go for a renewal: those that still have requests, and those that only end.
fn going(table: &Table, key: &ReleaseKey) -> (u32, u32) {
    let (mut leaving, mut ending) = (0, 0);
    for record in table.of_release(key).filter(|record| record.phase != Phase::Streaming) {
        if matches!(record.orders.borrow().drain, Some(DrainCause::Renewed(_))) {
            let ends = table.told_to_stop.contains(&record.id);
            *if ends { &mut ending } else { &mut leaving } += 1;
        }
    }
    (leaving, ending)
}

/// Enters instances into the table; their tasks do the rest.
fn begin(
    node: &Node,
    table: &mut Table,
    key: &ReleaseKey,
    decision: &Decision,
    carried: &Carried,
) -> Vec<life::Birth> {
    let start = decision.start.iter();
    let more = start.flat_map(|start| (0..start.count).map(|_| (start.asked_by, None)));
    let renewals = decision.renew.iter().map(|renewal| (renewal.asked_by(), Some(renewal)));
    let all: Vec<(AskedBy, Option<&decide::Renewal>)> = more.chain(renewals).collect();
    let mut births = Vec::new();
    for (asked_by, renewal) in all {
        let Some(birth) = life::Birth::start(node, table, key, asked_by.as_str()) else {
            tracing::warn!(release = %key, "no address or range of ids is free: nothing more is started");
            break;
        };
        if let (Some(record), Some(renewal)) = (table.instances.get_mut(&birth.id), renewal) {
            let errors = carried.get(&renewal.old).map_or(0, |traffic| traffic.errors);
            record.replaces = Some(Replaces { old: renewal.old.clone(), why: renewal.why, errors });
        }
        births.push(birth);
    }
    births
}

/// When a release is to be looked at again, if no tick and no earlier look comes before.
fn look_again(table: &mut Table, key: &ReleaseKey, look: Option<Duration>) -> Option<Duration> {
    let wait = look?.max(LOOK_MIN);
    let state = table.releases.get_mut(key).filter(|_| wait < TICK)?;
    let now = Instant::now();
    if state.look.is_some_and(|at| at > now && at <= now + wait) {
        return None;
    }
    state.look = Some(now + wait);
    Some(wait)
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
