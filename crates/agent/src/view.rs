//! What the node lets others look at.

use minato_model::{
    BoxFuture,
    ids::InstanceId,
    inventory::{Instance, InstanceState},
    node::{Life, LogLine, LogQuery, NodeView},
    top::Top,
};
use tokio::time::Instant;

use crate::{Agent, logs, metrics::Now, node::Node, prepare::whole, top};

/// Every state that metrics count.
const STATES: [(&str, InstanceState); 3] = [
    ("starting", InstanceState::Starting),
    ("ready", InstanceState::Ready),
    ("draining", InstanceState::Draining),
];

impl NodeView for Agent {
    fn instances(&self) -> BoxFuture<'_, Vec<Instance>> {
        Box::pin(async move {
            let mut instances = present(&self.node);
            let table = self.node.table();
            let past = table.past.iter().rev().map(|life| life.instance.clone());
            instances.extend(past);
            // Who waits for another try is shown on the last one that failed.
            let now = Instant::now();
            for state in table.releases.values().filter(|state| !state.backoff.waits(now).is_zero()) {
                let failing = state.backoff.failing().map(|failing| &failing.instance);
                let last = instances.iter_mut().find(|instance| Some(&instance.id) == failing);
                if let Some(last) = last.filter(|last| last.state == InstanceState::Failed) {
                    last.state = InstanceState::BackingOff;
                }
            }
            instances
        })
    }

    fn life(&self, id: &InstanceId) -> BoxFuture<'_, Option<Life>> {
        let id = id.clone();
        Box::pin(async move {
            let found = {
                let traffic = self.node.routing.traffic(&id);
                let table = self.node.table();
                let here = table.instances.get(&id).map(|record| {
                    let instance = record.seen(&self.node.name, traffic);
                    record.life(instance, None, Vec::new())
                });
                here.or_else(|| table.past.iter().rev().find(|life| life.instance.id == id).cloned())
            };
            let mut life = found?;
            if life.last_lines.is_empty() {
                let instance = &life.instance;
                let service = minato_model::ids::ServiceKey {
                    app: instance.app.clone(),
                    service: instance.service.clone(),
                };
                let key = minato_model::ids::ReleaseKey { service, number: instance.release };
                life.last_lines = logs::last_lines(logs::path(&self.node.data, &key, &id)).await;
            }
            Some(life)
        })
    }

    fn logs(&self, query: LogQuery) -> BoxFuture<'_, Vec<LogLine>> {
        let data = self.node.data.clone();
        Box::pin(async move {
            match tokio::task::spawn_blocking(move || logs::query(&data, &query)).await {
                Ok(Ok(lines)) => lines,
                Ok(Err(error)) => {
                    tracing::warn!(error = %whole(&error), "logs not readable");
                    Vec::new()
                }
                Err(_panicked) => Vec::new(),
            }
        })
    }

    fn metrics(&self) -> String {
        let present = present(&self.node);
        let count = |state| present.iter().filter(|instance| instance.state == state).count();
        let (slots, slots_taken, slots_waiting) = top::slots(&self.node);
        let pool = self.node.pool_figures();
        self.node.metrics.text(&Now {
            instances: &STATES.map(|(name, state)| (name, count(state))),
            sandboxes_ready: u32::try_from(pool.parked.len()).unwrap_or(u32::MAX),
            sandboxes_target: pool.target,
            sandboxes_pooled: pool.taken,
            sandboxes_cold: pool.missed,
            slots,
            slots_taken,
            slots_waiting,
        })
    }

    fn top(&self) -> BoxFuture<'_, Top> {
        Box::pin(top::top(&self.node))
    }
}

/// The instances that aren't gone, by id, with what they carry.
fn present(node: &Node) -> Vec<Instance> {
    let ids: Vec<InstanceId> = node.table().instances.keys().cloned().collect();
    let traffic: Vec<_> = ids.iter().map(|id| node.routing.traffic(id)).collect();
    let table = node.table();
    let seen = |(id, traffic): (&InstanceId, _)| {
        table.instances.get(id).map(|record| record.seen(&node.name, traffic))
    };
    ids.iter().zip(traffic).filter_map(seen).collect()
}
