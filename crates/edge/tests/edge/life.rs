//! Instances that come and go under load, and the edge's own end. No planned change fails a request.
#![expect(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use minato_model::routing::Routing as _;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::AsyncWriteExt;

use crate::support::{
    Bed, Client, Instance, Told, bed, bed_with, endpoint, entry, id, read_request, release, serve_raw, until,
    within,
};

/// Clients that ask one request after the other; stopping them gives how many were answered.
struct Crowd {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: tokio::task::JoinSet<()>,
}

impl Crowd {
    fn start(bed: &Bed, clients: usize, path: &'static str) -> Self {
        let mut crowd =
            Self { stop: Arc::default(), answered: Arc::default(), clients: tokio::task::JoinSet::new() };
        for _ in 0..clients {
            let (stop, answered, address) =
                (Arc::clone(&crowd.stop), Arc::clone(&crowd.answered), bed.address);
            crowd.clients.spawn(async move {
                let mut client = Client::connect(address).await;
                while !stop.load(SeqCst) {
                    let reply = client.get(path).await;
                    assert!(reply.status == 200 && reply.whole, "{reply:?}");
                    answered.fetch_add(1, SeqCst);
                }
            });
        }
        crowd
    }

    /// Waits until so many more were answered.
    async fn more(&self, count: usize) {
        let goal = self.answered.load(SeqCst) + count;
        until(|| self.answered.load(SeqCst) >= goal || self.clients.is_empty()).await;
    }

    /// Every one of them has been answered.
    async fn stop(mut self) -> usize {
        self.stop.store(true, SeqCst);
        while let Some(ended) = within(self.clients.join_next()).await {
            ended.unwrap();
        }
        self.answered.load(SeqCst)
    }
}

#[tokio::test]
async fn an_instance_that_refuses_is_told_of_and_passed_over() {
    let mut bed = bed();
    bed.publish_web(|_| {}).await;
    // Nothing listens there any more.
    let gone = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    bed.handle.admit(endpoint("gone", release(1), gone));
    let mut client = bed.client().await;
    client.send("POST / HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 2\r\n\r\nhi").await;
    assert_eq!(bed.next_told().await, Told::Suspect(id("gone")));
    bed.waiting(&release(1), 1).await;
    let good = Instance::start("good").await;
    bed.handle.admit(good.endpoint.clone());
    assert_eq!(client.reply("POST").await.text(), "good");
    bed.handle.withdraw(&id("gone")).await;
    bed.handle.forget(&id("gone"));
    assert_eq!(bed.handle.traffic(&id("gone")).requests, 0);
}

