//! The server and its keeper killed at every step of a start, a drain and an adoption: the next server
//! makes everything right.

use minato_tests::{
    Server,
    http::{self, Answer},
    kernel,
    sample::{self, manifest},
    until,
    watch::{events_of, id, keeper, pid, until_ready},
};
use rustix::process::test_kill_process;
use serde_json::Value;

/// Asks from beside: a crash may leave it without an answer.
fn ask_aside(server: &Server, path: &'static str) -> std::thread::JoinHandle<Option<Answer>> {
    let address = server.http;
    std::thread::spawn(move || http::get(address, "app.localhost", path).ok())
}

/// The service answers, has so many instances, each with one program, and a stop leaves nothing.
#[track_caller]
fn all_is_right(server: &mut Server, number: usize, at: &str) -> Vec<Value> {
    until("an answer", || {
        let answer = server.ask("app.localhost", "/");
        if answer.status == 200 { Ok(()) } else { Err(format!("{at}: {}{}", answer.head, answer.text())) }
    });
    let ready = until_ready(server, "app/web", number);
    until("as many programs as instances", || match kernel::programs(server.data(), "sample") {
        found if found == number => Ok(()),
        found => Err(format!("{at}: {found} programs")),
    });
    ready
}

#[track_caller]
fn stop(server: &mut Server, at: &str) {
    assert!(server.stop().success(), "{at}");
    assert_eq!(kernel::objects(server.data()), Vec::<String>::new(), "{at}");
}

#[test]
fn the_server_dies_in_a_start() {
    let mut server = sample::server();
    server.apply(&manifest("1", "", ""));
    assert!(server.stop().success());
    for at in ["start.begun", "start.taken", "start.ordered", "start.executed", "start.ready"] {
        assert!(server.spawn_armed(&[("MINATO_CRASH_AT", at)]), "{at}");
        let asked = ask_aside(&server, "/");
        server.crashed();
        assert!(asked.join().unwrap().is_none(), "{at}: the server that was asked is dead");
        server.spawn(&[]);
        all_is_right(&mut server, 1, at);
        stop(&mut server, at);
    }
}

#[test]
fn the_server_dies_in_a_drain() {
    let mut server = sample::server();
    server.apply(&manifest("0", "min = 1", ""));
    let points = ["drain.withdrawn", "drain.quiet", "drain.noted", "drain.signalled", "drain.ended"];
    for (round, at) in points.into_iter().enumerate() {
        server.kill();
        assert!(server.spawn_armed(&[("MINATO_CRASH_AT", at)]), "{at}");
        let old = id(&until_ready(&server, "app/web", 1)[0]);
        let text = manifest(&format!("{}", round + 1), "min = 1", "");
        // The new release's first instance is ready, then the old one's goes.
        drop(server.minato(&["apply", server.manifest(&text).to_str().unwrap()]));
        server.crashed();
        server.spawn(&[]);
        let ready = all_is_right(&mut server, 1, at);
        assert_eq!(ready[0]["release"], round + 2, "{at}");
        // The same again waits for what is left of the roll-out: none is under way when the next begins.
        server.apply(&text);
        let why = server.why(&old);
        assert!(why.contains("signal 15"), "{at}: its end is known: {why}");
        let told = |kind| events_of(&server, kind).iter().filter(|event| event["instance"] == *old).count();
        assert_eq!((told("instance_stopped"), told("instance_failed")), (1, 0), "{at}: it was asked to");
    }
    stop(&mut server, "drain");
}

#[test]
fn the_server_dies_in_an_adoption() {
    let mut server = sample::server();
    server.apply(&manifest("1", "min = 3", ""));
    let before = until_ready(&server, "app/web", 3);
    let mark = |one: &Value| (id(one), one["pid"].clone());
    for at in ["adopt.held", "adopt.probed", "adopt.probed:2", "adopt.done", "adopt.done:3"] {
        server.kill();
        let _ready = server.spawn_armed(&[("MINATO_CRASH_AT", at)]);
        server.crashed();
        before.iter().for_each(|one| test_kill_process(pid(one)).unwrap());
        server.spawn(&[]);
        let after = all_is_right(&mut server, 3, at);
        let (mut had, mut has) =
            (before.iter().map(mark).collect::<Vec<_>>(), after.iter().map(mark).collect::<Vec<_>>());
        had.sort_by(|a, b| a.0.cmp(&b.0));
        has.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(had, has, "{at}: the same as ever");
    }
    stop(&mut server, "adopt");
}

