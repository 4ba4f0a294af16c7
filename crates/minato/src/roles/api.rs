//! The listener of API and registry: bounded connections, every phase of a request with a time-out.

use std::{net::TcpListener, sync::Arc, time::Duration};

use axum::{Router, extract::ConnectInfo};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::linger::Lingering;

/// As many connections at once: clients are a handful of people and machines.
const CONNECTIONS: usize = 1_024;
/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(10);
/// How long answers under way may take after the end was asked for.
const GRACE: Duration = Duration::from_secs(3);

/// Serves until `shutdown`.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let connections = TaskTracker::new();
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
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
        let connection = graceful.watch(connection);
        connections.spawn(async move {
            // A connection that broke is its client's affair.
            drop(connection.await);
            drop(slot);
        });
    }
    if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
        tracing::debug!("answers of the api were cut at the end");
    }
    Ok(())
}
