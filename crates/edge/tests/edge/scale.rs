//! Many routes.

use std::{sync::Arc, time::Duration};

use minato_model::{
    ids::ReleaseKey,
    route::{Entry, Route, Table},
    routing::Routing as _,
};

use crate::support::{Client, Instance, bed, entry, release};

/// Ten thousand hosts with three releases each; `changed` of them as they weren't before.
fn table(changed: u16, round: u32) -> Arc<Table> {
    let services = (0..10_000).map(|number: u16| {
        let place = |route: &mut Route| {
            route.hosts = vec![format!("shop{number}.example.test")];
            route.virtual_offset = number + 10;
        };
        let newest = if number < changed { round } else { 3 };
        entry(&format!("app{number}/web"), place, &[(1, 90), (2, 10), (newest, 1)])
    });
    let web = entry("shop/web", |_| {}, &[(1, 1)]);
    Arc::new(Table { services: services.chain([web]).collect::<Vec<Entry>>() })
}

/// What it takes is shown with `--no-capture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_a_thousand_routes_under_load_fails_no_request() {
    let bed = bed();
    let first = table(0, 0);
    let began = tokio::time::Instant::now();
    bed.handle.publish(first).await;
    println!("10,000 routes in force after {:?}", began.elapsed());
    let far = |number: u32| ReleaseKey { service: "app9000/web".parse().unwrap(), number };
    let instances = [
        Instance::start("web").await,
        Instance::of("one", far(1)).await,
        Instance::of("two", far(2)).await,
        Instance::of("three", far(3)).await,
    ];
    for instance in &instances {
        bed.handle.admit(instance.endpoint.clone());
    }
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let load = |host: &'static str| {
        let (done, address) = (Arc::clone(&done), bed.address);
        #[expect(clippy::disallowed_methods, reason = "it is waited for")]
        tokio::spawn(async move {
            let mut client = Client::connect(address).await;
            let mut answered = 0_u32;
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
                let reply = client.reply("GET").await;
                assert_eq!(reply.status, 200, "{}", reply.text());
                answered += 1;
            }
            answered
        })
    };
    let loads = [load("shop.localhost"), load("shop.localhost"), load("shop9000.example.test")];
    for round in 4..10 {
        let next = table(1_000, round);
        let began = tokio::time::Instant::now();
        bed.handle.publish(next).await;
        println!("1,000 of them changed after {:?}", began.elapsed());
    }
    done.store(true, std::sync::atomic::Ordering::SeqCst);
    for load in loads {
        let answered = tokio::time::timeout(Duration::from_secs(20), load).await.unwrap().unwrap();
        assert!(answered > 0);
    }
    assert_eq!(bed.handle.load(&release(1)).waiting, 0);
}
