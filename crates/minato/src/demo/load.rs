//! Requests: one, or as many at once as asked for, each counted.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::cluster::HOST;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// An answer as far as the demo looks at it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) timing: Option<String>,
    pub(super) instance: Option<String>,
    pub(super) took: Duration,
}

#[expect(
    clippy::disallowed_methods,
    reason = "it ends with the connection, and its error reaches the request too"
)]
async fn connect(edge: SocketAddr) -> Result<SendRequest<Empty<Bytes>>, AnyError> {
    let stream = TcpStream::connect(edge).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    drop(tokio::task::spawn(async move { drop(connection.await) }));
    Ok(sender)
}

async fn ask(sender: &mut SendRequest<Empty<Bytes>>, path: &str) -> Result<Answer, AnyError> {
    sender.ready().await?;
    let begun = Instant::now();
    let request = Request::get(path).header(header::HOST, HOST).body(Empty::new())?;
    let response: Response<Incoming> = sender.send_request(request).await?;
    let took = begun.elapsed();
    let status = response.status();
    let timing =
        response.headers().get("server-timing").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let body = Limited::new(response.into_body(), 1 << 20).collect().await?.to_bytes();
    let instance = serde_json::from_slice::<serde_json::Value>(&body)
        .ok()
        .and_then(|value| Some(value.get("instance")?.as_str()?.to_owned()));
    Ok(Answer { status, timing, instance, took })
}

/// One request on a connection of its own.
pub(super) async fn one(edge: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    let answer = async { ask(&mut connect(edge).await?, path).await }.await;
    answer.map_err(|error| anyhow::anyhow!("the request for {path} failed: {error}"))
}

/// What a load has seen.
#[derive(Debug, Default, Clone)]
pub(super) struct Seen {
    pub(super) answered: u64,
    pub(super) failed: u64,
    /// What the first failure was.
    pub(super) first_failure: Option<String>,
    pub(super) instances: BTreeSet<String>,
    pub(super) slowest: Duration,
}

/// Clients that ask without pause until they are told to stop.
#[derive(Debug)]
pub(super) struct Load {
    tasks: JoinSet<()>,
    stop: CancellationToken,
    seen: Arc<Mutex<Seen>>,
    begun: Instant,
}

impl Load {
    /// Starts this many clients.
    pub(super) fn start(edge: SocketAddr, clients: usize, path: &'static str) -> Self {
        let stop = CancellationToken::new();
        let seen = Arc::<Mutex<Seen>>::default();
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            tasks.spawn(client(edge, path, stop.clone(), seen.clone()));
        }
        Self { tasks, stop, seen, begun: Instant::now() }
    }

    /// What was seen so far.
    pub(super) fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets every client finish its request; what was seen, and for how long.
    pub(super) async fn stop(mut self) -> (Seen, Duration) {
        self.stop.cancel();
        let took = self.begun.elapsed();
        while self.tasks.join_next().await.is_some() {}
        (self.seen(), took)
    }
}

async fn client(edge: SocketAddr, path: &'static str, stop: CancellationToken, seen: Arc<Mutex<Seen>>) {
    let mut sender = None;
    while !stop.is_cancelled() {
        let answer = async {
            let mut connection = match sender.take() {
                Some(connection) => connection,
                None => connect(edge).await?,
            };
            let answer = ask(&mut connection, path).await?;
            sender = Some(connection);
            Ok::<_, AnyError>(answer)
        }
        .await;
        note(&seen, answer);
    }
}

fn note(seen: &Mutex<Seen>, answer: Result<Answer, AnyError>) {
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let failure = match answer {
        Ok(answer) if answer.status.is_success() => {
            seen.answered += 1;
            seen.slowest = seen.slowest.max(answer.took);
            seen.instances.extend(answer.instance);
            return;
        }
        Ok(answer) => answer.status.to_string(),
        Err(error) => error.to_string(),
    };
    seen.failed += 1;
    seen.first_failure.get_or_insert(failure);
}
