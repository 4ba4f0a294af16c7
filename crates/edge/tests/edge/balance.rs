//! Which instance and which release a client gets, with real sockets.

use std::collections::BTreeMap;

use minato_model::{
    route::{Match, Route, Split},
    routing::Routing as _,
    traffic::{Balance, Key},
};

use crate::support::{Bed, Client, Instance, bed, bed_with, entry, release};

fn balance(text: &str) -> impl FnOnce(&mut Route) {
    let balance: Balance = text.parse().unwrap();
    move |route| route.traffic.balance = balance
}

async fn instances(bed: &Bed, count: usize) -> Vec<Instance> {
    let mut instances = Vec::new();
    for number in 0..count {
        let instance = Instance::start(&format!("web{number}")).await;
        bed.handle.admit(instance.endpoint.clone());
        instances.push(instance);
    }
    instances
}

/// Who answers a client with these header lines.
async fn who(client: &mut Client, fields: &str) -> String {
    let reply = client.ask("GET", "/", fields).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.text().to_owned()
}

#[tokio::test]
async fn a_header_keeps_its_instance_also_when_others_come_and_go() {
    let bed = bed();
    bed.publish_web(balance("hash:header:x-user")).await;
    let all = instances(&bed, 4).await;
    let mut clients = [bed.client().await, bed.client().await];
    let mut before = BTreeMap::new();
    for user in 0..40 {
        let fields = format!("X-User: {user}\r\n");
        let first = who(&mut clients[0], &fields).await;
        assert_eq!(who(&mut clients[1], &fields).await, first, "another connection, the same instance");
        before.insert(user, first);
    }
    let distinct: std::collections::BTreeSet<_> = before.values().collect();
    assert!(distinct.len() >= 3, "{before:?}");
    bed.handle.withdraw(&all[1].endpoint.instance).await;
    for (user, instance) in &before {
        let now = who(&mut clients[0], &format!("X-User: {user}\r\n")).await;
        assert!(now != "web1" && (*instance == now || instance == "web1"), "{user}: {instance} → {now}");
    }
}

#[tokio::test]
async fn a_cookie_keeps_its_instance() {
    let bed = bed();
    bed.publish_web(balance("hash:cookie:session")).await;
    let _all = instances(&bed, 4).await;
    let mut client = bed.client().await;
    let mut seen = std::collections::BTreeSet::new();
    for session in 0..20 {
        let first = who(&mut client, &format!("Cookie: a=b; session={session}; c=d\r\n")).await;
        let again = who(&mut client, &format!("Cookie: x=y\r\nCookie: session={session}\r\n")).await;
        assert_eq!(first, again);
        seen.insert(first);
    }
    assert!(seen.len() >= 3, "{seen:?}");
}