#[tokio::test]
async fn a_suspension_ends_if_the_agent_finds_nothing_wrong() {
    let mut bed = bed();
    bed.publish_web(|_| {}).await;
    let place = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    bed.handle.admit(endpoint("late", release(1), place));
    let mut client = bed.client().await;
    client.send("GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    assert_eq!(bed.next_told().await, Told::Suspect(id("late")));
    let listener = tokio::net::TcpListener::bind(place).await.unwrap();
    let (mut stream, _) = within(listener.accept()).await.unwrap();
    read_request(&mut stream, &mut Vec::new()).await.unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    assert_eq!(client.reply("GET").await.status, 200);
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_meanwhile_costs_no_request() {
    let bed = bed();
    bed.publish_web(|_| {}).await;
    let opened = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&opened);
    let (address, _task) = serve_raw(move |mut stream| {
        counter.fetch_add(1, SeqCst);
        async move {
            let mut rest = Vec::new();
            // Answers one request; the next one finds the connection closed when it is there.
            read_request(&mut stream, &mut rest).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            read_request(&mut stream, &mut rest).await;
        }
    })
    .await;
    bed.handle.admit(endpoint("one", release(1), address));
    let mut client = bed.client().await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(opened.load(SeqCst), 20);
}

#[tokio::test]
async fn a_request_that_breaks_instances_is_given_up() {
    let mut bed = bed();
    bed.publish_web(|_| {}).await;
    let instances = [Instance::start("one").await, Instance::start("two").await];
    for instance in &instances {
        bed.handle.admit(instance.endpoint.clone());
    }
    let reply = bed.get("/die").await;
    assert_eq!((reply.status, reply.code()), (502, Some("upstream")));
    let asked: usize = instances.iter().map(|instance| instance.requests.load(SeqCst)).sum();
    assert_eq!(asked, 3);
    assert!(matches!(bed.next_told().await, Told::Suspect(_)));
    assert_eq!(bed.get("/").await.status, 200, "neither was taken out for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_an_instance_under_load_fails_no_safe_request() {
    let mut bed = bed();
    bed.publish_web(|_| {}).await;
    let mut instances = vec![Instance::start("a0").await, Instance::start("b0").await];
    for instance in &instances {
        bed.handle.admit(instance.endpoint.clone());
    }
    let crowd = Crowd::start(&bed, 16, "/slow/1");
    for round in 1..=10 {
        crowd.more(200).await;
        let killed = instances.remove(0);
        killed.kill();
        // As the agent does: it is told, looks, takes it out and starts another.
        loop {
            if bed.next_told().await == Told::Suspect(killed.endpoint.instance.clone()) {
                break;
            }
        }
        bed.handle.withdraw(&killed.endpoint.instance).await;
        let next = Instance::start(&format!("c{round}")).await;
        bed.handle.admit(next.endpoint.clone());
        instances.push(next);
        within(bed.handle.quiet(&killed.endpoint.instance)).await;
        bed.handle.forget(&killed.endpoint.instance);
    }
    crowd.more(200).await;
    assert!(crowd.stop().await >= 2000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_instance_gets_nothing_after_the_confirmation() {
    let bed = bed();
    bed.publish_web(|_| {}).await;
    let mut old = Instance::start("i0").await;
    bed.handle.admit(old.endpoint.clone());
    let crowd = Crowd::start(&bed, 16, "/slow/1");
    for round in 1..=30 {
        crowd.more(50).await;
        let new = Instance::start(&format!("i{round}")).await;
        bed.handle.admit(new.endpoint.clone());
        let before = &old.endpoint.instance;
        bed.handle.withdraw(before).await;
        let given = bed.handle.traffic(before).requests;
        within(bed.handle.quiet(before)).await;
        let traffic = bed.handle.traffic(before);
        assert_eq!((traffic.requests, traffic.in_flight), (given, 0));
        old.kill();
        bed.handle.forget(before);
        old = new;
    }
    assert!(crowd.stop().await >= 1500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_of_releases_is_at_once_and_fails_nothing() {
    let bed = bed();
    let table =
        |number| vec![entry("shop/web", |_| {}, &[(1, u32::from(number == 1)), (2, u32::from(number == 2))])];
    bed.publish(table(1)).await;
    let (one, two) = (Instance::start("one").await, Instance::of("two", release(2)).await);
    bed.handle.admit(one.endpoint.clone());
    bed.handle.admit(two.endpoint.clone());
    let crowd = Crowd::start(&bed, 8, "/slow/1");
    for round in 0..40 {
        let (number, expected) = if round % 2 == 0 { (2, "two") } else { (1, "one") };
        crowd.more(20).await;
        bed.publish(table(number)).await;
        for _ in 0..3 {
            assert_eq!(bed.get("/").await.text(), expected);
        }
    }
    crowd.stop().await;
}

#[tokio::test]
async fn forgetting_an_instance_cuts_its_connections() {
    let bed = bed();
    bed.publish_web(|_| {}).await;
    let instance = Instance::start("one").await;
    bed.handle.admit(instance.endpoint.clone());
    let mut client = bed.client().await;
    client.send("POST /slow/60000 HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 0\r\n\r\n").await;
    until(|| instance.requests.load(SeqCst) == 1).await;
    bed.handle.withdraw(&instance.endpoint.instance).await;
    bed.handle.forget(&instance.endpoint.instance);
    let reply = client.reply("POST").await;
    assert_eq!((reply.status, reply.code()), (502, Some("upstream")));
}

/// As a network that is gone: what would connect is never answered, for its queue is full.
fn silent() -> (Socket, Vec<Socket>) {
    let loopback = SockAddr::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let socket = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let listener = socket();
    listener.bind(&loopback).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    loop {
        let client = socket();
        let connected = client.connect_timeout(&address, Duration::from_millis(300));
        queued.push(client);
        if connected.is_err() {
            return (listener, queued);
        }
    }
}

#[tokio::test]
async fn who_connects_to_an_instance_that_goes_is_answered_by_another() {
    let bed = bed_with(None, |config| config.limits.connect = Duration::from_secs(60));
    bed.publish_web(|route| route.timeout = Duration::from_secs(60)).await;
    let (listener, _queued) = silent();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let silent = endpoint("silent", release(1), address);
    bed.handle.admit(silent.clone());
    let mut client = bed.client().await;
    client.send("POST / HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 0\r\n\r\n").await;
    bed.in_flight(&release(1), 1).await;
    let other = Instance::start("two").await;
    bed.handle.admit(other.endpoint.clone());
    bed.handle.withdraw(&silent.instance).await;
    assert_eq!(within(client.reply("POST")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_edge_answers_what_was_asked() {
    let bed = bed();
    bed.publish_web(|_| {}).await;
    let instance = Instance::start("one").await;
    bed.handle.admit(instance.endpoint.clone());
    let mut idle = bed.client().await;
    assert_eq!(idle.get("/").await.status, 200);
    let mut busy = bed.client().await;
    busy.send("GET /slow/200 HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    bed.in_flight(&release(1), 1).await;
    let address = bed.address;
    let draining = tokio::spawn(bed.edge.drain(Duration::from_secs(10)));
    assert_eq!(busy.reply("GET").await.status, 200);
    assert!(busy.is_closed().await && idle.is_closed().await);
    within(draining).await.unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_still_waits_at_the_end_is_told() {
    let bed = bed();
    bed.publish_web(|_| {}).await;
    let mut client = bed.client().await;
    client.send("GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").await;
    bed.waiting(&release(1), 1).await;
    let draining = tokio::spawn(bed.edge.drain(Duration::from_millis(50)));
    let reply = client.reply("GET").await;
    assert_eq!((reply.status, reply.code()), (503, Some("draining")));
    within(draining).await.unwrap();
}
