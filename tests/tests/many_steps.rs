//! Two hundred instances under load while the server or its keeper is killed at every step of a start, of a
//! drain and of an adoption: whom the kill didn't end runs on as it was, whom it ended is replaced, and
//! once a server is there again nothing fails.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails here")]

use std::collections::BTreeMap;

use minato_tests::{
    Server,
    fleet::{self, host},
    http, kernel,
    sample::{self, Load, Shot, failed, manifest, now, pause},
    until,
    watch::{events_of, id, ready, until_ready},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const SERVICES: usize = 10;
const EACH: usize = 20;
const ALL: usize = SERVICES * EACH;

/// What stays the same of an instance that was adopted.
type Marks = BTreeMap<String, (Value, Value)>;

fn marks(server: &Server) -> Marks {
    let mark = |one: &Value| (id(one), (one["pid"].clone(), one["address"].clone()));
    until_ready(server, "fleet", ALL).iter().map(mark).collect()
}

fn fleet_of_two_hundred() -> Server {
    let server = sample::server();
    let small = "resources = { memory = \"24MiB\" }";
    server.apply(&fleet::manifest(SERVICES, small, &format!("min = {EACH}\nmax = {EACH}")));
    until_ready(&server, "fleet", ALL);
    server
}

fn loads(server: &Server) -> Vec<Load> {
    (0..3).map(|number| Load::start(server, 1, &host(number), "/slow?10")).collect()
}

fn shots(loads: Vec<Load>) -> Vec<Shot> {
    loads.into_iter().flat_map(Load::end).collect()
}

/// A load over a moment, of which nothing fails.
#[track_caller]
fn serves(server: &Server, at: &str) {
    let load = loads(server);
    pause(std::time::Duration::from_millis(300));
    let shots = shots(load);
    assert!(failed(&shots).is_empty(), "{at}: of {}: {:?}", shots.len(), failed(&shots).first());
    assert!(shots.len() > 5, "{at}: {} requests are no load", shots.len());
}

/// Asks from beside: a crash may leave it without an answer.
fn ask_aside(server: &Server) -> std::thread::JoinHandle<Option<http::Answer>> {
    let address = server.http;
    std::thread::spawn(move || http::get(address, "app.localhost", "/").ok())
}

/// The server with a point at which it dies is under load and `strike` brings it there; the next one has
/// the same two hundred.
fn the_server_dies(server: &mut Server, at: &str, strike: impl FnOnce(&Server)) {
    let before = marks(server);
    server.kill();
    let ready = server.spawn_armed(&[("MINATO_CRASH_AT", at)]);
    let load = loads(server);
    if ready && !at.starts_with("adopt.") {
        assert_eq!(marks(server), before, "{at}");
        strike(server);
    }
    server.crashed();
    server.spawn(&[]);
    let served = now();
    assert_eq!(marks(server), before, "{at}: the same processes at the same addresses");
    until("an answer", || {
        let answer = server.ask("app.localhost", "/");
        if answer.status == 200 { Ok(()) } else { Err(format!("{at}: {}{}", answer.head, answer.text())) }
    });
    let after: Vec<Shot> = shots(load).into_iter().filter(|shot| shot.begun > served).collect();
    assert!(failed(&after).is_empty(), "{at}: of {}: {:?}", after.len(), failed(&after).first());
}

#[test]
fn the_server_dies_at_every_step_with_two_hundred() {
    let mut server = fleet_of_two_hundred();
    server.apply(&manifest("0", "min = 0\nidle = \"200ms\"", ""));
    // Those who are adopted become ready first.
    for at in ["start.begun", "start.taken", "start.ordered", "start.executed", "start.ready:201"] {
        until("rest", || match ready(&server, "app/web").len() {
            0 => Ok(()),
            number => Err(format!("{at}: {number} are ready")),
        });
        let mut asked = None;
        the_server_dies(&mut server, at, |server| asked = Some(ask_aside(server)));
        drop(asked.unwrap_or_else(|| panic!("{at}: the server was not ready")).join().unwrap());
    }
    server.apply(&manifest("1", "min = 1", ""));
    let points = ["drain.withdrawn", "drain.quiet", "drain.noted", "drain.signalled", "drain.ended"];
    for (round, at) in points.into_iter().enumerate() {
        let text = manifest(&format!("{}", round + 2), "min = 1", "");
        the_server_dies(&mut server, at, |server| {
            drop(server.minato(&["apply", server.manifest(&text).to_str().unwrap()]));
        });
        // The same again waits for what is left of the roll-out.
        server.apply(&text);
    }
    for at in ["adopt.held", "adopt.probed", "adopt.probed:100", "adopt.done", "adopt.done:200"] {
        the_server_dies(&mut server, at, |_| {});
    }
    assert_eq!(kernel::programs(server.data(), "sample"), ALL + 1, "none is lost, none doubled");
    assert!(server.stop().success());
    assert_eq!(kernel::objects(server.data()), Vec::<String>::new());
}

/// Waits until a keeper has gone since there were so many such events.
fn keeper_died(server: &Server, before: usize, at: &str) {
    until("the keeper to die", || match events_of(server, "keeper_gone").len() {
        number if number > before => Ok(()),
        number => Err(format!("{at}: {number} keepers gone")),
    });
}

/// Kills the server, and the keeper that it may have started since the last one died.
fn both_die(server: &mut Server) {
    server.kill();
    until("no keeper", || {
        let found = kernel::objects(server.data()).into_iter().find(|line| line.contains(" keeper "));
        let Some(line) = found else { return Ok(()) };
        let pid = Pid::from_raw(line.split(' ').nth(1).unwrap().parse().unwrap()).unwrap();
        // It may have ended by itself since.
        kill_process(pid, Signal::KILL).unwrap_or_default();
        Err(line)
    });
}

/// How many keepers have gone by themselves, by the journal on disk.
fn keepers_gone(server: &Server) -> usize {
    let journal = std::fs::read_to_string(server.data().join("events/events.ndjson")).unwrap_or_default();
    journal.lines().filter(|line| line.contains("\"keeper_gone\"")).count()
}

#[test]
fn the_keeper_dies_at_every_step_with_two_hundred() {
    let mut server = fleet_of_two_hundred();
    server.apply(&manifest("0", "min = 1", ""));
    let mut before = marks(&server);
    assert!(server.stop().success());
    // In the middle of two hundred starts.
    for at in ["keeper.make.forked:150", "keeper.make.parked:150", "keeper.started:150"] {
        let gone = keepers_gone(&server);
        let _ready = server.spawn_armed(&[("MINATO_KEEPER_CRASH_AT", at)]);
        let load = loads(&server);
        keeper_died(&server, gone, at);
        // Every keeper of this server ends there, and the next one is to be another's.
        both_die(&mut server);
        drop(shots(load));
    }
    let drains = ["keeper.signalled", "keeper.exited", "keeper.ended"];
    for (round, at) in drains.into_iter().enumerate() {
        assert!(server.spawn_armed(&[("MINATO_KEEPER_CRASH_AT", at)]), "{at}");
        fresh(&server, &mut before, at);
        until_ready(&server, "app/web", 1);
        let load = loads(&server);
        let gone = events_of(&server, "keeper_gone").len();
        let text = manifest(&format!("{}", round + 1), "min = 1", "");
        drop(server.minato(&["apply", server.manifest(&text).to_str().unwrap()]));
        keeper_died(&server, gone, at);
        both_die(&mut server);
        drop(shots(load));
    }
    // Its own server was greeted before, when there was nothing to hold.
    for at in ["keeper.hello:2", "keeper.held:100", "keeper.held:200", "keeper.greeted:2"] {
        assert!(server.spawn_armed(&[("MINATO_KEEPER_CRASH_AT", at)]), "{at}");
        fresh(&server, &mut before, at);
        let load = loads(&server);
        server.kill();
        drop(shots(load));
    }
    server.spawn(&[]);
    fresh(&server, &mut before, "the last");
    serves(&server, "the last");
    until_ready(&server, "app/web", 1);
    assert_eq!(server.ask("app.localhost", "/").status, 200);
    until("as many programs as instances", || match kernel::programs(server.data(), "sample") {
        found if found == ALL + 1 => Ok(()),
        found => Err(format!("{found} programs")),
    });
    assert!(server.stop().success());
    assert_eq!(kernel::objects(server.data()), Vec::<String>::new());
}

/// Waits for two hundred others than those before.
fn fresh(server: &Server, before: &mut Marks, at: &str) {
    *before = until("two hundred others", || {
        let mark = |one: &Value| (id(one), (one["pid"].clone(), one["address"].clone()));
        let now: Marks = ready(server, "fleet").iter().map(mark).collect();
        let others = now.keys().filter(|id| !before.contains_key(*id)).count();
        if others == ALL && now.len() == ALL {
            Ok(now)
        } else {
            Err(format!("{at}: {others} of {}", now.len()))
        }
    });
}
