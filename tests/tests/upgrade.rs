//! A new process takes over from the running one: no request fails, instances run on, whatever goes
//! wrong on the way.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails here")]

use std::{process::Child, thread};

use minato_tests::{
    Server,
    sample::{self, Load, failed, manifest},
    socket::{Frame, Socket},
    until,
    watch::{id, pid, until_ready},
};

const HOST: &str = "app.localhost";

/// Waits until a process ends by itself; its exit status.
fn ended(mut child: Child) -> i32 {
    let status = until("the server before to end", || match child.try_wait().unwrap() {
        Some(status) => Ok(status),
        None => Err("it runs".to_owned()),
    });
    status.code().unwrap_or(-1)
}

/// What identifies instances: name and process.
fn identities(server: &Server, number: usize) -> Vec<(String, i32)> {
    let ready = until_ready(server, "app/web", number);
    let mut all: Vec<_> = ready.iter().map(|one| (id(one), pid(one).as_raw_nonzero().get())).collect();
    all.sort();
    all
}

#[track_caller]
fn none_failed(load: Load, least: usize) {
    let shots = load.end();
    let failed = failed(&shots);
    assert!(failed.is_empty(), "{} of {} failed: {:?}", failed.len(), shots.len(), failed.first());
    assert!(shots.len() >= least, "{}", shots.len());
}

#[test]
fn upgrades_under_load_fail_nothing_and_instances_run_on() {
    let mut server = sample::server();
    server.apply(&manifest("1", "min = 3\nmax = 3", ""));
    let before = identities(&server, 3);
    let short = Load::start(&server, 4, HOST, "/slow?5");
    // Longer than a hand-over takes.
    let long = Load::start(&server, 4, HOST, "/slow?1500");
    let mut replaced = Vec::new();
    for round in 0..3 {
        // While the one before it still has connections, and the one before that.
        replaced.push(server.upgrade(&["--anonymous-push"]));
        assert_eq!(identities(&server, 3), before);
        assert_eq!(server.ask(HOST, &format!("/say?round-{round}")).status, 200);
    }
    none_failed(short, 20);
    none_failed(long, 4);
    for child in replaced {
        assert_eq!(ended(child), 0);
    }
    until("every line", || {
        let logs = server.minato(&["logs", "app/web"]).ok().stdout;
        let all = (0..3).all(|round| logs.matches(&format!("round-{round}")).count() == 1);
        if all { Ok(()) } else { Err(logs) }
    });
    // What was pushed and declared is there, and changes are taken.
    server.apply(&manifest("2", "min = 1", ""));
    assert!(server.ask(HOST, "/").text().starts_with("2 2 "));
    let said = server.minato(&["server", "--upgrade", "--help"]).ok().stdout;
    assert!(said.contains("--background"), "{said}");
    assert!(server.stop().success());
}

#[test]
fn a_request_that_waits_for_a_start_is_answered_across_an_upgrade() {
    let mut server = sample::server();
    let slow = manifest("1", "min = 0\nidle = \"1h\"", "")
        .replace("VERSION = \"1\"", "VERSION = \"1\"\nBEGIN_AFTER_MS = \"1500\"");
    server.apply(&slow);
    let address = server.http;
    let held = thread::spawn(move || minato_tests::http::get(address, HOST, "/").unwrap());
    until("a start", || match server.count("app/web", "starting") {
        1 => Ok(()),
        other => Err(format!("{other} starting")),
    });
    let before = server.upgrade(&[]);
    // Another one that comes in the middle shares the start.
    assert_eq!(server.ask(HOST, "/").status, 200);
    let answer = held.join().unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(server.instances("app/web").len(), 1);
    assert_eq!(ended(before), 0);
}

#[test]
fn a_connection_of_the_server_before_may_still_wake_a_service() {
    let mut server = sample::server();
    let two = manifest("1", "min = 0\nidle = \"1h\"", "")
        .replace("[services.web]", "[services.web]\npaths = [\"/\"]");
    server.apply(&two);
    // It has connected, and asks later.
    let mut client = sample::Client::new(server.http);
    let web = server.minato(&["status", "--json"]).ok();
    assert!(web.stdout.contains("app"), "{}", web.stdout);
    assert_eq!(client.get("none.localhost", "/").unwrap().0, 404);
    let before = server.upgrade(&[]);
    let (status, body) = client.get(HOST, "/").unwrap();
    assert_eq!((status, body.starts_with("1 1 ")), (200, true), "{body}");
    // It counts as what it is: a request that the instance was given.
    until("its request to be counted", || match &until_ready(&server, "app/web", 1)[0]["requests"] {
        requests if *requests == 1 => Ok(()),
        other => Err(other.to_string()),
    });
    assert_eq!(ended(before), 0);
    assert_eq!(server.ask(HOST, "/").status, 200);
}

#[test]
fn a_server_that_fails_to_take_over_leaves_everything_to_the_one_before() {
    for point in ["handover.new.welcome", "handover.new.given", "handover.new.adopting", "handover.new.ready"]
    {
        let mut server = sample::server();
        server.apply(&manifest("1", "min = 2\nmax = 2", ""));
        let before = identities(&server, 2);
        let load = Load::start(&server, 4, HOST, "/slow?20");
        let (mut child, ready) = server.try_upgrade(&[("MINATO_CRASH_AT", point)]);
        assert!(!ready, "{point}");
        assert!(!child.wait().unwrap().success(), "{point}");
        // It is the one that serves, with all that it had.
        assert_eq!(identities(&server, 2), before, "{point}");
        server.apply(&manifest("2", "min = 1", ""));
        until("the lock to say so", || {
            let signed = std::fs::read_to_string(server.data().join("lock")).unwrap();
            if signed.trim() == server.pid().to_string() { Ok(()) } else { Err(signed) }
        });
        // And it can be taken over by one that doesn't fail.
        let old = server.upgrade(&[]);
        assert!(server.ask(HOST, "/").text().starts_with("2 2 "), "{point}");
        none_failed(load, 20);
        assert_eq!(ended(old), 0, "{point}");
        assert!(server.stop().success(), "{point}");
    }
}

