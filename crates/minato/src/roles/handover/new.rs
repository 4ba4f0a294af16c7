//! The new server's side: it tries all that can fail, then takes what the running one gives.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use minato_edge::{
    Edge,
    handover::{self as edge, Inherited, Listening},
};
use minato_model::routing::Routing;
use minato_runtime::crash;
use tokio::{net::UnixStream, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    desk::Desk,
    line::{self, Reader, Writer},
    link::Link,
    mirror::Mirror,
    program,
    protocol::{FromNew, FromOld, Name, VERSIONS},
    way,
};
use crate::{
    config::Config,
    roles::{
        data::{self, DataDirectory},
        ports,
        start::{self, Ground, Server},
        works::{Stores, Works},
    },
};

/// How long an answer may take: another server may just be taking over.
const WELCOME: Duration = Duration::from_secs(20);
/// How long the running server may take to end what it has: answers of its API, starts and stops.
const HANDED: Duration = Duration::from_secs(60);
/// How long instances that serve may take to be found well. Requests for others wait, as for any start.
const ADOPTED: Duration = Duration::from_secs(2);

/// What the running server gave.
#[derive(Default)]
struct Given {
    lock: Option<OwnedFd>,
    handover: Option<OwnedFd>,
    api: Option<OwnedFd>,
    edge: Vec<Listening>,
}

/// The running server, at the other end.
struct Running {
    reader: Reader,
    writer: Writer,
    pid: u32,
    /// Listeners at addresses that the running server hasn't.
    api: Option<TcpListener>,
    http: Option<Vec<TcpListener>>,
    https: Option<Vec<TcpListener>>,
}

/// Takes over from the server that runs on the data directory.
///
/// # Errors
/// There is none, or it can't be taken over; then it goes on.
#[expect(clippy::disallowed_methods, reason = "the task ends with the other server, or with this process")]
pub(in crate::roles) async fn take_over(config: Config) -> anyhow::Result<Server> {
    let path = data::check(&config.data)?;
    start::check_kernel(&path)?;
    let mut running = Running::find(&path, &config).await?;
    crash::point("handover.new.welcome");
    let mut given = running.take().await?;
    crash::point("handover.new.given");
    let Running { reader, writer, pid, api, http, https } = running;
    let missing = "the running server did not give all that it has";
    let lock = given.lock.context(missing)?;
    let desk = Desk::inherit(&path, given.handover.context(missing)?)?;
    let api = match api {
        Some(api) => api,
        None => TcpListener::from(given.api.context(missing)?),
    };
    // Open, they would take connections that nobody accepts.
    for (moved, its) in [(http.is_some(), edge::Name::Http), (https.is_some(), edge::Name::Https)] {
        given.edge.retain(|listening| !moved || listening.name != its);
    }
    let mut inherited = Inherited::new(given.edge);
    let http = http.map_or_else(|| start::http(&config, &mut inherited), Ok)?;
    let https = https.map_or_else(|| start::https(&config, &mut inherited), Ok)?;
    let doors = start::Doors { http, https, inherited };

    let ground = Ground::new(config, DataDirectory::inherit(&path, lock)?)?;
    let stores = Stores::open(&ground.data.path)?;
    let edge = Edge::prepare(ground.edge(doors), Arc::new(ground.wake.clone()))?;
    let before = Link::new(reader, writer, Arc::new(ground.wake.clone()));
    let routing: Arc<dyn Routing> = Arc::new(Mirror::new(Arc::new(edge.handle()), before.clone()));
    let works = Works::start(&ground, stores, routing.clone(), edge.handle(), api.try_clone()?).await?;
    crash::point("handover.new.adopting");
    if timeout(ADOPTED, works.agent.adopted()).await.is_err() {
        tracing::info!("some instances aren't known to be well yet: requests wait for them");
    }
    let mut ground = ground;
    ground.data.sign()?;
    let posted = ground.post()?;
    crash::point("handover.new.ready");
    ensure!(before.ready().await, "the running server doesn't answer any more; it goes on when it can");
    edge.open();
    works.record(
        "server_upgraded",
        "this server took over",
        serde_json::json!({ "from": pid, "program": program() }),
    );
    let alone = CancellationToken::new();
    let gone = alone.clone();
    // Ends with the other server.
    drop(tokio::spawn(async move {
        before.over().await;
        tracing::info!(pid, "the server before this one is gone");
        gone.cancel();
    }));
    Ok(Server { ground, edge, routing, works, api, posted, desk, alone })
}

