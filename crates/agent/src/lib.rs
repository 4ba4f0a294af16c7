//! Makes one node look like its slices: prepares releases, starts instances when they are asked for,
//! watches over them, drains them, and reports.
//!
//! ```text
//!  state ── slices ──▶ slice ──▶ routes, releases, envelopes ─────────────┐
//!                        └──▶ prepare (tree, recipe)                      ▼
//!  edge ── wake ───────────────────────────────────────────────▶ node's loop: decide
//!  keeper ── ended ──▶ life: start ▶ serve (health) ▶ drain ◀── start, drain ──┘
//!  state ◀── reports ── inventory
//! ```
//!
//! Nothing here waits for the cluster state on the way of a request: the slow loop has set the
//! envelope, the node's loop chooses inside it. An instance is started by the same code whether a
//! request, a minimum, a roll-out or a failure asked for it.

mod adopt;
mod backoff;
mod decide;
mod doors;
mod drain;
mod drift;
pub mod events;
mod health;
mod identity;
mod inventory;
mod keeper;
mod life;
mod logs;
mod look;
mod metrics;
mod node;
mod pool;
mod prepare;
mod recipe;
mod recycle;
mod rehearsal;
mod repair;
mod rotation;
mod slice;
mod slots;
mod start;
mod steer;
mod stop;
mod table;
mod top;
mod view;
mod vitals;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use minato_identity::Authority;
use minato_model::{
    BoxFuture,
    event::Journal,
    ids::{InstanceId, NodeName, ReleaseKey},
    network::{AddressPlan, INSTANCE_OFFSETS},
    routing::{Routing, Wake},
    time::Moment,
};
use minato_network::{EnsureError, NodeId8, NodeNetwork};
use minato_registry::Library;
use minato_runtime::{crash, keeper::KeeperError};
use minato_state::{State, StateError};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    identity::Issuer,
    metrics::Metrics,
    node::{Node, Signals},
    pool::Pool,
    prepare::Trees,
    rotation::Rotation,
    slots::Slots,
    table::{Phase, Table},
};

/// The time of day, as its owner gives it.
pub type Clock = Arc<dyn Fn() -> Moment + Send + Sync>;

/// Which node it is, and where it keeps its things.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's name: whose slices are followed.
    pub node: NodeName,
    /// The data directory: `trees`, `logs` and the keeper's files are below it.
    pub data: PathBuf,
    /// The node's addresses.
    pub plan: AddressPlan,
    /// Whose kernel objects are whose.
    pub id: NodeId8,
    /// The binary that becomes the keeper.
    pub exe: PathBuf,
    /// The failure domain that the node is in, where that is said: edges of the same prefer its instances.
    pub zone: Option<String>,
    /// How many sandboxes are made ahead at most; 0: none are.
    pub pool: u32,
    /// After how long an instance's memory is taken as what it needs: growth is measured by that.
    /// [`BASELINE_AFTER`] unless a test can't wait.
    pub baseline_after: Duration,
}

/// Long enough for caches to fill and pools to open.
pub const BASELINE_AFTER: Duration = Duration::from_secs(5 * 60);

/// Whom the agent works with.
#[derive(Clone)]
pub struct Deps {
    /// The cluster state.
    pub state: Arc<dyn State>,
    /// The images.
    pub library: Arc<Library>,
    /// The edge.
    pub routing: Arc<dyn Routing>,
    /// Who issues the instances' certificates.
    pub authority: Arc<Authority>,
    /// Where events go.
    pub journal: Arc<dyn Journal>,
    /// The time of day.
    pub clock: Clock,
}

impl std::fmt::Debug for Deps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deps").finish_non_exhaustive()
    }
}

