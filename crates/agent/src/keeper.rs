//! The connection to the keeper: what it tells goes to the instances' tasks; if it is gone, so are
//! its instances, and another is started.

use std::{
    net::Ipv4Addr,
    path::PathBuf,
    sync::{Arc, PoisonError, Weak, mpsc::Receiver},
    time::Duration,
};

use minato_model::{event::Event as Told, ids::InstanceId};
use minato_network::NodeId8;
use minato_runtime::{
    keeper::{Client, Config, Connection, KeeperError},
    spec::{Ended, Event, Held, HeldState, Status},
};
use tokio::time::sleep;

use crate::{
    adopt, life,
    node::{Keeper, Node},
    prepare::whole,
    rotation::Rotation,
};

/// Between tries to start a keeper.
const RETRY: Duration = Duration::from_secs(1);

/// Connects, and hands on what the keeper tells; what it held before.
pub(crate) async fn connect(node: &Arc<Node>, config: Config) -> Result<Vec<Held>, KeeperError> {
    let connecting = config.clone();
    let connection = tokio::task::spawn_blocking(move || {
        let connection = Client::connect_or_spawn(&connecting)?;
        remove_links(&connecting.id, &connection.held);
        Ok(connection)
    });
    let connection = connection.await;
    let Connection { client, held, ids, events } = connection.unwrap_or(Err(KeeperError::Gone))?;
    {
        let mut table = node.table();
        table.ranges = Rotation::new(0..ids.ranges);
    }
    *node.keeper.lock().unwrap_or_else(PoisonError::into_inner) = Some(Keeper { client, ids });
    // It waits in a thread of its own for as long as the keeper is there.
    let (weak, runtime) = (Arc::downgrade(node), tokio::runtime::Handle::current());
    let spawned = std::thread::Builder::new()
        .name("keeper-events".to_owned())
        .spawn(move || listen(&weak, &runtime, &events, config));
    spawned.map_err(KeeperError::Io)?;
    Ok(held)
}

/// Before anything is made, so that nothing is left of whoever isn't held.
fn remove_links(id: &str, held: &[Held]) {
    let runs = |held: &&Held| !matches!(held.state, HeldState::Ended(_));
    let addresses: Vec<Ipv4Addr> = held.iter().filter(runs).map(|held| held.address).collect();
    let Ok(id) = id.parse::<NodeId8>() else { return };
    match minato_network::remove_links_but(id, &addresses) {
        Ok(0) => {}
        Ok(links) => tracing::debug!(links, "links of former instances removed"),
        Err(error) => tracing::warn!(error = %whole(&error), "links of former instances not removed"),
    }
}

fn listen(node: &Weak<Node>, runtime: &tokio::runtime::Handle, events: &Receiver<Event>, config: Config) {
    loop {
        let event = events.recv().unwrap_or(Event::KeeperGone);
        let Some(node) = node.upgrade() else { return };
        match event {
            Event::Ended(end) => ended(&node, end),
            Event::KeeperGone => {
                gone(&node);
                if !node.over.is_cancelled() {
                    node.tasks.spawn_on(again(Arc::clone(&node), config), runtime);
                }
                return;
            }
        }
    }
}

/// An instance ended: its task knows what that means.
fn ended(node: &Node, end: Ended) {
    let id = end.instance.clone();
    if node.order(&id, |orders| orders.ended = Some(end.clone())) {
        return;
    }
    {
        // With the table held, as it is while one is taken from the pool for an instance.
        let mut table = node.table();
        if let Some(record) = table.instances.get(&id) {
            record.orders.send_modify(|orders| orders.ended = Some(end));
            return;
        }
        if let Some(numbers) = node.pool.ended(&id) {
            numbers.give_back(&mut table);
        }
    }
    // A sandbox that was killed at the adoption, or the late end of one that was given up.
    if let Some(keeper) = node.keeper()
        && let Err(error) = keeper.client.forget(&id)
    {
        tracing::debug!(%error, instance = %id, "end not forgotten by the keeper");
    }
}

/// The keeper is gone, and its instances with it.
fn gone(node: &Node) {
    *node.keeper.lock().unwrap_or_else(PoisonError::into_inner) = None;
    let lost = node.pool.lose();
    {
        let mut table = node.table();
        lost.into_iter().for_each(|numbers| numbers.give_back(&mut table));
    }
    let running: Vec<InstanceId> = node.table().instances.keys().cloned().collect();
    if node.over.is_cancelled() || node.table().stopping {
        tracing::debug!("keeper ended");
    } else {
        tracing::error!(instances = running.len(), "keeper is gone: its instances are replaced");
        let reason = "the keeper ended, and all instances with it: they are replaced";
        let event = Told::new(node.now(), "keeper_gone", reason);
        node.journal.record(event.with_data(serde_json::json!({ "instances": running.len() })));
    }
    running.iter().for_each(|id| orphan(node, id));
}

/// An instance ended with its keeper, which can't tell.
pub(crate) fn orphan(node: &Node, id: &InstanceId) {
    let end = Ended { instance: id.clone(), status: Status::Signal(9), oom: false, at_ms: node.now().0 };
    node.order(id, |orders| {
        orders.orphaned |= orders.ended.is_none();
        orders.ended.get_or_insert(end);
    });
}

/// Starts another keeper.
async fn again(node: Arc<Node>, config: Config) {
    while !node.over.is_cancelled() {
        // What the old one had lent is given back before numbers of another range are lent.
        let empty = node.table().instances.is_empty();
        if empty {
            // Boxed: it leads back here when that keeper is gone too.
            let connected: minato_model::BoxFuture<'_, _> = Box::pin(connect(&node, config.clone()));
            match connected.await {
                Ok(held) => {
                    let Some(keeper) = node.keeper() else { return };
                    for birth in adopt::adopt(&node, &keeper, held) {
                        node.tasks.spawn(life::live(Arc::clone(&node), birth));
                    }
                    return;
                }
                Err(error) => {
                    tracing::error!(error = %whole(&error), "keeper can't be started; trying again")
                }
            }
        }
        tokio::select! {
            () = node.over.cancelled() => return,
            () = sleep(if empty { RETRY } else { RETRY / 20 }) => {}
        }
    }
}

/// Which keeper is this node's.
pub(crate) fn config(data: PathBuf, id: String, exe: PathBuf) -> Config {
    Config { data, id, exe }
}