/// Waits until a keeper has gone since there were so many such events.
fn keeper_died(server: &Server, before: usize, at: &str) {
    until("the keeper to die", || match events_of(server, "keeper_gone").len() {
        number if number > before => Ok(()),
        number => Err(format!("{at}: {number} keepers gone")),
    });
}

#[test]
fn the_keeper_dies_in_a_start() {
    let mut server = sample::server();
    server.apply(&manifest("1", "", ""));
    for at in ["keeper.make.forked", "keeper.make.parked", "keeper.started"] {
        assert!(server.stop().success());
        let before = keepers_gone(&server);
        assert!(server.spawn_armed(&[("MINATO_KEEPER_CRASH_AT", at)]), "{at}");
        let asked = ask_aside(&server, "/");
        keeper_died(&server, before, at);
        // Every keeper of this server ends there.
        server.kill();
        drop(asked.join());
        server.spawn(&[]);
        all_is_right(&mut server, 1, at);
    }
    stop(&mut server, "keeper");
}

/// How many keepers have gone by themselves, by the journal on disk.
fn keepers_gone(server: &Server) -> usize {
    let journal = std::fs::read_to_string(server.data().join("events/events.ndjson")).unwrap_or_default();
    journal.lines().filter(|line| line.contains("\"keeper_gone\"")).count()
}

#[test]
fn the_keeper_dies_when_an_instance_ends() {
    let mut server = sample::server();
    server.apply(&manifest("1", "min = 2", ""));
    for at in ["keeper.exited", "keeper.ended"] {
        assert!(server.stop().success());
        let gone = keepers_gone(&server);
        assert!(server.spawn_armed(&[("MINATO_KEEPER_CRASH_AT", at)]), "{at}");
        let before = until_ready(&server, "app/web", 2);
        let first = keeper(&server);
        let asked = ask_aside(&server, "/exit?7");
        keeper_died(&server, gone, at);
        drop(asked.join());
        until("why to say it", || {
            let whys: Vec<String> = before.iter().map(|one| server.why(&id(one))).collect();
            let told = |why: &String| why.contains("keeper") || why.contains("status 7");
            if whys.iter().all(told) { Ok(()) } else { Err(whys.join("\n")) }
        });
        server.kill();
        server.spawn(&[]);
        let after = all_is_right(&mut server, 2, at);
        assert!(after.iter().all(|one| before.iter().all(|old| id(old) != id(one))), "{at}");
        assert_ne!(keeper(&server), first);
    }
    stop(&mut server, "keeper");
}

#[test]
fn the_keeper_dies_in_a_drain() {
    let mut server = sample::server();
    server.apply(&manifest("0", "min = 1", ""));
    for (round, at) in ["keeper.signalled", "keeper.exited", "keeper.ended"].into_iter().enumerate() {
        assert!(server.stop().success());
        let gone = keepers_gone(&server);
        assert!(server.spawn_armed(&[("MINATO_KEEPER_CRASH_AT", at)]), "{at}");
        until_ready(&server, "app/web", 1);
        let text = manifest(&format!("{}", round + 1), "min = 1", "");
        server.minato(&["apply", server.manifest(&text).to_str().unwrap()]).ok();
        keeper_died(&server, gone, at);
        server.kill();
        server.spawn(&[]);
        let ready = all_is_right(&mut server, 1, at);
        assert_eq!(ready[0]["release"], round + 2, "{at}");
        server.apply(&text);
    }
    stop(&mut server, "drain");
}

#[test]
fn the_keeper_dies_in_an_adoption() {
    let mut server = sample::server();
    server.apply(&manifest("1", "min = 2", ""));
    // Its own server was greeted before, when there was nothing to hold.
    for at in ["keeper.hello:2", "keeper.held", "keeper.held:2", "keeper.greeted:2"] {
        assert!(server.stop().success());
        assert!(server.spawn_armed(&[("MINATO_KEEPER_CRASH_AT", at)]), "{at}");
        let before = until_ready(&server, "app/web", 2);
        let first = keeper(&server);
        server.kill();
        server.spawn(&[]);
        let after = all_is_right(&mut server, 2, at);
        assert_ne!(keeper(&server), first, "{at}");
        assert!(after.iter().all(|one| before.iter().all(|old| id(old) != id(one))), "{at}");
        let blamed = events_of(&server, "instance_failed")
            .into_iter()
            .filter(|event| event["data"]["in_a_row"].as_u64().is_some_and(|in_a_row| in_a_row > 1));
        assert_eq!(blamed.collect::<Vec<_>>(), Vec::<Value>::new(), "{at}: nobody backs off");
    }
    stop(&mut server, "adoption");
}
