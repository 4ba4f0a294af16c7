//! An edge's life: start, drain, end.

use std::{io, net::TcpListener, sync::Arc, thread::JoinHandle, time::Duration};

use minato_identity::client::Client;
use minato_model::routing::Wake;
use tokio::{
    runtime::{Builder, LocalOptions},
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    clock,
    config::Config,
    handle::Handle,
    handover::{Listening, Name, duplicate},
    log::{self, AccessLog, Ink},
    names,
    serve::{self, Command, Life, Local},
    shared::Shared,
    tls::Tls,
};

/// How long those who are told at the end that their request or stream ends have to read it; a little
/// longer than a WebSocket has to close.
pub(crate) const FAREWELL: Duration = Duration::from_millis(1500);

/// A running edge. Dropping it ends it at once.
#[derive(Debug)]
pub struct Edge {
    pub(crate) handle: Handle,
    pub(crate) life: watch::Sender<Life>,
    /// The name server's sockets, to be handed over.
    pub(crate) names: Vec<Listening>,
    threads: Vec<JoinHandle<()>>,
}

/// An edge can't be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no listener, so there would be no thread.
    #[error("an edge needs at least one listener")]
    NoListener,
    /// The system gives no thread, or no random numbers.
    #[error("can't start an edge thread")]
    Thread(#[source] io::Error),
    /// The library of TLS can't be set up.
    #[error("TLS can't be set up")]
    Tls(#[source] rustls::Error),
    /// The name server's address is taken, or not there.
    #[error("can't answer names at {address}")]
    Names {
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Edge {
    /// Starts an edge: one thread for each of its listeners, and one for names where it has a plan.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(config: Config, wake: Arc<dyn Wake>) -> Result<Self, StartError> {
        let edge = Self::prepare(config, wake)?;
        edge.open();
        Ok(edge)
    }

    /// The same, but nothing that comes to its listeners is taken until it is [opened](Self::open): a
    /// predecessor has the same sockets, and answers until this edge knows what it does.
    ///
    /// # Errors
    /// See [`StartError`].
    #[expect(
        clippy::disallowed_methods,
        reason = "the agent's calls must not wait for an edge thread; each leaves at most one command a thread, and \
                  connections handed over count against their bound"
    )]
    pub fn prepare(config: Config, wake: Arc<dyn Wake>) -> Result<Self, StartError> {
        let Config {
            http,
            https,
            plan,
            authority,
            zone,
            trusted_proxies,
            access_log,
            resolv_conf,
            inherited,
            limits,
        } = config;
        if http.is_empty() {
            return Err(StartError::NoListener);
        }
        let (senders, receivers): (Vec<_>, Vec<_>) =
            http.iter().map(|_| mpsc::unbounded_channel::<Command>()).unzip();
        let port =
            https.first().and_then(|listener| listener.local_addr().ok()).map(|address| address.port());
        let tls = (Tls::new(authority.clone()).map_err(StartError::Tls)?, port);
        let public = http.first().and_then(|listener| listener.local_addr().ok()).map(|address| address.ip());
        let config = (limits, trusted_proxies, plan, zone, public);
        let credentials = authority.map(Client::new);
        let shared = Arc::new(Shared::new(config, wake, senders, inherited, tls, credentials));
        let (life, watching) = watch::channel(Life::Preparing);
        let mut edge = Self {
            handle: Handle { shared: Arc::clone(&shared) },
            life,
            names: Vec::new(),
            threads: Vec::new(),
        };
        // Declared after the edge, so that it is gone when the edge waits for the writer's end.
        let ink = access_log.map(|log| edge.log(log)).transpose()?;
        for (index, (listeners, commands)) in each(http, https).into_iter().zip(receivers).enumerate() {
            let (shared, life, ink) = (Arc::clone(&shared), watching.clone(), ink.clone());
            let seed = getrandom::u64().map_err(|error| StartError::Thread(io::Error::other(error)))?;
            edge.spawn(format!("edge-{index}"), async move || {
                let local = Local::new(shared, index, life, seed, ink);
                serve::run(std::rc::Rc::new(local), listeners, commands).await;
            })?;
        }
        if let Some(plan) = plan {
            let address = std::net::SocketAddr::from((plan.gateway(), 53));
            let fail = |source| StartError::Names { address, source };
            let (udp, tcp) = shared.inherited().names(address).map_err(fail)?;
            for socket in [duplicate(Name::NamesUdp, &udp), duplicate(Name::NamesTcp, &tcp)] {
                edge.names.push(socket.map_err(fail)?);
            }
            let names = names::Server { udp, tcp, plan, resolv_conf, shared: Arc::clone(&shared) };
            edge.spawn("edge-names".to_owned(), async move || names.run(watching).await)?;
        }
        Ok(edge)
    }

    /// Takes connections from now on.
    pub fn open(&self) {
        self.life.send_if_modified(|life| {
            let prepared = *life == Life::Preparing;
            if prepared {
                *life = Life::Serving;
            }
            prepared
        });
    }

    /// What the agent is handed.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// What was measured, as Prometheus text.
    #[must_use]
    pub fn metrics(&self) -> String {
        self.handle.metrics()
    }

    /// Ends the edge: takes no more connections, answers what was asked, and after `within` cuts
    /// what is left; whoever still waits for an instance then is told so. Resolves when all its
    /// threads have ended.
    pub async fn drain(self, within: Duration) {
        let deadline = Instant::now() + within;
        self.life.send_replace(Life::Draining);
        let shared = Arc::clone(&self.handle.shared);
        shared.confirmed().await;
        if tokio::time::timeout_at(deadline, no_connections(&shared)).await.is_err() {
            shared.end_all_streams();
            self.life.send_replace(Life::Ending);
            // Whoever reads slowly, or waits for a stream's end, is cut.
            drop(tokio::time::timeout(FAREWELL, no_connections(&shared)).await);
        }
        self.end().await;
    }

    /// Ends all threads.
    pub(crate) async fn end(mut self) {
        self.life.send_replace(Life::Ended);
        let threads = std::mem::take(&mut self.threads);
        let joined = tokio::task::spawn_blocking(move || join(threads)).await;
        if let Err(error) = joined {
            tracing::error!(%error, "the edge's threads could not be joined");
        }
    }

    /// Starts the thread that writes the access log. It ends when the edge threads have.
    fn log(&mut self, log: AccessLog) -> Result<Ink, StartError> {
        let (writer, ink) = log::open(log, Arc::clone(&self.handle.shared.totals.log));
        let thread = std::thread::Builder::new().name("edge-log".to_owned()).spawn(move || writer.run());
        self.threads.push(thread.map_err(StartError::Thread)?);
        Ok(ink)
    }

    /// Starts a thread with a runtime of its own.
    fn spawn<F>(&mut self, name: String, main: F) -> Result<(), StartError>
    where
        F: AsyncFnOnce() + Send + 'static,
    {
        let runtime = move || {
            // Checked below by whoever needs it: without a runtime there is no thread to speak of.
            let mut builder = Builder::new_current_thread();
            match builder.enable_all().on_thread_unpark(clock::woke).build_local(LocalOptions::default()) {
                Ok(runtime) => runtime.block_on(async {
                    clock::keep();
                    main().await;
                }),
                Err(error) => tracing::error!(%error, "an edge thread has no runtime"),
            }
        };
        let thread = std::thread::Builder::new().name(name).spawn(runtime).map_err(StartError::Thread)?;
        self.threads.push(thread);
        Ok(())
    }
}

/// What each thread listens at.
fn each(http: Vec<TcpListener>, https: Vec<TcpListener>) -> Vec<Vec<(Name, TcpListener)>> {
    let mut threads: Vec<_> = http.into_iter().map(|listener| vec![(Name::Http, listener)]).collect();
    let count = threads.len().max(1);
    for (index, listener) in https.into_iter().enumerate() {
        if let Some(own) = threads.get_mut(index % count) {
            own.push((Name::Https, listener));
        }
    }
    threads
}

/// Resolves when no client is connected, and none will be.
pub(crate) async fn no_connections(shared: &Shared) {
    loop {
        let ended = shared.ended.notified();
        if !shared.is_accepting() && shared.connections() == 0 {
            return;
        }
        ended.await;
    }
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        if thread.join().is_err() {
            tracing::error!("an edge thread panicked");
        }
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.life.send_replace(Life::Ended);
        join(std::mem::take(&mut self.threads));
    }
}
