//! The server's roles, and who is handed to whom. `edge`, `agent` and `control` never meet but here.
//!
//! ```text
//! data directory ─ lock ─ id ─┬─ state ──┬─────────▶ control ◀── registry (what images are)
//!                             ├─ network │              ▲
//!                             └─ keeper ─┴─▶ agent ─────┘ (what instances are)
//!                                            │  ▲
//!                                    routing ▼  │ wake
//!                                            edge
//! ```

mod api;
mod clock;
mod data;
mod late;
mod nodes;
mod ports;
mod start;
mod token;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use minato_agent::Agent;
use minato_edge::Edge;
use minato_registry::Library;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, Stop},
    failure::Failure,
    show,
};
use data::DataDirectory;
use start::Started;

/// How long a stopping edge waits for the answers under way.
const EDGE_DRAIN: Duration = Duration::from_secs(30);
/// How often unfinished uploads are looked at.
const UPLOADS: Duration = Duration::from_secs(3_600);
/// Threads for what blocks: unpacking, the state's reads, system calls of starts.
const BLOCKING_THREADS: usize = 64;

/// Runs a server until it is told to stop.
pub(crate) fn run(config: Config) -> Result<(), Failure> {
    must_be_root()?;
    log(&config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .context("can't start the control runtime")?;
    let served = runtime.block_on(serve(config));
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(served?)
}

/// Takes away what a data directory left in the kernel. The directory stays.
pub(crate) fn clean(config: &Config) -> Result<(), Failure> {
    must_be_root()?;
    if !config.data.is_dir() {
        return Err(Failure::Usage(format!("there is no data directory {}", config.data.display())));
    }
    let data = DataDirectory::open(&config.data)?;
    let id = data.node_id()?;
    minato_runtime::keeper::clean(&data.id, &data.path)
        .context("instances and control groups could not be cleaned")?;
    minato_network::clean(id).context("the network could not be taken away")?;
    token::withdraw(&data.path)?;
    show::progress(&format!("nothing of {} is left in the kernel; its data stays", data.path.display()));
    Ok(())
}

/// Instances need root; says the very line that has it.
fn must_be_root() -> Result<(), Failure> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let program =
        std::env::current_exe().map_or_else(|_| "minato".to_owned(), |path| path.display().to_string());
    let words = std::env::args().skip(1).map(|word| quoted(&word)).collect::<Vec<_>>().join(" ");
    Err(Failure::Usage(format!(
        "a server makes containers and networks, which root alone may; run: sudo {program} {words}"
    )))
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn log(filter: &str) -> Result<(), Failure> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .map_err(|error| Failure::Usage(format!("`log` is `{filter}`, which is no filter: {error}")))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(show::is_interactive())
        .init();
    Ok(())
}

async fn serve(config: Config) -> anyhow::Result<()> {
    // Whoever asks to stop while the parts are still being made is heard when they are.
    let mut signals = Signals::new()?;
    let started = start::all(&config).await?;
    let Started { agent, edge, control, api, library, token, data } = started;

    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(api::serve(api.listener, api.router, shutdown.clone()));
    {
        let (control, shutdown) = (control.clone(), shutdown.clone());
        tasks.spawn(async move {
            control.run(shutdown).await;
            Ok(())
        });
    }
    tasks.spawn(expire_uploads(library, shutdown.clone()));
    control.set_ready(true);
    show::line(&format!("ready api={} http={}", config.api, config.http));
    tracing::info!(data = %config.data.display(), "the server is ready");

    signals.next().await;
    tracing::info!(stop = ?config.stop, "the server stops");
    control.set_ready(false);
    stop(config.stop, &agent, edge, &mut signals).await;
    shutdown.cancel();
    drop(token);
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    drop(data);
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
            () = tokio::time::sleep(UPLOADS) => {}
            () = shutdown.cancelled() => {}
        }
    }
    Ok(())
}

/// Ends edge and instances: what was begun is finished, unless a second signal comes.
async fn stop(how: Stop, agent: &Arc<Agent>, edge: Edge, signals: &mut Signals) {
    let drained = async {
        edge.drain(EDGE_DRAIN).await;
        match how {
            Stop::End => agent.stop(true).await,
            Stop::Keep => agent.leave().await,
        }
    };
    tokio::select! {
        () = drained => {}
        () = signals.next() => {
            tracing::info!("a second signal: the drain is skipped");
            match how {
                Stop::End => agent.stop(false).await,
                Stop::Keep => agent.leave().await,
            }
        }
    }
}

/// SIGTERM and SIGINT, which mean the same.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