#[tokio::test]
async fn an_address_keeps_its_instance_behind_a_trusted_proxy() {
    let bed = bed_with(None, |config| {
        config.trusted_proxies = vec!["127.0.0.1".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
    });
    bed.publish_web(balance("hash:address")).await;
    let _all = instances(&bed, 4).await;
    let mut client = bed.client().await;
    let mut seen = std::collections::BTreeSet::new();
    for last in 1..=20 {
        let address = format!("203.0.113.{last}");
        let first = who(&mut client, &format!("X-Forwarded-For: {address}\r\n")).await;
        let forged = format!("X-Forwarded-For: 198.51.100.{last}, {address}, 10.0.0.{last}\r\n");
        assert_eq!(who(&mut client, &forged).await, first);
        seen.insert(first);
    }
    assert!(seen.len() >= 3, "{seen:?}");
}

#[tokio::test]
async fn who_is_not_trusted_is_the_peer_whatever_it_says() {
    let bed = bed();
    bed.publish_web(balance("hash:address")).await;
    let _all = instances(&bed, 4).await;
    let mut client = bed.client().await;
    let mine = who(&mut client, "").await;
    for last in 1..=10 {
        assert_eq!(who(&mut client, &format!("X-Forwarded-For: 203.0.113.{last}\r\n")).await, mine);
    }
}

#[tokio::test]
async fn each_instance_has_its_turn() {
    let bed = bed();
    bed.publish_web(balance("round-robin")).await;
    let _all = instances(&bed, 3).await;
    let mut clients = [bed.client().await, bed.client().await];
    let mut turns = Vec::new();
    for round in 0..30 {
        turns.push(who(&mut clients[round % 2], "").await);
    }
    for turn in turns.windows(4) {
        assert!(turn[0] == turn[3] && turn[0] != turn[1] && turn[1] != turn[2] && turn[0] != turn[2]);
    }
}

#[tokio::test]
async fn a_slow_instance_is_asked_less_by_ewma() {
    let bed = bed();
    bed.publish_web(balance("ewma")).await;
    let slow = crate::support::serve_raw(|mut stream| async move {
        let mut rest = Vec::new();
        while crate::support::read_request(&mut stream, &mut rest).await.is_some() {
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow";
            if tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await.is_err() {
                return;
            }
        }
    })
    .await;
    bed.handle.admit(crate::support::endpoint("slow", release(1), slow.0));
    let _all = instances(&bed, 2).await;
    let mut client = bed.client().await;
    let mut asked = 0;
    for _ in 0..100 {
        asked += usize::from(who(&mut client, "").await == "slow");
    }
    assert!((1..=20).contains(&asked), "the slow one answered {asked} of 100");
    slow.1.abort();
}

#[tokio::test]
async fn a_full_instances_clients_go_on_to_another() {
    let bed = bed();
    let hash = balance("hash:header:x-user");
    bed.publish_web(|route| {
        hash(route);
        (route.concurrency, route.concurrency_max) = (1, 1);
    })
    .await;
    let _all = instances(&bed, 2).await;
    let mut client = bed.client().await;
    let owner = who(&mut client, "X-User: 1\r\n").await;
    let mut holding = bed.client().await;
    holding.send("GET /slow/2000 HTTP/1.1\r\nHost: shop.localhost\r\nX-User: 1\r\n\r\n").await;
    bed.in_flight(&release(1), 1).await;
    assert_ne!(who(&mut client, "X-User: 1\r\n").await, owner);
    holding.reply("GET").await;
    bed.in_flight(&release(1), 0).await;
    assert_eq!(who(&mut client, "X-User: 1\r\n").await, owner);
}

/// Two releases, one instance each, which answers with its name.
async fn two(bed: &Bed, weights: &[(u32, u32)], split: Split) -> [Instance; 2] {
    publish(bed, weights, split).await;
    let two = [Instance::of("one", release(1)).await, Instance::of("two", release(2)).await];
    for instance in &two {
        bed.handle.admit(instance.endpoint.clone());
    }
    two
}

async fn publish(bed: &Bed, weights: &[(u32, u32)], split: Split) {
    let mut entry = entry("shop/web", |_| {}, weights);
    entry.split = split;
    bed.publish(vec![entry]).await;
}

#[tokio::test]
async fn weights_are_exact_also_over_tables() {
    let bed = bed();
    let _two = two(&bed, &[(1, 95), (2, 5)], Split::default()).await;
    let mut clients = [bed.client().await, bed.client().await];
    let mut seconds = 0;
    for round in 0..100 {
        if round % 7 == 0 {
            publish(&bed, &[(1, 95), (2, 5)], Split::default()).await;
        }
        seconds += usize::from(who(&mut clients[round % 2], "").await == "two");
    }
    assert_eq!(seconds, 5);
}

#[tokio::test]
async fn who_matches_gets_a_release_without_weight() {
    let bed = bed();
    let by = |by: Key, value: Option<&str>| Match { by, value: value.map(str::to_owned), number: 2 };
    let matches =
        vec![by(Key::Header("x-beta".to_owned()), Some("yes")), by(Key::Cookie("beta".to_owned()), None)];
    let split = Split { matches, ..Split::default() };
    let _two = two(&bed, &[(1, 1), (2, 0)], split.clone()).await;
    let mut client = bed.client().await;
    for (fields, expected) in [
        ("", "one"),
        ("X-Beta: yes\r\n", "two"),
        ("X-Beta: no\r\n", "one"),
        ("Cookie: a=b; beta=1\r\n", "two"),
        ("Cookie: beta2=1\r\n", "one"),
    ] {
        assert_eq!(who(&mut client, fields).await, expected, "{fields}");
    }
    // Named no more: by weight.
    publish(&bed, &[(1, 1)], split).await;
    assert_eq!(who(&mut client, "X-Beta: yes\r\n").await, "one");
}

/// A request waits for the release that it matches; that wakes it, though it has no weight.
#[tokio::test]
async fn who_matches_wakes_a_release_without_weight() {
    let mut bed = bed();
    let by = Key::Header("x-beta".to_owned());
    let split = Split { matches: vec![Match { by, value: None, number: 2 }], ..Split::default() };
    publish(&bed, &[(1, 1), (2, 0)], split.clone()).await;
    let mut client = bed.client().await;
    client.send("GET / HTTP/1.1\r\nHost: shop.localhost\r\nX-Beta: 1\r\n\r\n").await;
    assert_eq!(bed.next_told().await, crate::support::Told::Wake(release(2), 1));
    bed.waiting(&release(2), 1).await;
    // Another table with the same split: it waits on.
    publish(&bed, &[(1, 2), (2, 0)], split).await;
    bed.waiting(&release(2), 1).await;
    let two = Instance::of("two", release(2)).await;
    bed.handle.admit(two.endpoint.clone());
    assert_eq!(client.reply("GET").await.text(), "two");
}

#[tokio::test]
async fn a_client_keeps_its_release_while_the_weight_rises() {
    let bed = bed();
    let split = Split { sticky: Some(Key::Cookie("id".to_owned())), ..Split::default() };
    let _two = two(&bed, &[(1, 95), (2, 5)], split.clone()).await;
    let mut client = bed.client().await;
    let mut before: Vec<String> = vec!["one".to_owned(); 200];
    for weight in [5, 25, 100] {
        publish(&bed, &[(1, 100 - weight), (2, weight)], split.clone()).await;
        let mut seconds = 0;
        for (id, before) in before.iter_mut().enumerate() {
            let now = who(&mut client, &format!("Cookie: id={id}\r\n")).await;
            assert!(now == "two" || *before == "one", "client {id} went back");
            seconds += u32::from(now == "two");
            *before = now;
        }
        assert!(seconds.abs_diff(2 * weight) <= 24, "{seconds} of 200 at {weight} %");
    }
}

#[tokio::test]
async fn the_own_zone_is_asked_first() {
    let bed = bed_with(None, |config| config.zone = Some("a".to_owned()));
    bed.publish_web(|route| (route.concurrency, route.concurrency_max) = (1, 4)).await;
    let (near, far) = (Instance::start("near").await, Instance::start("far").await);
    for (instance, zone) in [(&near, "a"), (&far, "b")] {
        let mut endpoint = instance.endpoint.clone();
        endpoint.zone = Some(zone.to_owned());
        bed.handle.admit(endpoint);
    }
    let mut client = bed.client().await;
    for _ in 0..20 {
        assert_eq!(who(&mut client, "").await, "near");
    }
    let mut holding = bed.client().await;
    holding.send("GET /slow/2000 HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    bed.in_flight(&release(1), 1).await;
    assert_eq!(who(&mut client, "").await, "far");
    holding.reply("GET").await;
    bed.in_flight(&release(1), 0).await;
    assert_eq!(who(&mut client, "").await, "near");
}
