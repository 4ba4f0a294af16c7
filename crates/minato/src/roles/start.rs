//! Making the parts, in the order in which they need each other. What can be refused without touching
//! the kernel is refused first.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::Arc,
};

use anyhow::{Context as _, bail};
use axum::Router;
use minato_agent::{Agent, events::FileJournal};
use minato_control::Control;
use minato_edge::Edge;
use minato_model::{
    event::{Event, Journal},
    ids::NodeName,
    keys,
    network::AddressPlan,
    node::NodeRecord,
};
use minato_network::{EnsureError, NodeId8, NodeNetwork};
use minato_registry::Library;
use minato_state::{State, Write, sqlite};

use super::{
    clock::now,
    data::DataDirectory,
    late::Late,
    nodes::ThisNode,
    ports,
    token::{self, Posted},
};
use crate::config::Config;

/// Ranges that are tried for a network that nobody configured.
const RANGES_TRIED: u32 = 20;

/// The parts of a running server.
pub(super) struct Started {
    pub(super) agent: Arc<Agent>,
    pub(super) edge: Edge,
    pub(super) control: Control,
    pub(super) api: Api,
    pub(super) library: Arc<Library>,
    /// Taken away when it is dropped.
    pub(super) token: Posted,
    /// Held until the server ends.
    pub(super) data: DataDirectory,
}

/// What is to be served on the API's port.
pub(super) struct Api {
    pub(super) listener: TcpListener,
    pub(super) router: Router,
}

/// Makes everything.
pub(super) async fn all(config: &Config) -> anyhow::Result<Started> {
    let data = DataDirectory::open(&config.data)?;
    let listener = ports::take(config.api, "the API", "--api")?;
    let http = minato_edge::listen::bind(config.http, threads()).with_context(|| {
        format!(
            "can't listen on {} for HTTP; stop what has it (`ss -ltnp`), or choose another with --http",
            config.http
        )
    })?;
    if let Err(missing) = minato_runtime::kernel::check_kernel(&data.path) {
        bail!("{missing}; {}", missing.hint);
    }
    let id = data.node_id()?;
    let name = name(&data.id)?;
    let state: Arc<dyn State> = sqlite::Engine::open(&data.path, sqlite::Config::default())?;
    let journal: Arc<dyn Journal> = FileJournal::open(&data.path.join("events"))?;
    let library = Library::open(&data.path.join("registry"), minato_registry::Limits::default())?;
    let token: Arc<str> = token::load(&data.path)?.into();
    // From here on there is something in the kernel to give back.
    let network = network(config, &data, id)?;

    let late = Late::default();
    let mut edge_config = minato_edge::Config::new(http, Some(network.plan));
    edge_config.trusted_proxies = config.trusted_proxies.clone();
    let edge = Edge::start(edge_config, Arc::new(late.clone()))?;
    let agent = Agent::start(
        minato_agent::Config {
            node: name.clone(),
            data: data.path.clone(),
            plan: network.plan,
            id,
            exe: std::env::current_exe().context("can't find this program, which becomes the keeper")?,
        },
        minato_agent::Deps {
            state: state.clone(),
            library: library.clone(),
            routing: Arc::new(edge.handle()),
            journal: journal.clone(),
            clock: Arc::new(now),
        },
    )
    .await?;
    late.set(agent.clone());
    register(&*state, &name, network.plan).await?;
    let control = control(config, &state, &name, &agent, &library, &journal, &edge, &token);
    let access = minato_registry::Access {
        api_token: token.clone(),
        anonymous_push: config.anonymous_push,
        hosts: Vec::new(),
    };
    let router = control.router().merge(minato_registry::router(library.clone(), access));
    token::withdraw(&data.path)?;
    let posted = Posted::new(config.api, &token)?;
    journal.record(Event::new(now(), "server_started", "the server is ready"));
    Ok(Started { agent, edge, control, api: Api { listener, router }, library, token: posted, data })
}

fn control(
    config: &Config,
    state: &Arc<dyn State>,
    name: &NodeName,
    agent: &Arc<Agent>,
    library: &Arc<Library>,
    journal: &Arc<dyn Journal>,
    edge: &Edge,
    token: &Arc<str>,
) -> Control {
    let handle = edge.handle();
    Control::new(minato_control::Deps {
        state: state.clone(),
        nodes: Arc::new(ThisNode::new(name.clone(), agent.clone())),
        images: library.clone(),
        journal: journal.clone(),
        clock: Arc::new(now),
        extra_metrics: Arc::new(move || handle.metrics()),
        token: token.clone(),
        allowed_hosts: Vec::new(),
        http: Some(config.http),
    })
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

async fn register(state: &dyn State, name: &NodeName, plan: AddressPlan) -> anyhow::Result<()> {
    let record = NodeRecord {
        name: name.clone(),
        platform: minato_image::manifest::Platform::of_this_machine().to_string(),
        network: plan,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: now(),
    };
    let value = serde_json::to_vec(&record)?;
    state.commit(Vec::new(), vec![Write::Put { key: keys::node(name), value }]).await?;
    Ok(())
}

/// One edge thread a core.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
