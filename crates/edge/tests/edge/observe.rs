//! What an edge counts, as Prometheus reads it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use minato_model::routing::Routing as _;
use tokio::io::AsyncWriteExt as _;

use crate::support::{Bed, Instance, bed, endpoint, entry, read_request, release, serve_raw, until};

/// The value of a series; `None`: there is no such one.
fn metric(bed: &Bed, series: &str) -> Option<f64> {
    let text = bed.handle.metrics();
    let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    found.map(|value| value.parse().unwrap())
}

fn labelled(name: &str, release: u32, more: &str) -> String {
    format!("{name}{{app=\"shop\",service=\"web\",release=\"{release}\"{more}}}")
}

#[tokio::test]
async fn what_requests_come_to_is_counted_by_release() {
    let bed = bed();
    bed.publish_web(|_| {}).await;
    let instance = Instance::start("one").await;
    bed.handle.admit(instance.endpoint.clone());
    for _ in 0..3 {
        // Each on a connection of its own: any thread may have it.
        assert_eq!(bed.get("/").await.status, 200);
    }
    assert_eq!(bed.get("/garbage").await.status, 502);
    let requests = |code: &str| labelled("minato_requests_total", 1, &format!(",code=\"{code}\""));
    until(|| metric(&bed, &requests("200")) == Some(3.0)).await;
    until(|| metric(&bed, &requests("502")) == Some(1.0)).await;
    let count = labelled("minato_request_duration_seconds_count", 1, "");
    assert_eq!(metric(&bed, &count), Some(4.0));
    assert_eq!(metric(&bed, "minato_request_flags_total{flag=\"upstream\"}"), Some(1.0));
    let flow = bed.handle.flow(&release(1));
    assert_eq!((flow.requests, flow.errors, flow.retries), (4, 1, 0));
    assert!(flow.quantile(0.5).is_some_and(|p50| p50 > 0.0));

    let mut client = bed.client().await;
    client.send("GET /slow/20000 HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    let in_flight = labelled("minato_requests_in_flight", 1, "");
    until(|| metric(&bed, &in_flight) == Some(1.0)).await;
    until(|| metric(&bed, "minato_edge_upstream_connections") > Some(0.0)).await;
    drop(client);
    until(|| metric(&bed, &in_flight) == Some(0.0)).await;
}

#[tokio::test]
async fn tries_are_counted() {
    let bed = bed();
    bed.publish_web(|_| {}).await;
    let connections = Arc::new(AtomicUsize::new(0));
    let (address, _task) = serve_raw(move |mut stream| {
        let first = connections.fetch_add(1, SeqCst) == 0;
        async move {
            drop(read_request(&mut stream, &mut Vec::new()).await);
            if !first {
                stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            }
        }
    })
    .await;
    bed.handle.admit(endpoint("one", release(1), address));
    assert_eq!(bed.get("/").await.status, 204);
    until(|| metric(&bed, &labelled("minato_retries_total", 1, "")) == Some(1.0)).await;
    assert_eq!(bed.handle.flow(&release(1)).retries, 1);
}

#[tokio::test]
async fn the_series_of_a_release_go_with_it() {
    let bed = bed();
    bed.publish_web(|_| {}).await;
    let old = Instance::start("old").await;
    bed.handle.admit(old.endpoint.clone());
    assert_eq!(bed.get("/").await.status, 200);
    until(|| bed.handle.metrics().contains("release=\"1\"")).await;
    bed.handle.withdraw(&old.endpoint.instance).await;
    bed.handle.forget(&old.endpoint.instance);
    bed.in_flight(&release(1), 0).await;
    bed.publish(vec![entry("shop/web", |_| {}, &[(2, 1)])]).await;
    let new = Instance::of("new", release(2)).await;
    bed.handle.admit(new.endpoint.clone());
    assert_eq!(bed.get("/").await.status, 200);
    until(|| bed.handle.metrics().contains("release=\"2\"")).await;
    bed.publish(vec![entry("shop/web", |_| {}, &[(2, 1)])]).await;
    let text = bed.handle.metrics();
    assert!(!text.contains("release=\"1\""), "{text}");
    assert!(text.contains("release=\"2\""), "{text}");
}
