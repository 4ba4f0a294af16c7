//! One edge gives way to another. No planned change fails a request.
#![expect(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use minato_edge::{
    Config,
    handover::{Inherited, Name},
    listen,
};
use minato_model::{network::AddressPlan, routing::Routing as _};

use crate::support::{Bed, Client, Instance, Told, bed, bed_of, bed_with, entry, id, release, until, within};

/// Another edge at the same sockets.
async fn successor(bed: &Bed, plan: Option<AddressPlan>) -> Bed {
    let mut inherited = Inherited::new(bed.edge.listeners().await.unwrap());
    let http = inherited.http(bed.address, 2).unwrap();
    bed_of(Config { inherited, ..Config::new(http, plan) })
}

/// Clients that keep their connections for as long as they may; stopping them gives how many
/// requests were answered.
async fn crowd(address: SocketAddr, stop: Arc<AtomicBool>, answered: Arc<AtomicUsize>) {
    while !stop.load(SeqCst) {
        let mut client = Client::connect(address).await;
        loop {
            let reply = client.get("/slow/1").await;
            assert!(reply.status == 200 && reply.whole, "{reply:?}");
            answered.fetch_add(1, SeqCst);
            if stop.load(SeqCst) {
                return;
            }
            if reply.field("connection") == Some("close") {
                assert!(client.is_closed().await);
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_over_under_load_fails_nothing() {
    let mut bed = bed();
    bed.publish_web(|_| {}).await;
    let instance = Instance::start("one").await;
    bed.handle.admit(instance.endpoint.clone());
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..16 {
        clients.spawn(crowd(bed.address, Arc::clone(&stop), Arc::clone(&answered)));
    }
    for _ in 0..5 {
        let mut idle = bed.client().await;
        assert_eq!(idle.get("/").await.status, 200);
        let next = successor(&bed, None).await;
        next.publish_web(|_| {}).await;
        next.handle.admit(instance.endpoint.clone());
        let goal = answered.load(SeqCst) + 200;
        until(|| answered.load(SeqCst) >= goal || clients.is_empty()).await;
        let retiring = tokio::spawn(bed.edge.retire(Duration::from_secs(60), std::future::pending()));
        // A connection that was unused stays until it was used once more.
        until(|| bed.handle.metrics().contains("minato_edge_connections 1\n")).await;
        let reply = idle.get("/").await;
        assert_eq!((reply.status, reply.field("connection")), (200, Some("close")));
        assert!(idle.is_closed().await);
        within(retiring).await.unwrap();
        bed = next;
    }
    stop.store(true, SeqCst);
    while let Some(ended) = within(clients.join_next()).await {
        ended.unwrap();
    }
    assert_eq!(bed.get("/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retired_edge_still_wakes_and_is_still_told() {
    let mut old = bed();
    old.publish_web(|_| {}).await;
    let mut client = old.client().await;
    client.send("GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    assert_eq!(old.next_told().await, Told::Wake(release(1), 1));
    let mut other = old.client().await;
    // What nobody has accepted yet would be the successor's.
    until(|| old.handle.metrics().contains("minato_edge_connections 2\n")).await;
    old.handle.publish(Arc::default()).await;
    assert_eq!(client.reply("GET").await.status, 404);
    let next = successor(&old, None).await;
    let retiring = tokio::spawn(old.edge.retire(Duration::from_secs(60), std::future::pending()));
    let table = minato_model::route::Table { services: vec![entry("shop/web", |_| {}, &[(1, 1)])] };
    old.handle.publish(Arc::new(table)).await;
    other.send("GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    assert_eq!(within(old.told.recv()).await, Some(Told::Wake(release(1), 1)));
    let instance = Instance::start("one").await;
    old.handle.admit(instance.endpoint.clone());
    let reply = other.reply("GET").await;
    assert_eq!((reply.text(), reply.field("connection")), ("one", Some("close")));
    old.handle.withdraw(&id("one")).await;
    within(old.handle.quiet(&id("one"))).await;
    drop(client);
    within(retiring).await.unwrap();
    assert_eq!(next.get("/").await.code(), Some("no_route"));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_listened_at_is_handed_over() {
    let plan = AddressPlan::new(Ipv4Addr::new(127, 95, 0, 0));
    let old = bed_with(Some(plan), |_| {});
    let cart = |port| entry("shop/cart", move |route| (route.virtual_offset, route.port) = (3, port), &[]);
    old.publish(vec![cart(9000)]).await;
    let all = old.edge.listeners().await.unwrap();
    let mut names: Vec<_> = all.iter().map(|listening| listening.name).collect();
    names.sort();
    let at = |port| Name::Virtual(std::net::SocketAddrV4::new(plan.at(3), port));
    assert_eq!(names, [Name::Http, Name::Http, at(80), at(9000), Name::NamesUdp, Name::NamesTcp]);

    let next = successor(&old, Some(plan)).await;
    // One of them is of use no more, and another was never there.
    next.publish(vec![cart(9001), entry("shop/new", |route| route.virtual_offset = 4, &[])]).await;
    old.publish(vec![cart(9000), entry("shop/new", |route| route.virtual_offset = 4, &[])]).await;
    drop(all);
    within(old.edge.retire(Duration::ZERO, std::future::pending())).await;
    for (offset, port) in [(3, 80), (3, 9001), (4, 80), (4, 8080)] {
        let address = SocketAddr::from((plan.at(offset), port));
        within(async {
            while tokio::net::TcpStream::connect(address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        let reply = Client::connect(address).await.get("/").await;
        assert_eq!(reply.code(), Some("denied"));
    }
    let names = std::net::TcpStream::connect((plan.gateway(), 53));
    assert!(names.is_ok());
    within(next.edge.drain(Duration::ZERO)).await;
    assert_eq!(listen::bind(old.address, 1).unwrap().len(), 1, "nothing is left open");
}
