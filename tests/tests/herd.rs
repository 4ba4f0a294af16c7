//! Herds: many who ask for what doesn't run, at the same moment.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails here")]

use std::{
    io::Write as _,
    net::TcpStream,
    time::{Duration, Instant},
};

use minato_tests::{
    Server,
    fleet::{self, Got, crowd, failed},
    sample::{self, manifest, now},
    until,
    watch::{events, events_of, metric, ready, until_ready},
};
use serde_json::Value;

/// Starts of a service, those that came to nothing included.
fn starts(server: &Server, service: &str) -> usize {
    let of =
        |event: &&Value| format!("{}/{}", event["app"].as_str().unwrap(), event["service"].as_str().unwrap());
    events_of(server, "instance_starting").iter().filter(|event| of(event) == service).count()
}

fn answers<'a>(all: &'a [Got], status: u16, code: &str) -> Vec<&'a Got> {
    let wanted = |got: &&Got| got.status() == status && got.header("minato-code") == Some(code);
    all.iter().filter(wanted).collect()
}

fn slowest(all: &[Got]) -> Duration {
    all.iter().map(|got| got.took).max().unwrap()
}

#[test]
fn a_hundred_services_at_zero_are_asked_at_once() {
    let server = sample::server();
    server.apply(&fleet::manifest(100, "", ""));
    let wanted = (0..100).map(|number| (fleet::host(number), "/".to_owned()));
    let all = crowd(server.http, wanted);
    println!("the last of a hundred answers after {:?}", slowest(&all));
    assert_eq!(failed(&all), Vec::<String>::new());
    // A second is promised of a quiet machine, and measured there; here others work as well.
    assert!(slowest(&all) < Duration::from_secs(20), "{:?}", slowest(&all));
    for number in 0..100 {
        assert_eq!(starts(&server, &format!("fleet/s{number}")), 1, "s{number}");
    }
    assert_eq!(ready(&server, "fleet").len(), 100);
}

#[test]
fn a_thousand_clients_of_one_service_at_zero_need_one_start() {
    let server = sample::server();
    let room = "resources = { pids = 4096, memory = \"512MiB\" }";
    server.apply(&manifest("1", "concurrency = 1000", room));
    let all = crowd(server.http, (0..1_000).map(|_| ("app.localhost".to_owned(), "/slow?100".to_owned())));
    println!("the last of a thousand answers after {:?}", slowest(&all));
    assert_eq!(failed(&all), Vec::<String>::new());
    assert_eq!(starts(&server, "app/web"), 1);
}

#[test]
fn a_thousand_clients_with_the_defaults_need_twenty() {
    let server = sample::server();
    server.apply(&manifest("1", "", ""));
    let all = crowd(server.http, (0..1_000).map(|_| ("app.localhost".to_owned(), "/slow?100".to_owned())));
    println!("the last of a thousand answers after {:?}", slowest(&all));
    assert_eq!(failed(&all), Vec::<String>::new());
    let starts = starts(&server, "app/web");
    assert!((2..=20).contains(&starts), "{starts} starts");
}

