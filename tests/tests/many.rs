//! Two hundred instances: what a crash of the server, of an instance or of the keeper does to them, and
//! what an upgrade does not.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that can't go on fails here, and says what it measured"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use minato_tests::{
    Server,
    fleet::{self, host},
    http, kernel,
    sample::{self, Client, Load, Shot, failed, now, pause},
    until,
    watch::{address, events, events_of, id, keeper, pid, ready, until_ready},
};
use rustix::process::{Signal, kill_process, test_kill_process};
use serde_json::Value;

const SERVICES: usize = 10;
const EACH: usize = 20;
const ALL: usize = SERVICES * EACH;

/// What stays the same of an instance that was adopted.
fn marks(all: &[Value]) -> BTreeMap<String, (Value, Value, Value)> {
    let mark = |one: &Value| (one["pid"].clone(), one["address"].clone(), one["started_at"].clone());
    all.iter().map(|one| (id(one), mark(one))).collect()
}

fn loads(server: &Server) -> Vec<Load> {
    (0..3).map(|number| Load::start(server, 2, &host(number), "/slow?10")).collect()
}

fn shots(loads: Vec<Load>) -> Vec<Shot> {
    let mut shots: Vec<Shot> = loads.into_iter().flat_map(Load::end).collect();
    shots.sort_by_key(|shot| shot.begun);
    shots
}

/// Ends some instances behind everybody's back: three with a status, two by a signal.
fn end_some(victims: &[Value]) {
    for victim in &victims[..3] {
        drop(Client::new(address(victim)).get("direct", "/exit?7"));
    }
    for victim in &victims[3..] {
        kill_process(pid(victim), Signal::KILL).unwrap();
    }
    for victim in victims {
        until("it to have ended", || match test_kill_process(pid(victim)) {
            Ok(()) => Err("it runs".to_owned()),
            Err(_) => Ok(()),
        });
    }
}

/// Waits for the first answer of a server that starts.
fn first_answer(server: &Server, begun: Instant) -> (http::Answer, Duration) {
    let answer = until("an answer", || match http::get(server.http, &host(5), "/") {
        Ok(answer) if answer.status == 200 => Ok(answer),
        other => Err(format!("{other:?}")),
    });
    (answer, begun.elapsed())
}

/// The server is killed, and the next one takes everything over.
fn the_server_is_killed(server: &mut Server) {
    let before = until_ready(server, "fleet", ALL);
    let victims: Vec<Value> = before.iter().filter(|one| one["service"] == "s9").take(5).cloned().collect();
    let load = loads(server);
    pause(Duration::from_millis(300));
    server.kill();
    end_some(&victims);
    let begun = now();
    server.spawn(&[]);
    let (answer, took) = first_answer(server, begun);
    println!("first answer {took:?} after the start over {} instances", ALL - victims.len());
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(answer.header("server-timing"), None, "nothing had to start for it");
    let after = until_ready(server, "fleet", ALL);
    let shots = shots(load);
    let served = shots.iter().position(|shot| shot.begun > begun && shot.answer.is_ok()).unwrap();
    assert_eq!(failed(&shots[served..]).len(), 0, "{:?}", failed(&shots[served..]).first());

    let (before, after) = (marks(&before), marks(&after));
    let lost: BTreeSet<String> = victims.iter().map(id).collect();
    for (id, mark) in before.iter().filter(|(id, _)| !lost.contains(*id)) {
        assert_eq!(after.get(id), Some(mark), "{id} is the same process at the same address");
    }
    assert_eq!(after.keys().filter(|id| !before.contains_key(*id)).count(), lost.len());
    assert!(lost.iter().all(|id| !after.contains_key(id)));
    assert_eq!(kernel::programs(server.data(), "sample"), ALL, "none is lost, none doubled");
    ends_are_known(server, &victims);
    logs_go_on(server);
}

/// How each of those that nobody saw ended is told.
fn ends_are_known(server: &Server, victims: &[Value]) {
    let told = events_of(server, "instance_failed");
    for (place, victim) in victims.iter().enumerate() {
        let says = if place < 3 { "status 7" } else { "signal 9" };
        let why = server.why(&id(victim));
        assert!(why.contains(says) && why.contains("while no server was there"), "{why}");
        let event = told.iter().find(|event| event["instance"] == victim["id"]).unwrap();
        assert!(event["reason"].as_str().unwrap().contains(says), "{event}");
    }
}

