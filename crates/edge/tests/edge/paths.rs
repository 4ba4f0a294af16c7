//! Paths that could be read in more ways than one, and whom they reach.

use std::sync::atomic::Ordering::SeqCst;

use minato_model::{ids::ReleaseKey, network::AddressPlan, routing::Routing as _};

use crate::{
    routes::call_path,
    support::{Bed, Instance, bed, bed_with, entry, id},
};

/// Two services of a host: `shop/api` has `/api`, and `shop/web` the rest.
async fn two() -> (Bed, [Instance; 2]) {
    let bed = bed();
    let api = entry(
        "shop/api",
        |route| (route.paths, route.virtual_offset) = (vec!["/api".to_owned()], 3),
        &[(1, 1)],
    );
    bed.publish(vec![entry("shop/web", |_| {}, &[(1, 1)]), api]).await;
    let of = |service: &str| ReleaseKey { service: service.parse().unwrap(), number: 1 };
    let instances = [Instance::of("a", of("shop/api")).await, Instance::of("b", of("shop/web")).await];
    instances.iter().for_each(|instance| bed.handle.admit(instance.endpoint.clone()));
    (bed, instances)
}

#[tokio::test]
async fn a_path_reaches_whom_it_means_or_nobody() {
    let (bed, instances) = two().await;
    let mut client = bed.client().await;
    for (path, who) in [
        ("/api", "a"),
        ("/api/y", "a"),
        ("/%61pi/y", "a"),
        ("/%61%70%69", "a"),
        ("/api//y", "a"),
        ("/api/y%2fz", "a"),
        ("/api/.hidden/...", "a"),
        ("/apis", "b"),
        ("/x//y", "b"),
        ("/x%2Fy", "b"),
        ("/%2561pi/y", "b"),
        ("/x?q=/../api/%zz", "b"),
        ("http://shop.localhost/api/y", "a"),
        ("/x#/../api", "b"),
    ] {
        let reply = client.get(path).await;
        assert_eq!((reply.status, reply.text()), (200, who), "{path}");
    }
    let answered = || instances.iter().map(|one| one.requests.load(SeqCst)).sum::<usize>();
    let before = answered();
    for path in [
        "/x/../api/y",
        "//api/y",
        "/api/../admin",
        "/api/%2e%2e/admin",
        "/api/.%2E/admin",
        "/api/..;/admin",
        "/api%2fy",
        "/api%5Cy",
        "/x%2f..%2fapi",
        "/.//api",
        "/%2fapi",
        "/api\\..\\admin",
        "/api%00",
        "/api/%",
        "/api/%4",
        "http://shop.localhost//api/y",
        "http://shop.localhost/x/../api",
        "?/../api",
    ] {
        let mut client = bed.client().await;
        let reply = client.get(path).await;
        assert_eq!((reply.status, reply.code()), (400, Some("bad_request")), "{path}");
    }
    assert_eq!(answered(), before, "none of them reached an instance");
}

#[tokio::test]
async fn what_is_forwarded_is_what_was_written() {
    let (bed, _instances) = two().await;
    bed.publish(vec![entry("shop/web", |_| {}, &[(1, 1)])]).await;
    let mut client = bed.client().await;
    for path in ["/echo/%61%2Fb//c?d=%2e%2e/../e", "/echo/%41//b%5cc", "/echo/.x"] {
        let written = format!("GET {path} HTTP/1.1\r\n");
        let reply = client.get(path).await;
        assert!(reply.text().starts_with(&written), "{}", reply.text());
    }
}

#[tokio::test]
async fn a_caller_gets_round_no_rule_by_its_path() {
    let plan = AddressPlan::new(std::net::Ipv4Addr::new(127, 93, 0, 0));
    let bed = bed_with(Some(plan), |_| {});
    let cart = entry("shop/cart", |route| route.virtual_offset = 3, &[(1, 1)]);
    let mut admin = entry("billing/admin", |route| route.virtual_offset = 4, &[(1, 1)]);
    admin.route.paths = vec!["/admin".to_owned()];
    bed.publish(vec![cart, admin]).await;
    let cart = Instance::of("cart1", ReleaseKey { service: "shop/cart".parse().unwrap(), number: 1 }).await;
    bed.handle.admit(cart.endpoint.clone());
    let front = plan.at(16_384);
    bed.handle.introduce(&id("front1"), &"shop/front".parse().unwrap(), front);
    // The address alone says who is called: neither path nor host leads to another.
    for (path, host) in [("/admin", "shop.localhost"), ("//admin", "admin.billing"), ("/%61dmin", "x")] {
        let reply = call_path(front, plan.at(3), path, host).await;
        assert_eq!((reply.status, reply.text()), (200, "cart1"), "{path}");
        assert_eq!(call_path(front, plan.at(4), path, host).await.code(), Some("denied"));
    }
    assert_eq!(call_path(front, plan.at(3), "/x/../admin", "x").await.code(), Some("bad_request"));
}
