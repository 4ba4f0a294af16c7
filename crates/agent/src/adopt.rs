//! Instances that an earlier server left running: those that are still wanted are taken over, the
//! others are drained, and what ended meanwhile is told.

use std::time::Duration;

use minato_model::{
    digest::Digest,
    ids::{InstanceId, NodeName, ReleaseKey},
    inventory::{Instance, InstanceState},
    node::{Life, Phases},
    time::Moment,
};
use minato_runtime::{
    ids::RANGE,
    spec::{Ended, Held, HeldState},
};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::Instant};

use crate::{
    decide::DrainCause,
    identity::Certified,
    keeper,
    life::{Birth, By, describe, fault_of},
    node::{Keeper, Node},
    pool::Numbers,
    table::{Farewell, Orders, Phase, Record, Table},
    vitals::Vitals,
};

/// How often it is looked whether all are adopted.
const LOOK: Duration = Duration::from_millis(5);

/// What the keeper keeps of an instance for a later server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tag {
    release: ReleaseKey,
    hash: String,
    image: Digest,
    port: u16,
    started_at: Moment,
    asked_by: String,
    /// A server that doesn't know it leaves it out.
    #[serde(default)]
    farewell: Farewell,
    /// Its memory when it was warm, in bytes: growth is measured by it whatever server looks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    baseline: Option<u64>,
    /// Since when it drains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    draining: Option<Moment>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stopping: Option<Stopping>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    identity: Option<Certified>,
}

/// That an instance was told to stop: who comes after goes on with that.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stopping {
    pub(crate) since: Moment,
    pub(crate) signal: i32,
    pub(crate) reason: String,
}

impl Tag {
    pub(crate) fn of(record: &Record) -> Self {
        Self {
            release: record.release.clone(),
            hash: record.hash.clone(),
            image: record.image.clone(),
            port: record.port,
            started_at: record.started_at,
            asked_by: record.asked_by.clone(),
            farewell: record.farewell,
            baseline: record.vitals.baseline(),
            draining: record.draining,
            stopping: None,
            identity: record.identity.clone(),
        }
    }

    pub(crate) fn stopping(self, stopping: Stopping) -> Self {
        Self { stopping: Some(stopping), ..self }
    }