impl Running {
    /// Finds the running server, and tries what can fail before anything has happened.
    async fn find(path: &Path, config: &Config) -> anyhow::Result<Self> {
        let (_folder, way) = way(path)?;
        let stream = match UnixStream::connect(way).await {
            Ok(stream) => stream,
            // The socket isn't there, or was left behind.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                if let Some(server) = data::holder(path) {
                    bail!(
                        "the server that runs on {} {server} can't be taken over: it is of a version before \
                         that, or only starting or stopping; stop it, then start this one without --upgrade",
                        path.display()
                    );
                }
                bail!("no server runs on {}; start this one without --upgrade", path.display())
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("the server that runs on {} can't be asked", path.display()));
            }
        };
        let (mut reader, mut writer) = line::split(stream);
        let hello = FromNew::Hello { versions: VERSIONS, program: program() };
        timeout(WELCOME, writer.send(&hello, &[])).await??;
        let answer = timeout(WELCOME, reader.next::<FromOld>());
        let answer = answer.await.with_context(|| {
            let server = data::holder(path).unwrap_or_default();
            format!(
                "the running server {server} doesn't answer within {} s; it is left as it is",
                WELCOME.as_secs()
            )
        })?;
        let (pid, api, http, https) = match answer.context("the running server can't be understood")? {
            Some((FromOld::Welcome { pid, api, http, https, .. }, _)) => (pid, api, http, https),
            Some((FromOld::Refused { reason }, _)) => {
                bail!("the running server can't be taken over: {reason}; stop it, then start this one")
            }
            Some(_) | None => bail!("the running server broke off; its log says why"),
        };
        if let (Some(wanted), Some(known)) = (config.network, data::network(path)?) {
            ensure!(
                wanted == known,
                "the running instances' network is {known}/16; --network {wanted} needs a restart, not an upgrade"
            );
        }
        let mut running = Self { reader, writer, pid, api: None, http: None, https: None };
        if api != config.api {
            running.api = Some(ports::take(config.api, "the API", "--api")?);
            tracing::warn!(
                "the API moves from {api} to {}: who calls the old address is refused",
                config.api
            );
        }
        if http != config.http {
            running.http = Some(start::http(config, &mut Inherited::default())?);
            moves("HTTP", http, config.http);
        }
        if https != Some(config.https) {
            running.https = Some(start::https(config, &mut Inherited::default())?);
            if let Some(https) = https {
                moves("TLS", https, config.https);
            }
        }
        Ok(running)
    }

    /// Takes everything.
    async fn take(&mut self) -> anyhow::Result<Given> {
        timeout(WELCOME, self.writer.send(&FromNew::Go, &[])).await??;
        let take = async {
            let mut given = Given::default();
            loop {
                match self.reader.next::<FromOld>().await? {
                    Some((FromOld::Sockets { names }, descriptors)) => given.add(names, descriptors)?,
                    Some((FromOld::Handed, _)) => return Ok(given),
                    Some(_) => {}
                    None => bail!(
                        "the running server ended before it had handed over; start this one without --upgrade"
                    ),
                }
            }
        };
        timeout(HANDED, take).await.context("the running server doesn't hand over; it goes on")?
    }
}

fn moves(what: &str, from: SocketAddr, to: SocketAddr) {
    tracing::warn!("{what} moves from {from} to {to}: new clients of the old address are refused");
}

impl Given {
    fn add(&mut self, names: Vec<Name>, descriptors: Vec<OwnedFd>) -> anyhow::Result<()> {
        ensure!(names.len() == descriptors.len(), "the running server's message is not well formed");
        for (name, descriptor) in names.into_iter().zip(descriptors) {
            match name {
                Name::Lock => self.lock = Some(descriptor),
                Name::Handover => self.handover = Some(descriptor),
                Name::Api => self.api = Some(descriptor),
                Name::Edge(name) => match name.parse() {
                    Ok(name) => self.edge.push(Listening { name, descriptor }),
                    // Of a version that listens for more: it closes with this.
                    Err(error) => tracing::warn!(%error, "a listener isn't taken over"),
                },
            }
        }
        Ok(())
    }
}
