//! The listener of API and registry: bounded connections, every phase of a request with a time-out.

use std::{net::TcpListener, sync::Arc, time::Duration};

use axum::{Router, extract::ConnectInfo};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::sync::{Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::linger::Lingering;

/// As many connections at once: clients are a handful of people and machines.
const CONNECTIONS: usize = 1_024;
/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(10);

/// Serves until `ending` says how long the answers under way may still take. What then isn't over is cut:
/// afterwards nothing that the router holds is in use.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
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
        let service = TowerToHyperService::new(router.clone().layer(axum::Extension(ConnectInfo(peer))));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_headers(100)
            .serve_connection(TokioIo::new(Lingering::new(stream)), service);
        let (connection, cut) = (graceful.watch(connection), cut.clone());
        connections.spawn(async move {
            // A connection that broke is its client's affair.
            drop(cut.run_until_cancelled(connection).await);
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
