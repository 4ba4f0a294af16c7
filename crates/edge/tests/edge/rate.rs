//! How many requests a client may send, and what becomes of more requests than the instances can answer.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use minato_model::{network::AddressPlan, routing::Routing as _, traffic::Rate};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    routes::call,
    support::{Bed, Client, Instance, Reply, bed, bed_with, entry, id, release, until, within},
};

fn rate(per: &str, limit: u32, every: Duration) -> Option<Rate> {
    Some(Rate { per: per.parse().unwrap(), limit, every })
}

/// Long enough that nothing comes back while a test runs.
const HOUR: Duration = Duration::from_secs(3600);

async fn limited(bed: &Bed, instance: &Instance, rate: Option<Rate>) {
    bed.publish_web(|route| route.traffic.rate = rate).await;
    bed.handle.admit(instance.endpoint.clone());
}

fn refused(reply: &Reply) -> bool {
    assert_eq!(reply.status == 429, reply.code() == Some("rate_limited"), "{}", reply.head);
    reply.status == 429
}

#[tokio::test]
async fn the_sixth_of_five_is_refused_until_there_is_room_again() {
    let (bed, instance) = (bed(), Instance::start("a").await);
    // One in 200 s, so that a slow machine doesn't let the sixth pass.
    limited(&bed, &instance, rate("header:x-key", 5, Duration::from_secs(1_000))).await;
    let mut client = bed.client().await;
    for _ in 0..5 {
        assert_eq!(client.ask("GET", "/", "X-Key: one\r\n").await.status, 200);
    }
    let reply = client.ask("GET", "/", "X-Key: one\r\n").await;
    assert!(refused(&reply));
    let after: u64 = reply.field("retry-after").unwrap().parse().unwrap();
    assert!((150..=200).contains(&after), "{after}");
    assert_eq!(reply.field("content-type"), Some("application/problem+json"));
    assert!(reply.text().contains("shop/web takes 5 requests in 1000s of one value of the header x-key"));
    assert_eq!(client.ask("GET", "/", "X-Key: two\r\n").await.status, 200, "it's another client");
    assert_eq!(client.get("/").await.status, 200, "so is who has no key");
    assert_eq!(instance.requests.load(std::sync::atomic::Ordering::SeqCst), 7);
    let line = "minato_rate_limited_total{app=\"shop\",service=\"web\"} 1";
    assert!(bed.handle.metrics().lines().any(|other| other == line), "{}", bed.handle.metrics());
}

