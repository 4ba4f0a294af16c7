//! The listener of API and registry: bounded connections, every phase of a request with a time-out. On loopback
//! it speaks in plain, beyond by TLS alone.

mod certificate;

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use axum::{Router, extract::ConnectInfo};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
    service::TowerToHyperService,
};
use minato_identity::Authority;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Semaphore, watch},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::linger::Lingering;

/// As many connections at once: clients are a handful of people and machines.
const CONNECTIONS: usize = 1_024;
/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(10);

/// How an API at this address is spoken to; `None`: in plain, on loopback.
///
/// # Errors
/// The authority issues nothing for these names.
pub(super) fn secure(
    authority: Arc<Authority>,
    api: SocketAddr,
    names: &[String],
) -> anyhow::Result<Option<TlsAcceptor>> {
    if api.ip().is_loopback() {
        return Ok(None);
    }
    Ok(Some(certificate::config(authority, api, names)?.into()))
}

/// Serves until `ending` says how long the answers under way may still take. What then isn't over is cut:
/// afterwards nothing that the router holds is in use.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    secure: Option<TlsAcceptor>,
    mut ending: watch::Receiver<Option<Duration>>,
) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Its owner gone, there is nobody to serve for.
            _ = ending.wait_for(Option::is_some) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or a client that left: neither ends the server.
                tracing::warn!(%error, "a connection to the api could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        drop(stream.set_nodelay(true));
        let router = router.clone().layer(axum::Extension(ConnectInfo(peer)));
        let (watcher, cut, secure) = (graceful.watcher(), cut.clone(), secure.clone());
        connections.spawn(async move {
            let answered = async {
                let stream = Lingering::new(stream);
                match secure {
                    None => converse(stream, router, watcher).await,
                    // Who doesn't come to an agreement, or not in time, is left.
                    Some(secure) => {
                        if let Ok(Ok(stream)) = tokio::time::timeout(HEAD, secure.accept(stream)).await {
                            converse(stream, router, watcher).await;
                        }
                    }
                }
            };
            cut.run_until_cancelled(answered).await;
            drop(slot);
        });
    }
    drop(listener);
    let grace = ending.borrow().unwrap_or_default();
    if tokio::time::timeout(grace, graceful.shutdown()).await.is_err() {
        tracing::info!("answers of the api were cut at the end");
    }
    cut.cancel();
    connections.close();
    connections.wait().await;
    Ok(())
}

/// Answers what is asked on one connection. That it broke is its client's affair.
async fn converse<S>(stream: S, router: Router, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_headers(100)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    drop(watcher.watch(connection).await);
}
