//! Making a server, in the order in which its parts need each other. What can be refused without
//! touching the kernel is refused first.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    sync::Arc,
};

use anyhow::{Context as _, bail};
use minato_edge::Edge;
use minato_identity::Authority;
use minato_model::{ids::NodeName, network::AddressPlan, routing::Routing};
use minato_network::{EnsureError, NodeId8, NodeNetwork};
use tokio_util::sync::CancellationToken;

use super::{
    clock,
    data::DataDirectory,
    handover::Desk,
    late::Late,
    ports, rotation,
    token::{self, Posted},
    works::{Stores, Works},
};
use crate::config::Config;

/// Ranges that are tried for a network that nobody configured.
const RANGES_TRIED: u32 = 20;

/// What a server stands on for as long as its process has the data directory.
pub(super) struct Ground {
    pub(super) config: Config,
    /// Held until the server ends, or another has taken over.
    pub(super) data: DataDirectory,
    pub(super) name: NodeName,
    pub(super) token: Arc<str>,
    /// Who signs certificates here.
    pub(super) authority: Arc<Authority>,
    pub(super) network: NodeNetwork,
    /// This program, which becomes the keeper: as it was called at the start, as it may be replaced.
    pub(super) exe: PathBuf,
    /// Whom the edge wakes.
    pub(super) wake: Late,
}

/// A running server.
pub(super) struct Server {
    pub(super) ground: Ground,
    pub(super) edge: Edge,
    /// The edge, and that of the server before it while that has connections.
    pub(super) routing: Arc<dyn Routing>,
    pub(super) works: Works,
    /// The API's listener; each round of works serves a duplicate.
    pub(super) api: TcpListener,
    /// Taken away when it is dropped.
    pub(super) posted: Posted,
    /// Where another server asks to take over.
    pub(super) desk: Desk,
    /// Cancelled when the server before this one, if there was one, is gone.
    pub(super) alone: CancellationToken,
}

/// Makes everything.
pub(super) async fn all(config: Config) -> anyhow::Result<Server> {
    let data = DataDirectory::open(&config.data)?;
    let api = ports::take(config.api, "the API", "--api")?;
    let doors = Doors::open(&config, minato_edge::handover::Inherited::default())?;
    let desk = Desk::open(&data.path)?;
    check_kernel(&data.path)?;
    let stores = Stores::open(&data.path)?;
    // From here on there is something in the kernel to give back.
    let ground = Ground::new(config, data)?;
    let edge = Edge::start(ground.edge(doors), Arc::new(ground.wake.clone()))?;
    let routing: Arc<dyn Routing> = Arc::new(edge.handle());
    let works = Works::start(&ground, stores, routing.clone(), edge.handle(), api.try_clone()?).await?;
    let posted = ground.post()?;
    works.record("server_started", "the server is ready", serde_json::Value::Null);
    let alone = CancellationToken::new();
    alone.cancel();
    Ok(Server { ground, edge, routing, works, api, posted, desk, alone })
}

/// Whether the kernel has what instances need.
pub(super) fn check_kernel(data: &std::path::Path) -> anyhow::Result<()> {
    match minato_runtime::kernel::check_kernel(data) {
        Ok(()) => Ok(()),
        Err(missing) => bail!("{missing}; {}", missing.hint),
    }
}

/// What the edge listens with: one listener a thread for each of its public addresses.
pub(super) struct Doors {
    pub(super) http: Vec<TcpListener>,
    pub(super) https: Vec<TcpListener>,
    pub(super) inherited: minato_edge::handover::Inherited,
}

impl Doors {
    /// The listeners: inherited, where there are such for this address, or taken.
    pub(super) fn open(
        config: &Config,
        mut inherited: minato_edge::handover::Inherited,
    ) -> anyhow::Result<Self> {
        Ok(Self { http: http(config, &mut inherited)?, https: https(config, &mut inherited)?, inherited })
    }
}

/// The edge's listeners for HTTP.
pub(super) fn http(
    config: &Config,
    inherited: &mut minato_edge::handover::Inherited,
) -> anyhow::Result<Vec<TcpListener>> {
    let taken = inherited.http(config.http, threads());
    taken.with_context(|| ports::not_listening(config.http, "HTTP", "--http"))
}

