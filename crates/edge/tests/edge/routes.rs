//! Hosts, paths, weights, virtual addresses, and who may call whom.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use minato_model::{network::AddressPlan, routing::Routing as _};
use tokio::net::TcpSocket;

use crate::support::{Bed, Client, Instance, Reply, bed, bed_with, entry, id, release, within};

#[tokio::test]
async fn releases_get_their_weights_exactly() {
    let bed = bed();
    bed.publish(vec![entry("shop/web", |_| {}, &[(1, 19), (2, 1)])]).await;
    let (one, two) = (Instance::start("one").await, Instance::of("two", release(2)).await);
    bed.handle.admit(one.endpoint.clone());
    bed.handle.admit(two.endpoint.clone());
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(bed.client().await);
    }
    let mut seconds = 0;
    for round in 0..400 {
        seconds += usize::from(clients[round % 4].get("/").await.text() == "two");
    }
    assert_eq!(seconds, 20);
}

/// Asks a virtual address from the address of an instance.
pub(crate) async fn call(from: Ipv4Addr, to: Ipv4Addr, port: u16, fields: &str) -> Reply {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let stream = within(socket.connect((to, port).into())).await.unwrap();
    let mut client = Client::on(stream);
    client.ask("GET", "/echo", fields).await
}

/// The same with a path and a host of its own.
pub(crate) async fn call_path(from: Ipv4Addr, to: Ipv4Addr, path: &str, host: &str) -> Reply {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let mut client = Client::on(within(socket.connect((to, 80).into())).await.unwrap());
    client.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    client.reply("GET").await
}

async fn cluster(plan: AddressPlan) -> (Bed, [Instance; 2]) {
    let bed = bed_with(Some(plan), |_| {});
    let at = |offset| {
        move |route: &mut minato_model::route::Route| {
            route.virtual_offset = offset;
            route.hosts = Vec::new();
        }
    };
    let front = entry("shop/front", at(2), &[(1, 1)]);
    let cart = entry("shop/cart", at(3), &[(1, 1)]);
    let mut picky = entry("shop/picky", at(4), &[(1, 1)]);
    picky.route.calls = Some(vec!["billing/invoices".parse().unwrap()]);
    let invoices = entry("billing/invoices", at(5), &[(1, 1)]);
    bed.publish(vec![front, cart, picky, invoices]).await;
    let of = |service: &str| minato_model::ids::ReleaseKey { service: service.parse().unwrap(), number: 1 };
    let cart = Instance::of("cart1", of("shop/cart")).await;
    let invoices = Instance::of("invoice1", of("billing/invoices")).await;
    for instance in [&cart, &invoices] {
        bed.handle.admit(instance.endpoint.clone());
    }
    (bed, [cart, invoices])
}

#[tokio::test]
async fn services_call_one_another_as_their_manifests_say() {
    let plan = AddressPlan::new(Ipv4Addr::new(127, 91, 0, 0));
    let (bed, _instances) = cluster(plan).await;
    let (front, picky, stranger) = (plan.at(16_384), plan.at(16_385), plan.at(16_386));
    bed.handle.introduce(&id("front1"), &"shop/front".parse().unwrap(), front);
    bed.handle.introduce(&id("picky1"), &"shop/picky".parse().unwrap(), picky);

    for port in [80, 8080] {
        let reply = call(front, plan.at(3), port, "").await;
        assert_eq!((reply.status, reply.field("x-instance")), (200, Some("cart1")));
        assert!(reply.text().contains(&format!("x-forwarded-for: {front}\r\n")), "{}", reply.text());
        assert!(reply.text().contains("minato-hops: 1\r\n"));
    }
    let reply = call(front, plan.at(5), 80, "").await;
    assert_eq!((reply.status, reply.code()), (403, Some("denied")));
    assert!(
        reply.text().contains("services.front.calls") && reply.text().contains("billing.invoices"),
        "{}",
        reply.text()
    );
    assert_eq!(call(picky, plan.at(5), 80, "").await.status, 200);
    let reply = call(picky, plan.at(3), 80, "").await;
    assert!(reply.status == 403 && reply.text().contains("\\\"cart\\\""), "{}", reply.text());
    assert_eq!(call(stranger, plan.at(3), 80, "").await.code(), Some("denied"));

    let reply = call(front, plan.at(3), 80, "Minato-Hops: 15\r\n").await;
    assert!(reply.text().contains("minato-hops: 16\r\n"));
    let reply = call(front, plan.at(3), 80, "Minato-Hops: 16\r\n").await;
    assert_eq!((reply.status, reply.code()), (508, Some("loop")));

    bed.handle.forget(&id("front1"));
    assert_eq!(call(front, plan.at(3), 80, "").await.code(), Some("denied"));
}

#[tokio::test]
async fn virtual_addresses_come_and_go_with_the_table() {
    let plan = AddressPlan::new(Ipv4Addr::new(127, 92, 0, 0));
    let (bed, _instances) = cluster(plan).await;
    let address = SocketAddr::new(IpAddr::V4(plan.at(3)), 8080);
    assert!(tokio::net::TcpStream::connect(address).await.is_ok());
    // Another port: the old one closes.
    let moved = entry("shop/cart", |route| (route.virtual_offset, route.port) = (3, 9000), &[(1, 1)]);
    bed.publish(vec![moved]).await;
    assert!(tokio::net::TcpStream::connect((plan.at(3), 9000)).await.is_ok());
    within(async {
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    bed.handle.introduce(&id("cart2"), &"shop/cart".parse().unwrap(), plan.at(16_390));
    assert_eq!(call(plan.at(16_390), plan.at(3), 9000, "").await.status, 200);
    bed.publish(Vec::new()).await;
    within(async {
        while tokio::net::TcpStream::connect((plan.at(3), 80)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