#[tokio::test]
async fn who_comes_again_when_told_to_passes() {
    let (bed, instance) = (bed(), Instance::start("a").await);
    limited(&bed, &instance, rate("header:x-key", 5, Duration::from_secs(1))).await;
    let mut client = bed.client().await;
    let refusal = loop {
        let reply = client.ask("GET", "/", "X-Key: one\r\n").await;
        if refused(&reply) {
            break reply;
        }
    };
    assert_eq!(refusal.field("retry-after"), Some("1"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(client.ask("GET", "/", "X-Key: one\r\n").await.status, 200);
}

#[tokio::test]
async fn a_limit_of_the_route_is_one_for_all_connections_and_threads() {
    let (bed, instance) = (bed(), Instance::start("a").await);
    limited(&bed, &instance, rate("route", 20, HOUR)).await;
    let mut all = JoinSet::new();
    for _ in 0..40 {
        let mut client = bed.client().await;
        all.spawn(async move { refused(&client.get("/").await) });
    }
    let refused = within(all.join_all()).await;
    assert_eq!(refused.iter().filter(|refused| **refused).count(), 20);
}

#[tokio::test]
async fn behind_a_trusted_proxy_the_client_counts_and_not_what_it_says() {
    let local = || vec!["127.0.0.0/8".parse().unwrap()];
    let (bed, instance) =
        (bed_with(None, |config| config.trusted_proxies = local()), Instance::start("a").await);
    limited(&bed, &instance, rate("address", 1, HOUR)).await;
    let mut client = bed.client().await;
    let mut passes = async |forwarded: &str| {
        !refused(&client.ask("GET", "/", &format!("X-Forwarded-For: {forwarded}\r\n")).await)
    };
    assert!(passes("192.0.2.1").await);
    assert!(passes("192.0.2.2").await);
    assert!(!passes("198.51.100.7, 192.0.2.1").await, "what the client wrote itself counts for nothing");
    assert!(!passes("192.0.2.1, 127.0.0.9").await, "there may be several proxies");
    assert!(passes("2001:db8::1").await);
    assert!(!passes("2001:db8::2").await);
}

#[tokio::test]
async fn whoever_isnt_trusted_is_one_client_whatever_it_says() {
    let (bed, instance) = (bed(), Instance::start("a").await);
    limited(&bed, &instance, rate("address", 1, HOUR)).await;
    let mut client = bed.client().await;
    assert!(!refused(&client.ask("GET", "/", "X-Forwarded-For: 192.0.2.1\r\n").await));
    assert!(refused(&client.ask("GET", "/", "X-Forwarded-For: 192.0.2.2\r\n").await));
}

#[tokio::test]
async fn between_services_each_instance_that_calls_is_one_client() {
    let plan = AddressPlan::new(Ipv4Addr::new(127, 96, 0, 0));
    let (bed, instance) = (bed_with(Some(plan), |_| {}), Instance::start("a").await);
    limited(&bed, &instance, rate("address", 1, HOUR)).await;
    let callers = [plan.at(16_384), plan.at(16_385)];
    for (caller, name) in callers.into_iter().zip(["one", "two"]) {
        bed.handle.introduce(&id(name), &"shop/front".parse().unwrap(), caller);
    }
    for caller in callers {
        // What it says of others is nobody's word.
        assert!(!refused(&call(caller, plan.at(2), 80, "X-Forwarded-For: 192.0.2.1\r\n").await));
        assert!(refused(&call(caller, plan.at(2), 80, "X-Forwarded-For: 192.0.2.2\r\n").await));
    }
}

#[tokio::test]
async fn a_table_that_leaves_the_limit_as_it_is_keeps_the_count() {
    let (bed, instance) = (bed(), Instance::start("a").await);
    limited(&bed, &instance, rate("address", 2, HOUR)).await;
    assert!(!refused(&bed.get("/").await));
    let change = |route: &mut minato_model::route::Route, limit| {
        route.timeout = Duration::from_secs(9);
        route.traffic.rate = rate("address", limit, HOUR);
    };
    bed.publish(vec![entry("shop/web", |route| change(route, 2), &[(1, 1)])]).await;
    assert!(!refused(&bed.get("/").await));
    assert!(refused(&bed.get("/").await));
    let other = entry(
        "shop/other",
        |route| (route.hosts, route.virtual_offset) = (vec!["other.localhost".to_owned()], 3),
        &[(1, 1)],
    );
    bed.publish(vec![entry("shop/web", |route| change(route, 2), &[(1, 1)]), other]).await;
    assert!(refused(&bed.get("/").await));
    bed.publish(vec![entry("shop/web", |route| change(route, 3), &[(1, 1)])]).await;
    assert!(!refused(&bed.get("/").await), "another limit counts anew");
    let line = "minato_rate_limited_total{app=\"shop\",service=\"web\"} 2";
    assert!(bed.handle.metrics().lines().any(|other| other == line), "{}", bed.handle.metrics());
}

/// What one client got: when, the status, and after how long.
type Got = (Instant, u16, Duration);

/// Clients that ask again at once, or soon if they were told to come again later.
async fn press(bed: &Bed, clients: usize, lasting: Duration) -> Vec<Got> {
    let mut all = JoinSet::new();
    let address = bed.address;
    let end = Instant::now() + lasting;
    for _ in 0..clients {
        all.spawn(async move {
            let (mut client, mut got) = (Client::connect(address).await, Vec::new());
            while Instant::now() < end {
                let began = Instant::now();
                let reply = client.get("/slow/50").await;
                got.push((Instant::now(), reply.status, began.elapsed()));
                if reply.status == 503 {
                    assert_eq!(reply.code(), Some("queue_full"));
                    let after: u64 = reply.field("retry-after").unwrap().parse().unwrap();
                    assert!((1..=3).contains(&after));
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            got
        });
    }
    within(all.join_all()).await.into_iter().flatten().collect()
}

async fn ten_at_a_time(bed: &Bed) -> Instance {
    let instance = Instance::start("a").await;
    bed.publish_web(|route| (route.concurrency, route.concurrency_max) = (10, 10)).await;
    bed.handle.admit(instance.endpoint.clone());
    instance
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_overload_who_is_served_is_served_soon_and_the_rest_is_told() {
    let bed = bed();
    let _instance = ten_at_a_time(&bed).await;
    // What the instance can do on this machine as busy as it is: 200 a second where nothing else runs.
    let before = press(&bed, 12, Duration::from_secs(1)).await;
    let began = Instant::now();
    let got = press(&bed, 200, Duration::from_secs(4)).await;
    let of = |got: &[Got], status| got.iter().filter(|got| got.1 == status).count();
    // Until then it was learnt that the load is no burst.
    let learnt = began + Duration::from_millis(1_500);
    let later = || got.iter().filter(|(at, ..)| *at >= learnt);
    let mut served: Vec<_> = later().filter(|got| got.1 == 200).map(|got| got.2).collect();
    served.sort_unstable();
    let shed = later().filter(|got| got.1 == 503).count();
    assert!(got.iter().all(|(_, status, _)| matches!(status, 200 | 503)));
    let (all, able) = (of(&got, 200), of(&before, 200));
    let p99 = served[served.len() * 99 / 100];
    assert!(all * 10 >= 4 * able * 7, "{all} served in four seconds of {able} a second");
    assert!(shed > 0);
    // Without shedding everybody would wait for a second.
    assert!(p99 < Duration::from_millis(700), "{p99:?}");
    // Nothing is left of those who were turned away.
    bed.waiting(&release(1), 0).await;
    bed.in_flight(&release(1), 0).await;
    until(|| bed.handle.load(&release(1)).idle.is_some_and(|idle| !idle.is_zero())).await;
    let counted = bed.handle.metrics();
    let line =
        counted.lines().find(|line| line.starts_with("minato_shed_total{app=\"shop\",service=\"web\"}"));
    let counted: usize = line.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert_eq!(counted, of(&before, 503) + of(&got, 503));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_that_fits_is_served_whole() {
    let bed = bed();
    let _instance = ten_at_a_time(&bed).await;
    let mut all = JoinSet::new();
    for _ in 0..64 {
        let mut client = bed.client().await;
        all.spawn(async move { client.get("/slow/50").await.status });
    }
    assert_eq!(within(all.join_all()).await, [200; 64]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_start_is_not_turned_away() {
    let bed = bed();
    bed.publish_web(|route| (route.concurrency, route.concurrency_max) = (10, 10)).await;
    let mut all = JoinSet::new();
    for _ in 0..100 {
        let mut client = bed.client().await;
        all.spawn(async move { client.get("/slow/50").await.status });
    }
    bed.waiting(&release(1), 100).await;
    // Much longer than anybody would wait for a place.
    tokio::time::sleep(Duration::from_millis(700)).await;
    let instance = Arc::new(Instance::start("a").await);
    bed.handle.admit(instance.endpoint.clone());
    assert_eq!(within(all.join_all()).await, [200; 100]);
}