/// The edge's listeners for TLS.
pub(super) fn https(
    config: &Config,
    inherited: &mut minato_edge::handover::Inherited,
) -> anyhow::Result<Vec<TcpListener>> {
    let taken = inherited.https(config.https, threads());
    taken.with_context(|| ports::not_listening(config.https, "TLS", "--https"))
}

impl Ground {
    /// The ground on a data directory that this process has; puts its network in force.
    pub(super) fn new(config: Config, data: DataDirectory) -> anyhow::Result<Self> {
        let name = name(&data.id)?;
        let token = token::load(&data.path)?.into();
        let authority = rotation::open(&data.path, &name, config.tls.lifetimes)?;
        let network = network(&config, &data, data.node_id()?)?;
        let exe = std::env::current_exe().context("can't find this program, which becomes the keeper")?;
        Ok(Self { config, data, name, token, authority, network, exe, wake: Late::default() })
    }

    /// How the edge is set up.
    pub(super) fn edge(&self, doors: Doors) -> minato_edge::Config {
        let mut config = minato_edge::Config::new(doors.http, Some(self.network.plan));
        config.https = doors.https;
        config.zone.clone_from(&self.config.zone);
        config.authority = Some(self.authority.clone());
        config.trusted_proxies.clone_from(&self.config.trusted_proxies);
        config.access_log = self.config.access_log.as_ref().map(|log| minato_edge::log::AccessLog {
            format: log.format,
            path: log.path.clone(),
            sample: log.sample,
            max_bytes: log.max_bytes,
            clock: clock::now,
        });
        config.inherited = doors.inherited;
        config
    }

    /// Puts the token where the command line finds it, and nowhere else.
    pub(super) fn post(&self) -> anyhow::Result<Posted> {
        let posted = Posted::new(self.config.api, &self.token)?;
        token::withdraw(&self.data.path, Some(self.config.api))?;
        Ok(posted)
    }
}

/// The network that is configured, that was chosen before, or that is free; put in force.
fn network(config: &Config, data: &DataDirectory, id: NodeId8) -> anyhow::Result<NodeNetwork> {
    let known = data.network()?;
    let node = ensure(config.network, known, id)?;
    let network = *node.network();
    if known != Some(network.plan.base()) {
        data.set_network(network.plan.base())?;
    }
    if node.forwarding_turned_on() {
        tracing::warn!("net.ipv4.ip_forward was off; it is on now, and stays on");
    }
    match minato_network::forward_blocked(&network) {
        Ok(Some(why)) => tracing::warn!("instances won't reach the outside: {why}"),
        Ok(None) => {}
        Err(error) => tracing::debug!(%error, "it isn't known whether forwarding is blocked"),
    }
    Ok(network)
}

/// Puts a network in force. One that nobody configured makes way for another node's that has its range:
/// both may have chosen it at the same moment, or this one's was given back while it was stopped.
fn ensure(
    configured: Option<Ipv4Addr>,
    known: Option<Ipv4Addr>,
    id: NodeId8,
) -> anyhow::Result<minato_network::Node> {
    let mut base = configured.or(known);
    for _ in 1..RANGES_TRIED {
        let plan = base.map_or_else(minato_network::choose_range, |base| Ok(AddressPlan::new(base)))?;
        match minato_network::Node::ensure(&NodeNetwork { id, plan }) {
            Err(EnsureError::RangeTaken { base: taken, by }) if configured.is_none() => {
                tracing::warn!("the network {taken}/16 is another's ({by}); another is chosen");
                base = None;
            }
            ensured => {
                return ensured.with_context(|| {
                    format!("the network {}/16 can't be made; --network chooses another", plan.base())
                });
            }
        }
    }
    bail!("each network that was free was taken before it could be claimed; --network chooses one")
}

/// The host's name and the id's beginning: two nodes of one machine differ.
fn name(id: &str) -> anyhow::Result<NodeName> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().to_lowercase();
    let host: String =
        host.chars().filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-').take(30).collect();
    let host = host.trim_matches(|c: char| c == '-' || c.is_ascii_digit());
    let host = if host.is_empty() { "node" } else { host };
    Ok(format!("{host}-{}", id.get(..4).unwrap_or(id)).parse()?)
}

/// One edge thread a core.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