    /// As the keeper keeps it.
    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Lets the keeper keep what is known of an instance now, for a server after this one.
pub(crate) fn tell(node: &Node, id: &InstanceId) {
    // Of what doesn't run yet the keeper is told by its start.
    let tag = node.table().instances.get(id).filter(|record| record.pid.is_some()).map(Tag::of);
    if let Some(tag) = tag {
        keep(node, id, &tag);
    }
}

/// Lets the keeper keep a tag.
pub(crate) fn keep(node: &Node, id: &InstanceId, tag: &Tag) {
    if let Some(keeper) = node.keeper()
        && let Err(error) = keeper.client.tag(id, &tag.encode())
    {
        tracing::debug!(%error, instance = %id, "tag not kept by the keeper");
    }
}

/// Enters what the keeper holds into the table. The slices must be known.
pub(crate) fn adopt(node: &Node, keeper: &Keeper, held: Vec<Held>) -> Vec<Birth> {
    let mut births = Vec::new();
    for held in held {
        let tag = serde_json::from_slice::<Tag>(&held.tag).ok();
        match (held.state.clone(), tag) {
            (HeldState::Ended(end), tag) => ended(node, keeper, &held, tag, &end),
            (HeldState::Running, Some(tag)) => births.extend(running(node, keeper, &held, tag)),
            // Half-started, or by another version: of no use.
            (HeldState::Parked | HeldState::Running, _) => {
                tracing::info!(instance = %held.instance, "sandbox without use killed");
                // Until its end is told nobody else may have what it has.
                let numbers = numbers(keeper, &held);
                if numbers.take(&mut node.table()) {
                    node.pool.part(held.instance.clone(), numbers);
                }
                if let Err(error) = keeper.client.kill(&held.instance) {
                    tracing::warn!(%error, instance = %held.instance, "sandbox without use not killed");
                }
            }
        }
    }
    // It may have died meanwhile: who was entered after that was noticed is told here, or nobody would.
    let still = node.keeper().is_some_and(|now| now.client.pid() == keeper.client.pid());
    if !still {
        births.iter().for_each(|birth| keeper::orphan(node, &birth.id));
    }
    births
}

/// What the keeper's sandboxes have of the node.
fn numbers(keeper: &Keeper, held: &Held) -> Numbers {
    let [.., c, d] = held.address.octets();
    let offset = u32::from(u16::from_be_bytes([c, d]));
    let range = held.id_range_start.checked_sub(keeper.ids.first).map_or(u32::MAX, |above| above / RANGE);
    Numbers { offset, range }
}

/// Takes an instance over; if no slice wants it, to drain it; if it was told to stop, to see its end.
fn running(node: &Node, keeper: &Keeper, held: &Held, tag: Tag) -> Option<Birth> {
    let mut table = node.table();
    // Of a service that nothing can be known of now all goes on as it was.
    let unread = table.unread.contains(&tag.release.service);
    let wanted = unread || is_wanted(&table, &tag.release, &tag.hash);
    let Numbers { offset, range } = numbers(keeper, held);
    // Another plan or other ranges than now: it lies outside of what is lent, and nobody gets it.
    table.offsets.take(offset);
    table.ranges.take(range);
    let drain = (!wanted).then_some(DrainCause::Retired);
    let begun = begun(node.now(), tag.started_at);
    // It drained for a server before, and is wanted all the same.
    let comes_back = wanted && tag.draining.is_some() && tag.stopping.is_none();
    let (sender, orders) = watch::channel(Orders { drain, ..Orders::default() });
    let record = Record {
        id: held.instance.clone(),
        release: tag.release.clone(),
        hash: tag.hash,
        image: tag.image,
        port: tag.port,
        address: held.address,
        offset,
        range,
        log: held.log.clone(),
        farewell: tag.farewell,
        phase: if tag.stopping.is_some() { Phase::Draining } else { Phase::Starting },
        reason: tag.stopping.as_ref().map_or_else(
            || "it runs since before the server started, and is being adopted".to_owned(),
            |stopping| stopping.reason.clone(),
        ),
        pid: Some(held.pid),
        started_at: tag.started_at,
        begun,
        first_ready: None,
        asked_by: tag.asked_by,
        pooled: None,
        slot_ms: None,
        certificate_ms: None,
        phases: Phases::default(),
        findings: Vec::new(),
        replaces: None,
        withdrawn: None,
        draining: tag.draining.filter(|_| !comes_back),
        identity: tag.identity,
        vitals: Vitals::adopted(begun, tag.baseline, Instant::now()),
        orders: sender,
    };
    table.instances.insert(held.instance.clone(), record);
    drop(table);
    if comes_back {
        tell(node, &held.instance);
    }
    // Before anything that it sends is listened to.
    node.routing.introduce(&held.instance, &tag.release.service, held.address);
    let by = match tag.stopping {
        Some(stopping) => By::Stopping(stopping),
        None => By::Adoption { pid: held.pid },
    };
    Some(Birth { id: held.instance.clone(), key: tag.release, orders, by })
}

/// When something began here that began then: its age goes on, by the time of day.
pub(crate) fn begun(now: Moment, started_at: Moment) -> Instant {
    let age = u64::try_from(now.0.saturating_sub(started_at.0)).unwrap_or(0);
    let here = Instant::now();
    here.checked_sub(Duration::from_millis(age)).unwrap_or(here)
}

/// Waits until nobody who was taken over is being looked at any more.
pub(crate) async fn adopted(node: &Node) {
    let looked_at = |record: &Record| record.pid.is_some() && matches!(record.phase, Phase::Starting);
    while node.table().instances.values().any(looked_at) {
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether a slice gives a release instances.
pub(crate) fn is_wanted(table: &Table, release: &ReleaseKey, hash: &str) -> bool {
    let slice = table.slices.get(&release.service);
    let share = slice.and_then(|slice| slice.share(release.number));
    share.is_some_and(|share| share.max > 0 && share.release.hash == hash)
}

/// Tells what nobody was there to be told.
fn ended(node: &Node, keeper: &Keeper, held: &Held, tag: Option<Tag>, end: &Ended) {
    if let Some(tag) = tag.as_ref().filter(|tag| tag.stopping.is_some()).cloned() {
        let reason = format!("{}, while no server was there", describe(end));
        let data = serde_json::json!({ "ended_at": Moment(end.at_ms) });
        node.record("instance_stopped", &tag.release, &held.instance, &reason, data);
        node.table().remember(life(&node.name, &held.instance, tag, reason, end));
    } else if let Some(tag) = tag {
        let fault = fault_of(end);
        let reason = format!("{}, while no server was there", fault.reason);
        let data = serde_json::json!({ "code": fault.code, "ended_at": Moment(end.at_ms) });
        node.record("instance_failed", &tag.release, &held.instance, &reason, data);
        node.table().remember(life(&node.name, &held.instance, tag, reason, end));
    }
    if let Err(error) = keeper.client.forget(&held.instance) {
        tracing::warn!(%error, instance = %held.instance, "end not forgotten by the keeper");
    }
}

fn life(node: &NodeName, id: &InstanceId, tag: Tag, reason: String, end: &Ended) -> Life {
    let state = if tag.stopping.is_some() { InstanceState::Stopped } else { InstanceState::Failed };
    let instance = Instance {
        id: id.clone(),
        app: tag.release.service.app,
        service: tag.release.service.service,
        release: tag.release.number,
        image: tag.image,
        state,
        reason,
        address: None,
        node: node.clone(),
        pid: None,
        started_at: tag.started_at,
        requests: 0,
        in_flight: 0,
        identity: tag.identity.as_ref().map(Certified::seen),
    };
    Life {
        instance,
        asked_by: tag.asked_by,
        pooled: None,
        slot_ms: None,
        phases: Phases::default(),
        end: Some(describe(end)),
        last_lines: Vec::new(),
        findings: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tags_of_earlier_and_later_servers_are_read() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let earlier = json!({
            "release": { "service": "shop/cart", "number": 1 }, "hash": "h", "image": digest, "port": 80,
            "started_at": Moment(5), "asked_by": "request",
        });
        let mut tag: Tag = serde_json::from_value(earlier.clone()).unwrap();
        assert_eq!((tag.baseline, tag.draining, &tag.stopping), (None, None, &None));
        let fields = |tag: &Tag| serde_json::from_slice::<serde_json::Value>(&tag.encode()).unwrap();
        let written = fields(&tag);
        assert!(earlier.as_object().unwrap().iter().all(|(key, value)| written[key] == *value), "{written}");
        assert_eq!(written.as_object().unwrap().len(), 7, "an earlier server reads all of it: {written}");
        (tag.baseline, tag.draining) = (Some(9), Some(Moment(7)));
        let (not_before, not_after) = (Moment(1), Moment(8));
        tag.identity = Some(Certified { serial: "0a".to_owned(), not_before, not_after });
        let mut written = fields(&tag);
        written["later"] = true.into();
        assert_eq!(serde_json::from_value::<Tag>(written).unwrap(), tag);
    }
}