/// What an adopted instance writes is kept and found.
fn logs_go_on(server: &Server) {
    for one in ready(server, "fleet/s4") {
        let text = format!("/say?after-{}", id(&one));
        assert_eq!(Client::new(address(&one)).get("direct", &text).unwrap().0, 200);
    }
    for one in ready(server, "fleet/s4") {
        let (id, text) = (id(&one), format!("after-{}", id(&one)));
        until("the log to go on", || {
            let logs = server.minato(&["logs", "--instance", &id, "fleet/s4"]).ok().stdout;
            if logs.contains(&text) { Ok(()) } else { Err(logs) }
        });
    }
}

/// Another server takes over under load: nobody notices, and the one before ends.
fn the_server_is_upgraded(server: &mut Server) {
    let before = marks(&until_ready(server, "fleet", ALL));
    let load = loads(server);
    pause(Duration::from_millis(300));
    let begun = now();
    let mut former = server.upgrade(&["--anonymous-push"]);
    println!("ready {:?} after the start of an upgrade over {ALL} instances", begun.elapsed());
    pause(Duration::from_millis(300));
    let shots = shots(load);
    assert_eq!(failed(&shots).len(), 0, "of {}: {:?}", shots.len(), failed(&shots).first());
    assert!(shots.len() > 100, "{} requests are no load", shots.len());
    let longest = shots.iter().map(|shot| shot.ended - shot.begun).max();
    println!("{} requests meanwhile, the longest {longest:?}", shots.len());
    assert_eq!(marks(&until_ready(server, "fleet", ALL)), before);
    let ended = until("the server before to end", || match former.try_wait().unwrap() {
        Some(status) => Ok(status),
        None => Err("it runs".to_owned()),
    });
    assert!(ended.success(), "{ended}");
    assert_eq!(kernel::programs(server.data(), "sample"), ALL, "none is lost, none doubled");
}

/// Instances are killed under load, one of each service that has it.
fn instances_are_killed(server: &Server) {
    let load = loads(server);
    pause(Duration::from_millis(300));
    for round in 0..2 {
        let victims: Vec<Value> =
            (0..3).map(|number| ready(server, &format!("fleet/s{number}"))[round].clone()).collect();
        for victim in &victims {
            kill_process(pid(victim), Signal::KILL).unwrap();
        }
        until("their replacements", || {
            let now = marks(&ready(server, "fleet"));
            let gone = victims.iter().all(|victim| !now.contains_key(&id(victim)));
            if gone && now.len() == ALL { Ok(()) } else { Err(format!("{} are ready", now.len())) }
        });
    }
    let shots = shots(load);
    assert_eq!(failed(&shots).len(), 0, "of {}: {:?}", shots.len(), failed(&shots).first());
    assert!(shots.len() > 100, "{} requests are no load", shots.len());
}

/// The keeper is killed: every instance goes with it, and another comes for each.
fn the_keeper_is_killed(server: &Server) {
    let before = marks(&until_ready(server, "fleet", ALL));
    let killed = keeper(server);
    kill_process(killed, Signal::KILL).unwrap();
    let replaced = until("all to be replaced", || {
        let now = marks(&ready(server, "fleet"));
        let fresh = now.keys().filter(|id| !before.contains_key(*id)).count();
        if fresh == ALL && now.len() == ALL { Ok(now) } else { Err(format!("{fresh} of {}", now.len())) }
    });
    assert_ne!(keeper(server), killed);
    let first = before.keys().next().unwrap();
    assert!(server.why(first).contains("keeper"), "{}", server.why(first));
    let story = server.why(replaced.keys().next().unwrap());
    assert!(story.contains("asked by replacement"), "{story}");
    assert!(events(server).iter().any(|event| event["kind"] == "keeper_gone"));
    assert_eq!(kernel::programs(server.data(), "sample"), ALL);
    for number in 0..SERVICES {
        assert_eq!(server.ask(&host(number), "/").status, 200);
    }
}

#[test]
fn two_hundred_instances_outlive_the_server_and_are_replaced_when_they_do_not_live() {
    let mut server = sample::server();
    let small = "resources = { memory = \"24MiB\" }";
    server.apply(&fleet::manifest(SERVICES, small, &format!("min = {EACH}\nmax = {EACH}")));
    the_server_is_killed(&mut server);
    the_server_is_upgraded(&mut server);
    instances_are_killed(&server);
    the_keeper_is_killed(&server);
    assert!(server.stop().success());
    assert_eq!(kernel::objects(server.data()), Vec::<String>::new());
}