#[test]
fn a_server_that_dies_while_it_hands_over_loses_nothing() {
    for (point, taken) in [
        ("handover.old.begun", false),
        ("handover.old.ended", false),
        ("handover.old.given", true),
        ("handover.old.replaced", true),
    ] {
        let mut server = sample::server();
        server.apply(&manifest("1", "min = 2\nmax = 2", ""));
        let before = identities(&server, 2);
        server.kill();
        assert!(server.spawn_armed(&[("MINATO_CRASH_AT", point)]), "{point}");
        let (mut child, ready) = server.try_upgrade(&[]);
        assert_eq!(ready, taken, "{point}");
        if ready {
            assert!(!ended_at_all(server.succeed(child)), "{point}");
        } else {
            assert!(!child.wait().unwrap().success(), "{point}");
            server.kill();
            server.spawn(&[]);
        }
        assert_eq!(identities(&server, 2), before, "{point}");
        assert_eq!(server.ask(HOST, "/").status, 200, "{point}");
        assert!(server.stop().success(), "{point}");
    }
}

/// Whether the process before, if there was one, ended well.
fn ended_at_all(before: Option<Child>) -> bool {
    before.is_some_and(|child| ended(child) == 0)
}

#[test]
fn an_end_during_an_upgrade_is_known() {
    let mut server = sample::server();
    server.apply(&manifest("1", "min = 1\nmax = 1", ""));
    let first = identities(&server, 1)[0].0.clone();
    let address = server.http;
    // It ends a little later, most likely while nobody listens to the keeper.
    let end = thread::spawn(move || minato_tests::http::get(address, HOST, "/exit?7"));
    let before = server.upgrade(&[]);
    drop(end.join().unwrap());
    until("its end to be told", || {
        let said = server.minato(&["events", "--json"]).ok().stdout;
        let told = said.lines().any(|line| line.contains(&first) && line.contains("status 7"));
        if told { Ok(()) } else { Err(said) }
    });
    until("another one", || {
        let ready = server.instances("app/web").into_iter().filter(|one| one["state"] == "ready");
        let ready: Vec<_> = ready.map(|one| id(&one)).collect();
        if ready.len() == 1 && ready[0] != first { Ok(()) } else { Err(format!("{ready:?}")) }
    });
    assert_eq!(ended(before), 0);
}

#[test]
fn what_cannot_be_taken_over_is_refused_before_anything_happens() {
    let mut server = sample::server();
    server.apply(&manifest("1", "min = 1", ""));
    let data = server.data().to_str().unwrap().to_owned();
    let upgrade =
        |further: &[&str]| server.minato(&[&["server", "--upgrade", "--data", &data][..], further].concat());
    let said = upgrade(&["--network", "10.254.0.0"]);
    assert_eq!(said.code(), 1, "{}", said.stderr);
    assert!(said.stderr.contains("needs a restart"), "{}", said.stderr);
    let http = server.http.to_string();
    let said = upgrade(&["--api", &http, "--http", &http, "--https", &server.https.to_string()]);
    assert!(said.code() == 1 && said.stderr.contains("can't listen on"), "{}", said.stderr);
    // As a server of before there was a hand-over.
    let (desk, aside) = (server.data().join("handover"), server.data().join("aside"));
    std::fs::rename(&desk, &aside).unwrap();
    let said = upgrade(&[]);
    assert!(said.code() == 1 && said.stderr.contains("stop it, then start this one"), "{}", said.stderr);
    std::fs::rename(&aside, &desk).unwrap();
    assert_eq!(server.ask(HOST, "/").status, 200);
    assert!(server.stop().success());
    let said = server.minato(&["server", "--upgrade", "--data", &data]);
    assert_eq!(said.code(), 1, "{}", said.stderr);
    assert!(said.stderr.contains("no server runs on"), "{}", said.stderr);
}

#[test]
fn the_service_manager_is_told_who_serves() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&place).unwrap();
    manager.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    let heard = || {
        let mut text = [0; 256];
        let length = manager.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..length]).into_owned()
    };
    let mut server = Server::start();
    let (child, ready) = server.try_upgrade(&[("NOTIFY_SOCKET", place.to_str().unwrap())]);
    assert!(ready);
    assert_eq!(heard(), format!("MAINPID={}\nREADY=1\n", child.id()));
    assert_eq!(ended(server.succeed(child).unwrap()), 0);
}

#[test]
fn a_websocket_goes_on_where_it_is() {
    let mut server = sample::server();
    server.apply(&manifest("1", "min = 1\nmax = 1", ""));
    let mut socket = Socket::open(server.http, HOST);
    let before = server.upgrade(&[]);
    for text in ["one", "two"] {
        socket.send(text).unwrap();
        assert_eq!(socket.read().unwrap(), Frame::Text(text.to_owned()));
        assert_eq!(server.ask(HOST, "/").status, 200);
    }
    // Its end is the old server's.
    drop(socket);
    assert_eq!(ended(before), 0);
}
