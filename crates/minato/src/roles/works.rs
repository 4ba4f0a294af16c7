//! The parts of a server that are there once on a data directory: state, journal, images, agent,
//! control and the API. When another server takes over they end, and the edge goes on without them; if
//! that server comes to nothing, they are made again.

use std::{net::TcpListener, path::Path, sync::Arc, time::Duration};

use minato_agent::{Agent, events::FileJournal};
use minato_control::Control;
use minato_model::{
    event::{Event, Journal},
    ids::NodeName,
    keys,
    network::AddressPlan,
    node::NodeRecord,
    routing::Routing,
};
use minato_registry::Library;
use minato_state::{State, Write, sqlite};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    acme, api,
    clock::{self, now},
    nodes::ThisNode,
    rotation,
    start::Ground,
};

/// How often unfinished uploads are looked at.
const UPLOADS: Duration = Duration::from_secs(3_600);
/// How long the API's answers under way may take when the server ends.
const ANSWERS: Duration = Duration::from_secs(3);
/// The same when another server takes over: an image's layer may be on its way.
const ANSWERS_HANDED_OVER: Duration = Duration::from_secs(10);
/// How long whoever reads an event or a log may hold the journal.
const LETTING_GO: Duration = Duration::from_secs(2);

/// What is on the disk, open.
pub(super) struct Stores {
    state: Arc<sqlite::Engine>,
    journal: Arc<FileJournal>,
    library: Arc<Library>,
}

impl Stores {
    /// Opens everything in the data directory.
    pub(super) fn open(data: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            state: sqlite::Engine::open(data, sqlite::Config::default())?,
            journal: FileJournal::open(&data.join("events"))?,
            library: Library::open(&data.join("registry"), minato_registry::Limits::default())?,
        })
    }
}

/// The parts, at work.
pub(super) struct Works {
    pub(super) agent: Arc<Agent>,
    control: Control,
    stores: Stores,
    /// How long the API's answers may still take, once it ends.
    ending: watch::Sender<Option<Duration>>,
    shutdown: CancellationToken,
    tasks: JoinSet<std::io::Result<()>>,
}

impl Works {
    /// Makes them on what there is, and serves the API.
    pub(super) async fn start(
        ground: &Ground,
        stores: Stores,
        routing: Arc<dyn Routing>,
        edge: minato_edge::Handle,
        api: TcpListener,
    ) -> anyhow::Result<Self> {
        let Stores { state, journal, library } = &stores;
        let acme = acme::open(ground, state.clone(), journal.clone(), routing.clone())?;
        let agent = agent(ground, &stores, routing).await?;
        ground.wake.set(agent.clone());
        register(&**state, &ground.name, ground.network.plan).await?;
        let address = api.local_addr()?;
        let mut names = ground.config.tls.api_names.clone();
        let secure = api::secure(ground.authority.clone(), address, &names)?;
        if !address.ip().is_unspecified() {
            names.push(address.ip().to_string());
        }
        let tokens = Arc::new(minato_identity::Tokens::new(&ground.token, Arc::new(now)));
        let control = Control::new(minato_control::Deps {
            state: state.clone(),
            nodes: Arc::new(ThisNode::new(ground.name.clone(), agent.clone())),
            images: library.clone(),
            journal: journal.clone(),
            clock: Arc::new(now),
            extra_metrics: Arc::new(move || edge.metrics()),
            tokens: tokens.clone(),
            allowed_hosts: names.clone(),
            roots: minato_control::Roots {
                cluster: ground.authority.cluster().to_owned(),
                trust: ground.authority.trust(),
            },
            http: Some(ground.config.http),
            https: Some(ground.config.https),
            issuance: acme
                .clone()
                .map(|acme| -> minato_control::Issuances { Arc::new(move |host: &str| acme.issuance(host)) }),
        });
        control.admit().await?;
        let access = minato_registry::Access {
            tokens,
            anonymous_push: ground.config.anonymous_push,
            hosts: names,
            secure: secure.is_some(),
        };
        let router = control.router().merge(minato_registry::router(library.clone(), access));
        let (ending, ends) = watch::channel(None);
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(api::serve(api, router, secure, ends));
        let (driven, driven_until) = (control.clone(), shutdown.clone());
        tasks.spawn(async move {
            driven.run(driven_until).await;
            Ok(())
        });
        tasks.spawn(expire_uploads(library.clone(), shutdown.clone()));
        if let Some(acme) = acme {
            let until = shutdown.clone();
            tasks.spawn(async move {
                acme.run(until).await;
                Ok(())
            });
        }
        tasks.spawn(rotation::run(ground.authority.clone(), journal.clone(), shutdown.clone()));
        control.set_ready(true);
        Ok(Self { agent, control, stores, ending, shutdown, tasks })
    }