#[test]
fn who_finds_the_queue_full_is_told_at_once_and_who_waits_too_long_in_time() {
    let server = sample::server();
    // It begins long after everybody has given up.
    let slow = manifest("1", "max = 1\nconcurrency = 1\nconcurrency_max = 1", "timeout = \"6s\"")
        .replace("VERSION = \"1\"", "VERSION = \"1\"\nBEGIN_AFTER_MS = \"10000\"");
    server.minato(&["apply", server.manifest(&slow).to_str().unwrap()]).ok();
    // 1,024 may wait.
    let all = crowd(server.http, (0..1_100).map(|_| ("app.localhost".to_owned(), "/".to_owned())));
    let (full, late) = (answers(&all, 503, "queue_full"), answers(&all, 504, "timeout"));
    assert_eq!((full.len(), late.len()), (76, 1_024), "{:?}", failed(&all));
    for got in &full {
        assert!(got.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
        assert!(got.took < Duration::from_secs(6), "{:?}: it needn't have waited", got.took);
    }
    for got in &late {
        assert!(got.took >= Duration::from_secs(6), "{:?}", got.took);
    }
    assert_eq!(metric(&server, "minato_held_requests"), 0.0, "whoever gave up waits no more");
    // It was started for them, and serves who comes now; nobody's old request is sent to it.
    until_ready(&server, "app/web", 1);
    assert_eq!(server.ask("app.localhost", "/").status, 200);
    assert_eq!(starts(&server, "app/web"), 1);
    let carried = ready(&server, "app/web")[0]["requests"].clone();
    assert_eq!(carried, 1, "only what was asked last");
}

#[test]
fn who_hangs_up_while_held_is_dropped() {
    let server = sample::server();
    let slow = manifest("1", "max = 1\nconcurrency = 1\nconcurrency_max = 1", "")
        .replace("VERSION = \"1\"", "VERSION = \"1\"\nBEGIN_AFTER_MS = \"4000\"");
    server.minato(&["apply", server.manifest(&slow).to_str().unwrap()]).ok();
    let request = b"GET /slow?1000 HTTP/1.1\r\nHost: app.localhost\r\n\r\n";
    let mut held: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(server.http).unwrap()).collect();
    held.iter_mut().for_each(|stream| stream.write_all(request).unwrap());
    let waiting = |number: f64| {
        until(&format!("{number} to be held"), || match metric(&server, "minato_held_requests") {
            found if found == number => Ok(()),
            found => Err(format!("{found}")),
        });
    };
    waiting(20.0);
    // The last one stays.
    held.drain(..19);
    waiting(1.0);
    let stays = crowd(server.http, [("app.localhost".to_owned(), "/".to_owned())]);
    assert_eq!(failed(&stays), Vec::<String>::new());
    assert_eq!(ready(&server, "app/web")[0]["requests"], 2, "nothing was done for who had gone");
}

/// When each of a service's instances was ready, by the journal.
fn ready_at(all: &[Value], service: &str) -> Vec<usize> {
    let of = |(place, event): (usize, &Value)| {
        (event["kind"] == "instance_ready" && event["service"] == service).then_some(place)
    };
    all.iter().enumerate().filter_map(of).collect()
}

#[test]
fn a_noisy_service_starves_no_other() {
    let server = sample::server();
    // One wants sixty instances, which take their time, and the other just one.
    let noisy = "app = \"noisy\"\n[services.web]\nimage = \"app/sample:1\"\nhosts = [\"noisy.localhost\"]\n\
                 env = { BEGIN_AFTER_MS = \"500\" }\n\
                 [services.web.scale]\nmax = 60\nconcurrency = 1\nconcurrency_max = 1\n";
    server.minato(&["apply", server.manifest(noisy).to_str().unwrap()]).ok();
    server.apply(&manifest("1", "", ""));
    let address = server.http;
    let many = std::thread::spawn(move || {
        crowd(address, (0..60).map(|_| ("noisy.localhost".to_owned(), "/slow?5000".to_owned())))
    });
    until("the noise to begin", || match starts(&server, "noisy/web") {
        0 => Err("nothing starts".to_owned()),
        _ => Ok(()),
    });
    let begun: Instant = now();
    assert_eq!(server.ask("app.localhost", "/").status, 200);
    println!("a first answer beside sixty starts after {:?}", begun.elapsed());
    assert_eq!(failed(&many.join().unwrap()), Vec::<String>::new());
    let all = events(&server);
    let (other, mine) = (ready_at(&all, "web"), starts(&server, "app/web"));
    assert_eq!(mine, 1);
    let quiet = all.iter().position(|event| event["kind"] == "instance_ready" && event["app"] == "app");
    let before = other.iter().filter(|place| Some(**place) < quiet).count();
    println!("{before} of the others were ready before it");
    assert!(before < 30, "{before} of sixty others came first");
}
