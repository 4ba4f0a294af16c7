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

mod acme;
mod api;
pub(crate) mod background;
mod clock;
mod data;
mod handover;
mod late;
mod linger;
mod nodes;
mod notify;
mod ports;
mod rotation;
mod start;
mod token;
mod works;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use minato_agent::Agent;
use minato_edge::Edge;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    config::{Config, Stop},
    failure::Failure,
    show,
};
use data::DataDirectory;
use handover::Outcome;
use start::Server;

/// How long a stopping edge waits for the answers under way.
const EDGE_DRAIN: Duration = Duration::from_secs(30);
/// Threads for what blocks: unpacking, the state's reads, system calls of starts.
const BLOCKING_THREADS: usize = 64;

/// Runs a server until it is told to stop, or another has taken over. With `upgrade` it takes over itself.
pub(crate) fn run(config: Config, upgrade: bool) -> Result<(), Failure> {
    must_be_root()?;
    crate::do_without_huge_pages();
    log(&config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .context("can't start the control runtime")?;
    let served = runtime.block_on(serve(config, upgrade));
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
    token::withdraw(&data.path, None)?;
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
        // A log that nobody reads any more doesn't end the server.
        .log_internal_errors(false)
        .with_ansi(show::is_interactive())
        .init();
    Ok(())
}

async fn serve(config: Config, upgrade: bool) -> anyhow::Result<()> {
    // Whoever asks to stop while the parts are still being made is heard when they are.
    let mut signals = Signals::new()?;
    let mut server = if upgrade { handover::take_over(config).await? } else { start::all(config).await? };
    let config = &server.ground.config;
    show::line(&format!("ready api={} http={} https={}", config.api, config.http, config.https));
    tracing::info!(data = %config.data.display(), "the server is ready");
    notify::ready();
    loop {
        let visitor = tokio::select! {
            () = signals.next() => break,
            visitor = server.desk.next(&server.ground.config) => visitor,
        };
        server = match handover::hand_over(server, visitor).await? {
            Outcome::Kept(server) => *server,
            Outcome::Replaced(retiring) => {
                retiring.run(&mut signals).await;
                return Ok(());
            }
        };
    }
    let Server { ground, edge, works, posted, desk, .. } = server;
    tracing::info!(stop = ?ground.config.stop, "the server stops");
    works.set_ready(false);
    desk.close();
    stop(ground.config.stop, &works.agent, edge, &mut signals).await;
    drop(posted);
    works.end().await
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

/// SIGTERM and SIGINT, which mean the same, and SIGHUP: the end where it says that the terminal was
/// closed, else nothing, as settings are read at the start only.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// `None`: whoever started the server (`nohup`) has it ignored.
    hangup: Option<Signal>,
    /// Whether there was a terminal to begin with.
    terminal: bool,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: if ignores_hangup(&status) { None } else { Some(signal(SignalKind::hangup())?) },
            terminal: std::fs::File::open("/dev/tty").is_ok(),
        })
    }

    async fn next(&mut self) {
        loop {
            let hangup = async {
                match &mut self.hangup {
                    Some(hangup) => hangup.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = hangup => {
                    if self.terminal {
                        return;
                    }
                    tracing::warn!("SIGHUP changes nothing: settings are read at the start; restart the server");
                }
            }
        }
    }
}

/// Whether a process's status (proc_pid_status(5)) says that SIGHUP, the first signal, is ignored.
fn ignores_hangup(status: &str) -> bool {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::{ignores_hangup, quoted};

    #[test]
    fn a_word_is_quoted_where_a_shell_needs_it() {
        assert_eq!(quoted("--api"), "--api");
        assert_eq!(quoted("127.0.0.1:7070"), "127.0.0.1:7070");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted("$HOME"), "'$HOME'");
    }

    #[test]
    fn nohup_is_seen() {
        assert!(ignores_hangup("Name:\tminato\nSigIgn:\t0000000000001001\n"));
        assert!(!ignores_hangup("SigIgn:\t0000000000001000\n"));
        assert!(!ignores_hangup("SigBlk:\t0000000000000001\n"));
        assert!(!ignores_hangup(""));
    }
}
