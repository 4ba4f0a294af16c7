//! Requests that wait for an instance.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{Arc, Mutex, atomic::Ordering::SeqCst},
    time::Duration,
};

use minato_model::{
    code::Code,
    routing::{Refusal, Routing as _},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    Client, Instance, Told, bed, bed_with, endpoint, entry, id, release, serve_raw, until, within,
};

#[tokio::test]
async fn a_request_wakes_its_release_and_waits() {
    let mut bed = bed();
    bed.publish_web(|_| {}).await;
    let mut client = bed.client().await;
    client.send("GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    assert_eq!(bed.next_told().await, Told::Wake(release(1), 1));
    assert_eq!(bed.handle.load(&release(1)).waiting, 1);
    let instance = Instance::start("one").await;
    bed.handle.admit(instance.endpoint.clone());
    let reply = client.reply("GET").await;
    assert_eq!(reply.text(), "one");
    let timing = reply.field("server-timing").unwrap();
    assert!(
        timing.starts_with("start;dur=")
            && timing.ends_with("taken;dur=0.50, listening;dur=2.00, sandbox;desc=\"pooled\""),
        "{timing}"
    );
    let reply = client.get("/").await;
    assert_eq!(reply.field("server-timing"), None, "this one didn't wait");
    assert!(bed.told.try_recv().is_err(), "one instance is enough");
}

#[tokio::test]
async fn need_rises_with_what_waits_and_a_new_instance_gets_its_concurrency_first() {
    let mut bed = bed();
    bed.publish_web(|route| (route.concurrency, route.concurrency_max) = (2, 4)).await;
    let mut clients = Vec::new();
    for number in 1..=7_u32 {
        let mut client = bed.client().await;
        client.send(format!("GET /slow/300 HTTP/1.1\r\nHost: shop.localhost\r\nX: {number}\r\n\r\n")).await;
        bed.waiting(&release(1), number).await;
        clients.push(client);
    }
    for need in 1..=4 {
        assert_eq!(bed.next_told().await, Told::Wake(release(1), need));
    }
    let instance = Instance::start("one").await;
    bed.handle.admit(instance.endpoint.clone());
    let load = bed.handle.load(&release(1));
    assert_eq!((load.in_flight, load.waiting, load.peak), (2, 5, 7));
    // Once it has answered it may hold more, but never more than the most.
    until(|| bed.handle.traffic(&instance.endpoint.instance).in_flight > 2).await;
    for client in &mut clients {
        assert_eq!(client.reply("GET").await.status, 200);
        assert!(bed.handle.traffic(&instance.endpoint.instance).in_flight <= 4);
    }
    bed.in_flight(&release(1), 0).await;
    assert_eq!(bed.handle.traffic(&instance.endpoint.instance).requests, 7);
}

#[tokio::test]
async fn who_came_first_is_served_first_and_who_hung_up_is_dropped() {
    let bed = bed();
    bed.publish_web(|route| (route.concurrency, route.concurrency_max) = (1, 1)).await;
    let mut clients = Vec::new();
    for number in 0..6_u32 {
        let mut client = bed.client().await;
        // Every other one has a body, which isn't read while it waits.
        let body = if number % 2 == 0 { "" } else { "Content-Length: 1000000\r\n" };
        client.send(format!("GET /n{number} HTTP/1.1\r\nHost: shop.localhost\r\n{body}\r\n")).await;
        bed.waiting(&release(1), number + 1).await;
        clients.push(client);
    }
    drop(clients.drain(2..4));
    bed.waiting(&release(1), 4).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&order);
    let (address, _task) = serve_raw(move |mut stream| {
        let seen = Arc::clone(&seen);
        async move {
            let mut rest = Vec::new();
            let mut line = [0_u8; 8];
            stream.read_exact(&mut line).await.unwrap();
            seen.lock().unwrap().push(char::from(line[6]));
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            stream.write_all(answer).await.unwrap();
            // The rest of the request is taken, so that closing doesn't cut the answer.
            stream.shutdown().await.unwrap();
            while stream.read_buf(&mut rest).await.is_ok_and(|length| length > 0) {
                rest.clear();
            }
        }
    })
    .await;
    bed.handle.admit(endpoint("one", release(1), address));
    for client in &mut clients {
        assert_eq!(client.reply("GET").await.status, 200);
    }
    assert_eq!(*order.lock().unwrap(), ['0', '1', '4', '5']);
}