/// Why the agent didn't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The node has no network.
    #[error(transparent)]
    Network(#[from] EnsureError),
    /// There is no keeper.
    #[error(transparent)]
    Keeper(#[from] KeeperError),
    /// The slices can't be read.
    #[error("the node's slices can't be read")]
    State(#[from] StateError),
    /// A part of it panicked.
    #[error("the start was broken off")]
    BrokenOff,
}

/// The agent of one node.
#[derive(Debug)]
pub struct Agent {
    node: Arc<Node>,
    network: NodeId8,
}

impl Agent {
    /// Puts the slices' routes in force, adopts what runs, and begins to follow.
    ///
    /// # Errors
    /// The network, the keeper or the state isn't to be had.
    pub async fn start(config: Config, deps: Deps) -> Result<Arc<Self>, StartError> {
        let network = NodeNetwork { id: config.id, plan: config.plan };
        let ensured = tokio::task::spawn_blocking(move || minato_network::Node::ensure(&network)).await;
        ensured.map_err(|_panicked| StartError::BrokenOff)??;
        let keeper = keeper::config(config.data.clone(), config.id.to_string(), config.exe.clone());
        let id = config.id;
        let node = Arc::new(node(config, deps));
        let revision = slice::first(&node).await?;
        let held = keeper::connect(&node, keeper).await?;
        if let Some(keeper) = node.keeper() {
            crash::point("adopt.held");
            for birth in adopt::adopt(&node, &keeper, held) {
                node.tasks.spawn(life::live(Arc::clone(&node), birth));
            }
        }
        node.loops.spawn(slice::run(Arc::clone(&node), revision));
        node.loops.spawn(node::run(Arc::clone(&node)));
        node.loops.spawn(pool::run(Arc::clone(&node)));
        node.loops.spawn(inventory::run(Arc::clone(&node)));
        node.loops.spawn(drift::run(Arc::clone(&node)));
        Ok(Arc::new(Self { node, network: id }))
    }

    /// Stops for good: every instance is drained (or, without `drain`, only stopped), then the keeper
    /// ends and everything in the kernel is given back. Called again with `drain` false while it
    /// drains, it goes on in a hurry.
    pub fn stop(&self, drain: bool) -> BoxFuture<'_, ()> {
        Box::pin(stop::stop(&self.node, self.network, drain))
    }

    /// Ends, and leaves the instances running for the next server.
    pub fn leave(&self) -> BoxFuture<'_, ()> {
        Box::pin(stop::leave(&self.node))
    }

    /// Ends so that another process's agent can go on with the instances: starts under way come so
    /// far that the keeper knows them, who was told to stop has stopped, nothing is begun any more,
    /// and the keeper is let go of. Within some seconds, whatever instances do.
    pub fn hand_over(&self) -> BoxFuture<'_, ()> {
        Box::pin(stop::hand_over(&self.node))
    }

    /// Resolves when every instance that was found running takes requests, or is out of question.
    pub fn adopted(&self) -> BoxFuture<'_, ()> {
        Box::pin(adopt::adopted(&self.node))
    }
}

fn node(config: Config, deps: Deps) -> Node {
    let Config { node, data, plan, id, zone, pool, baseline_after, .. } = config;
    let Deps { state, library, routing, authority, journal, clock } = deps;
    let offsets = Rotation::new(u32::from(*INSTANCE_OFFSETS.start())..u32::from(*INSTANCE_OFFSETS.end()) + 1);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Node {
        name: node,
        trees: Arc::new(Trees::new(data.join("trees"), library)),
        data,
        plan,
        id,
        zone,
        state,
        routing,
        journal,
        clock,
        baseline_after,
        metrics: Metrics::default(),
        signals: Signals::default(),
        slots: Slots::new(u32::try_from(2 * cores).unwrap_or(u32::MAX)),
        pool: Pool::new(pool),
        client: minato_identity::client::Client::new(Arc::clone(&authority)),
        issuer: Issuer::new(authority),
        looks: tokio::sync::Mutex::default(),
        loops: TaskTracker::new(),
        tasks: TaskTracker::new(),
        over: CancellationToken::new(),
        left: CancellationToken::new(),
        keeper: Mutex::new(None),
        table: Mutex::new(Table::new(offsets, Rotation::new(0..0))),
    }
}

impl Wake for Agent {
    fn wake(&self, release: &ReleaseKey, need: u32) {
        self.node.signals.wake(release, need);
    }

    fn suspect(&self, instance: &InstanceId) {
        self.node.signals.suspect(instance);
    }

    fn failing(&self, instance: &InstanceId) {
        self.node.signals.failing(instance);
    }

    fn distrust(&self, instance: &InstanceId, reason: &str) {
        self.node.signals.distrust(instance, reason);
    }

    fn is_starting(&self, release: &ReleaseKey) -> bool {
        // Whoever has the table may be calling the edge.
        let Ok(table) = self.node.table.try_lock() else { return true };
        let starts = |phase: &Phase| matches!(phase, Phase::Starting);
        table.instances.values().any(|record| record.release == *release && starts(&record.phase))
    }
}