    /// Notes what happened to the server.
    pub(super) fn record(&self, kind: &str, reason: &str, data: serde_json::Value) {
        self.stores.journal.record(Event::new(now(), kind, reason).with_data(data));
    }

    /// What `/readyz` says from now on.
    pub(super) fn set_ready(&self, ready: bool) {
        self.control.set_ready(ready);
    }

    /// Ends API and reconcilers. The agent is stopped by then.
    pub(super) async fn end(mut self) -> anyhow::Result<()> {
        self.end_tasks(ANSWERS).await
    }

    /// Ends API and reconcilers for another server: the agent works on, callers wait in the listener's
    /// queue.
    pub(super) async fn pause(&mut self) -> anyhow::Result<()> {
        self.control.set_ready(false);
        self.end_tasks(ANSWERS_HANDED_OVER).await
    }

    /// Ends everything else so that another server can begin: what was acknowledged is written,
    /// instances run on, nothing is held open.
    pub(super) async fn hand_over(self) {
        let Self { agent, control, stores, .. } = self;
        agent.hand_over().await;
        drop((agent, control));
        stores.state.close().await;
        // Dropped by its last owner, the journal has written all its lines.
        let mut journal = stores.journal;
        let let_go = async {
            while let Err(shared) = Arc::try_unwrap(journal) {
                journal = shared;
                sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(LETTING_GO, let_go).await.is_err() {
            tracing::warn!("the journal is still in use: its last lines may be missing");
        }
    }

    async fn end_tasks(&mut self, answers: Duration) -> anyhow::Result<()> {
        self.ending.send_replace(Some(answers));
        self.shutdown.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(())
    }
}

async fn agent(ground: &Ground, stores: &Stores, routing: Arc<dyn Routing>) -> anyhow::Result<Arc<Agent>> {
    let Stores { state, journal, library } = stores;
    let config = minato_agent::Config {
        node: ground.name.clone(),
        data: ground.data.path.clone(),
        plan: ground.network.plan,
        id: ground.network.id,
        exe: ground.exe.clone(),
        zone: ground.config.zone.clone(),
        pool: ground.config.pool,
        baseline_after: minato_agent::BASELINE_AFTER,
    };
    let deps = minato_agent::Deps {
        state: state.clone(),
        library: library.clone(),
        routing,
        authority: ground.authority.clone(),
        journal: journal.clone(),
        clock: Arc::new(now),
    };
    Ok(Agent::start(config, deps).await?)
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

/// Takes away, every hour, what clients began to push long ago and never finished.
async fn expire_uploads(library: Arc<Library>, shutdown: CancellationToken) -> std::io::Result<()> {
    while !shutdown.is_cancelled() {
        let library = library.clone();
        match tokio::task::spawn_blocking(move || library.expire_uploads(clock::now())).await {
            Ok(Ok(0)) => {}
            Ok(Ok(expired)) => tracing::info!(expired, "unfinished uploads were taken away"),
            Ok(Err(error)) => tracing::warn!(%error, "unfinished uploads could not be looked at"),
            Err(error) => tracing::error!(%error, "the look at unfinished uploads broke off"),
        }
        tokio::select! {
            () = sleep(UPLOADS) => {}
            () = shutdown.cancelled() => {}
        }
    }
    Ok(())
}