#[tokio::test]
async fn a_full_queue_is_said_at_once() {
    let bed = bed();
    bed.publish_web(|route| route.traffic.breaker.pending = 2).await;
    let mut clients = Vec::new();
    for number in 1..=2 {
        let mut client = bed.client().await;
        client.send("GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
        bed.waiting(&release(1), number).await;
        clients.push(client);
    }
    let reply = bed.get("/").await;
    assert_eq!((reply.status, reply.code()), (503, Some("queue_full")));
    // Spread, so that those who were turned away don't come back together.
    let after: u64 = reply.field("retry-after").unwrap().parse().unwrap();
    assert!((1..=3).contains(&after), "{after}");
    drop(clients);
    bed.waiting(&release(1), 0).await;
}

#[tokio::test]
async fn a_release_that_cant_start_is_said_with_its_reason() {
    let bed = bed();
    bed.publish_web(|_| {}).await;
    let mut client = bed.client().await;
    client.send("GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    bed.waiting(&release(1), 1).await;
    let refusal =
        Refusal { code: Code::Exited, instance: Some(id("bad")), retry_after: Duration::from_secs(7) };
    bed.handle.refuse(&release(1), Some(refusal));
    for reply in [client.reply("GET").await, bed.get("/").await] {
        assert_eq!((reply.status, reply.code()), (503, Some("start_failed")));
        assert_eq!(reply.field("retry-after"), Some("7"));
        for part in ["\"reason\":\"exited\"", "\"service\":\"shop/web\"", "\"instance\":\"bad\""] {
            assert!(reply.text().contains(part), "{}", reply.text());
        }
    }
    bed.handle.refuse(&release(1), None);
    let mut client = bed.client().await;
    client.send("GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    bed.waiting(&release(1), 1).await;
    let instance = Instance::start("one").await;
    bed.handle.admit(instance.endpoint.clone());
    assert_eq!(client.reply("GET").await.text(), "one");
}

#[tokio::test]
async fn nothing_waits_beyond_the_routes_timeout() {
    let bed = bed();
    bed.publish_web(|route| route.timeout = Duration::from_millis(100)).await;
    let reply = bed.get("/").await;
    assert_eq!((reply.status, reply.code()), (504, Some("timeout")));
    let instance = Instance::start("one").await;
    bed.handle.admit(instance.endpoint.clone());
    let reply = bed.get("/slow/5000").await;
    assert_eq!((reply.status, reply.code()), (504, Some("timeout")));
    bed.in_flight(&release(1), 0).await;
}

#[tokio::test]
async fn a_held_request_chooses_its_release_when_it_wakes() {
    let mut bed = bed();
    bed.publish_web(|_| {}).await;
    let mut client = bed.client().await;
    client.send("GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    assert_eq!(bed.next_told().await, Told::Wake(release(1), 1));
    bed.publish(vec![entry("shop/web", |_| {}, &[(1, 0), (2, 1)])]).await;
    assert_eq!(bed.next_told().await, Told::Wake(release(2), 1));
    let old = Instance::start("old").await;
    bed.handle.admit(old.endpoint.clone());
    let new = Instance::of("new", release(2)).await;
    bed.handle.admit(new.endpoint.clone());
    assert_eq!(client.reply("GET").await.text(), "new");
    assert_eq!(old.requests.load(SeqCst), 0);
    // A release that may serve no more, and none instead.
    bed.publish(vec![entry("shop/web", |_| {}, &[(2, 0)])]).await;
    let reply = bed.get("/").await;
    assert_eq!((reply.status, reply.code()), (503, Some("start_failed")));
}

#[tokio::test]
async fn a_thousand_wait_and_all_are_served() {
    let mut bed = bed_with(None, |_| {});
    bed.publish_web(|_| {}).await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        let address = bed.address;
        clients.spawn(async move { Client::connect(address).await.get("/").await.status });
    }
    bed.waiting(&release(1), 1000).await;
    let (mut most, mut times) = (0, 0);
    while let Ok(told) = bed.told.try_recv() {
        let Told::Wake(_, need) = told else { panic!("{told:?}") };
        (most, times) = (most.max(need), times + 1);
    }
    assert!(times <= 32, "told at each rise, and only then");
    assert_eq!(most, 32);
    let instances = [Instance::start("one").await, Instance::start("two").await];
    for instance in &instances {
        bed.handle.admit(instance.endpoint.clone());
    }
    within(async {
        while let Some(status) = clients.join_next().await {
            assert_eq!(status.unwrap(), 200);
        }
    })
    .await;
    let served: usize = instances.iter().map(|instance| instance.requests.load(SeqCst)).sum();
    assert_eq!(served, 1000);
    assert!(bed.handle.load(&release(1)).peak >= 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_fit_into_one_instance_and_only_one_is_asked_for() {
    let mut bed = bed();
    bed.publish_web(|route| (route.concurrency, route.concurrency_max) = (1000, 1000)).await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        let address = bed.address;
        clients.spawn(async move { Client::connect(address).await.get("/slow/1").await.status });
    }
    assert_eq!(bed.next_told().await, Told::Wake(release(1), 1));
    let instance = Instance::start("one").await;
    // While others still arrive.
    bed.handle.admit(instance.endpoint.clone());
    within(async {
        while let Some(status) = clients.join_next().await {
            assert_eq!(status.unwrap(), 200);
        }
    })
    .await;
    assert_eq!(bed.told.try_recv().ok(), None);
    assert_eq!(bed.handle.traffic(&instance.endpoint.instance).requests, 1000);
    bed.in_flight(&release(1), 0).await;
}

#[tokio::test]
async fn what_a_withdrawn_instance_still_carries_needs_no_other() {
    let mut bed = bed();
    bed.publish_web(|route| route.concurrency = 1).await;
    let instance = Instance::start("one").await;
    bed.handle.admit(instance.endpoint.clone());
    let mut client = bed.client().await;
    client.send("GET /slow/200 HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    bed.in_flight(&release(1), 1).await;
    bed.handle.withdraw(&instance.endpoint.instance).await;
    assert_eq!(bed.told.try_recv().ok(), None);
    let mut other = bed.client().await;
    other.send("GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    assert_eq!(bed.next_told().await, Told::Wake(release(1), 1));
    assert_eq!(client.reply("GET").await.status, 200);
    within(bed.handle.quiet(&instance.endpoint.instance)).await;
}

#[tokio::test]
async fn a_release_out_of_the_routes_is_never_woken() {
    let mut bed = bed();
    bed.publish_web(|route| (route.concurrency, route.concurrency_max) = (1, 2)).await;
    let instances = [Instance::start("one").await, Instance::start("two").await];
    for instance in &instances {
        bed.handle.admit(instance.endpoint.clone());
    }
    let mut clients = Vec::new();
    for number in 1..=2 {
        let mut client = bed.client().await;
        client.send("GET /slow/300 HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
        bed.in_flight(&release(1), number).await;
        clients.push(client);
    }
    bed.publish(vec![entry("shop/web", |route| route.concurrency = 1, &[(1, 0), (2, 1)])]).await;
    // One that still carries a request goes, and so would its place.
    bed.handle.withdraw(&id("one")).await;
    for client in &mut clients {
        assert_eq!(client.reply("GET").await.status, 200);
    }
    assert_eq!(bed.told.try_recv().ok(), None);
    let mut client = bed.client().await;
    client.send("GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    assert_eq!(bed.next_told().await, Told::Wake(release(2), 1));
    bed.publish(Vec::new()).await;
    assert_eq!(client.reply("GET").await.code(), Some("no_route"));
    assert_eq!(bed.told.try_recv().ok(), None);
}

#[tokio::test]
async fn who_waits_in_vain_is_told_why() {
    let bed = bed();
    bed.publish_web(|route| {
        route.timeout = Duration::from_millis(100);
        (route.concurrency, route.concurrency_max) = (1, 1);
    })
    .await;
    let reply = bed.get("/").await;
    assert!(reply.status == 504 && reply.text().contains("its start had not ended"), "{}", reply.text());
    let refusal = Refusal { code: Code::Exited, instance: Some(id("bad")), retry_after: Duration::ZERO };
    bed.handle.refuse(&release(1), Some(refusal));
    bed.handle.refuse(&release(1), None);
    let reply = bed.get("/").await;
    assert_eq!((reply.status, reply.code()), (504, Some("timeout")));
    for part in
        ["its last start failed", "\"reason\":\"exited\"", "\"instance\":\"bad\"", "\"service\":\"shop/web\""]
    {
        assert!(reply.text().contains(part), "{}", reply.text());
    }
    let instance = Instance::start("one").await;
    bed.handle.admit(instance.endpoint.clone());
    let mut busy = bed.client().await;
    // More than all buffers hold: it has its place until its client goes.
    busy.send("GET /stream/200000000 HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    bed.in_flight(&release(1), 1).await;
    let reply = bed.get("/").await;
    assert!(reply.text().contains("its one instance had as many requests as it may"), "{}", reply.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_services_are_woken_once_each_while_one_has_a_crowd() {
    let mut bed = bed();
    let services = (0..100_u16).map(|number| {
        let host = format!("s{number}.localhost");
        entry(
            &format!("shop/s{number}"),
            |route| {
                route.hosts = vec![host];
                route.virtual_offset = 2 + number;
                (route.concurrency, route.concurrency_max) = (1, 1);
            },
            &[(1, 1)],
        )
    });
    bed.publish(services.collect()).await;
    let mut clients = tokio::task::JoinSet::new();
    // Every service has one client, and the first of them a crowd besides.
    for number in (0..100).chain(std::iter::repeat_n(0, 400)) {
        let address = bed.address;
        clients.spawn(async move {
            let mut client = Client::connect(address).await;
            client.send(format!("GET /slow/1 HTTP/1.1\r\nHost: s{number}.localhost\r\n\r\n")).await;
            client.reply("GET").await.status
        });
    }
    let mut instances = BTreeMap::new();
    while instances.len() < 100 {
        let Told::Wake(release, _) = bed.next_told().await else { panic!("nothing is suspect") };
        if let Entry::Vacant(place) = instances.entry(release) {
            let name = place.key().service.service.to_string();
            let instance = Instance::of(&name, place.key().clone()).await;
            bed.handle.admit(instance.endpoint.clone());
            place.insert(instance);
        }
    }
    while let Some(status) = within(clients.join_next()).await {
        assert_eq!(status.unwrap(), 200);
    }
    let served = |number: u32| {
        let (_, instance) = instances
            .iter()
            .find(|(release, _)| release.service.service.as_str() == format!("s{number}"))
            .unwrap();
        instance.requests.load(SeqCst)
    };
    assert_eq!((served(0), served(1), served(99)), (401, 1, 1));
}
