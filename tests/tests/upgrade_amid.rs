//! A new server takes over amid something else: while instances stop, to other addresses, from a server
//! that hangs, and with signals to either of the two.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails here")]

use std::{
    net::TcpStream,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use minato_tests::{
    Server, free_address, http, kernel, run,
    sample::{self, Client, manifest, now},
    socket::{Frame, Socket},
    until,
    watch::{events, id, pid, until_ready},
};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

const HOST: &str = "app.localhost";

/// Waits until a process ends by itself; its exit status, -1 if a signal ended it.
fn ended(mut child: Child) -> i32 {
    let status = until("the process to end", || match child.try_wait().unwrap() {
        Some(status) => Ok(status),
        None => Err("it runs".to_owned()),
    });
    status.code().unwrap_or(-1)
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// The instance of a service that is being stopped.
fn draining(server: &Server) -> Value {
    until("the one before to drain", || {
        let all = server.instances("app/web");
        all.iter().find(|one| one["state"] == "draining").cloned().ok_or_else(|| format!("{all:?}"))
    })
}

/// Its end was told once, as the end of one that was wanted no longer.
fn ended_once(server: &Server, instance: &str) {
    let over = ["instance_stopped", "instance_failed"];
    let ends = |all: &[Value]| -> Vec<Value> {
        let mine = all.iter().filter(|event| event["instance"] == instance);
        mine.filter(|event| over.iter().any(|kind| event["kind"] == *kind)).cloned().collect()
    };
    until("its end to be told", || match ends(&events(server)).len() {
        0 => Err(server.why(instance)),
        _ => Ok(()),
    });
    let ends = ends(&events(server));
    assert_eq!(ends.len(), 1, "{ends:?}");
    assert_eq!(ends[0]["kind"], "instance_stopped", "{ends:?}");
    // A server lists those that ended while it ran.
    let found = server.instances("app/web").into_iter().find(|one| id(one) == instance);
    assert!(found.as_ref().is_none_or(|found| found["state"] == "stopped"), "{found:?}");
    let blamed: Vec<_> =
        events(server).into_iter().filter(|event| event["kind"] == "instance_failed").collect();
    assert!(blamed.is_empty(), "{blamed:?}");
}

/// Applies a manifest, and waits for nothing.
fn declare(server: &Server, text: &str) {
    server.minato(&["apply", server.manifest(text).to_str().unwrap()]).ok();
}

#[test]
fn an_instance_that_has_its_stop_signal_ends_once() {
    let mut server = sample::server();
    // As the first process it hears no SIGTERM, and is killed ten seconds later.
    let deaf = |version: &str| manifest(version, "min = 1", "").replace("init = true", "init = false");
    server.apply(&deaf("1"));
    let old = id(&until_ready(&server, "app/web", 1)[0]);
    declare(&server, &deaf("2"));
    assert_eq!(id(&draining(&server)), old);
    let before = server.upgrade(&[]);
    assert_eq!(server.ask(HOST, "/").status, 200);
    ended_once(&server, &old);
    assert_ne!(id(&until_ready(&server, "app/web", 1)[0]), old);
    assert_eq!(ended(before), 0);
}

#[test]
fn an_instance_that_answers_its_last_request_ends_after_it() {
    let mut server = sample::server();
    server.apply(&manifest("1", "min = 1", ""));
    let old = id(&until_ready(&server, "app/web", 1)[0]);
    let address = server.http;
    let asked = thread::spawn(move || http::get(address, HOST, "/slow?6000"));
    until("the request", || match &until_ready(&server, "app/web", 1)[0]["in_flight"] {
        number if *number == 1 => Ok(()),
        number => Err(number.to_string()),
    });
    declare(&server, &manifest("2", "min = 1", ""));
    assert_eq!(id(&draining(&server)), old);
    let before = server.upgrade(&[]);
    if !asked.is_finished() {
        let shown = server.minato(&["ps"]).ok().stdout;
        let why = server.why(&old);
        assert!(asked.is_finished() || shown.contains(&old), "{shown}{why}");
    }
    assert!(server.ask(HOST, "/").text().starts_with("2 2 "), "nobody new comes to it");
    let answer = asked.join().unwrap().unwrap();
    assert_eq!((answer.status, answer.text().starts_with("1 1 ")), (200, true), "{answer:?}");
    ended_once(&server, &old);
    assert_eq!(until_ready(&server, "app/web", 1).len(), 1);
    assert_eq!(ended(before), 0);
}

#[test]
fn other_addresses_are_taken_and_the_former_given_up() {
    let mut server = sample::server();
    server.apply(&manifest("1", "min = 2\nmax = 2", ""));
    let processes = |server: &Server| -> Vec<Pid> {
        let mut all: Vec<Pid> = until_ready(server, "app/web", 2).iter().map(pid).collect();
        all.sort_by_key(|pid| pid.as_raw_nonzero());
        all
    };
    let first = processes(&server);
    for (api, edge) in [(false, true), (true, false), (true, true)] {
        let mut client = Client::new(server.http);
        assert_eq!(client.get(HOST, "/").unwrap().0, 200);
        let former = (server.api, server.http);
        if api {
            server.api = free_address();
        }
        if edge {
            server.http = free_address();
        }
        let before = server.upgrade(&["--anonymous-push"]);
        assert_eq!(client.get(HOST, "/").unwrap().0, 200, "whoever was connected is answered");
        assert_eq!(server.ask(HOST, "/").status, 200);
        assert_eq!(processes(&server), first);
        let moved = [(api, former.0), (edge, former.1)].into_iter().filter(|(moved, _)| *moved);
        for (_, address) in moved {
            until("the former address to be refused", || match TcpStream::connect(address) {
                Ok(_) => Err(format!("{address} is listened at")),
                Err(_) => Ok(()),
            });
        }
        let token = |port: u16| std::path::Path::new("/run/minato").join(format!("{port}.token")).exists();
        assert!(token(server.api.port()));
        assert_eq!(token(former.0.port()), !api);
        drop(client);
        assert_eq!(ended(before), 0);
    }
    server.apply(&manifest("2", "min = 1", ""));
    assert!(server.ask(HOST, "/").text().starts_with("2 2 "));
    assert!(server.stop().success());
    assert_eq!(kernel::objects(server.data()), Vec::<String>::new());
}

#[test]
fn a_command_starts_it_in_the_background_and_returns() {
    let mut server = sample::server();
    server.apply(&manifest("1", "min = 1", ""));
    let first = pid(&until_ready(&server, "app/web", 1)[0]);
    let log = server.data().join("background.log");
    let line = |further: &str| {
        format!(
            "{} server --upgrade --background --data {} --api {} --http {} --https {} 2>>{} {further}",
            minato_tests::program().display(),
            server.data().display(),
            server.api,
            server.http,
            server.https,
            log.display(),
        )
    };
    let shell = |further: &str| run(Command::new("setsid").args(["--wait", "sh", "-c", &line(further)]));
    let refused = shell("--network 10.254.0.0");
    assert_eq!((refused.code(), refused.stdout.as_str()), (1, ""), "{refused:?}");
    let refused = shell("--no-such-flag");
    assert_eq!(refused.code(), 2, "{refused:?}");
    assert!(std::fs::read_to_string(&log).unwrap().contains("needs a restart"));
    assert_eq!(server.ask(HOST, "/").status, 200);

    let said = shell("; said=$?; kill -HUP 0; exit $said");
    assert!(said.stdout.starts_with("ready api="), "{said:?}");
    let lock = std::fs::read_to_string(server.data().join("lock")).unwrap();
    let background = Pid::from_raw(lock.trim().parse().unwrap()).unwrap();
    assert_ne!(background.as_raw_nonzero().get().unsigned_abs(), server.pid());
    // Its log goes where the command's went.
    assert!(std::fs::read_to_string(&log).unwrap().contains("the server is ready"));
    test_kill_process(background).unwrap();
    // One that this test can wait for.
    let before = server.upgrade(&[]);
    assert_eq!(ended(before), 0);
    until("the one in the background to end", || match test_kill_process(background) {
        Ok(()) => Err("it runs".to_owned()),
        Err(_) => Ok(()),
    });
    assert_eq!(pid(&until_ready(&server, "app/web", 1)[0]), first);
    assert!(server.stop().success());
}

#[test]
fn signals_to_the_one_before_touch_nobody_but_its_connections() {
    let mut server = sample::server();
    server.apply(&manifest("1", "min = 2\nmax = 2", ""));
    let marks = |server: &Server| -> Vec<String> {
        let mut all: Vec<_> = until_ready(server, "app/web", 2).iter().map(id).collect();
        all.sort();
        all
    };
    let first = marks(&server);
    // Killed, its connections are gone.
    let mut socket = Socket::open(server.http, HOST);
    let before = server.upgrade(&[]);
    signal(&before, Signal::KILL);
    assert_eq!(ended(before), -1);
    drop(socket.send("lost"));
    assert!(socket.read().is_err());
    until("nothing of it to be counted", || {
        let all = until_ready(&server, "app/web", 2);
        if all.iter().all(|one| one["in_flight"] == 0) { Ok(()) } else { Err(format!("{all:?}")) }
    });
    // Told to end, it gives them a while; told twice, none.
    let mut socket = Socket::open(server.http, HOST);
    let before = server.upgrade(&[]);
    signal(&before, Signal::TERM);
    for text in ["one", "two"] {
        socket.send(text).unwrap();
        assert_eq!(socket.read().unwrap(), Frame::Text(text.to_owned()));
        assert_eq!(server.ask(HOST, "/").status, 200);
    }
    let begun = now();
    signal(&before, Signal::TERM);
    assert_eq!(ended(before), 0);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(marks(&server), first);
    assert!(server.stop().success());
    assert_eq!(kernel::objects(server.data()), Vec::<String>::new());
}

#[test]
fn the_end_of_the_new_one_is_the_end_of_the_one_before() {
    let mut server = sample::server();
    server.apply(&manifest("1", "min = 1", "drain = \"1s\""));
    let mut socket = Socket::open(server.http, HOST);
    let address = server.http;
    let asked = thread::spawn(move || http::get(address, HOST, "/slow?700"));
    until("the request", || match &until_ready(&server, "app/web", 1)[0]["in_flight"] {
        number if number.as_u64() >= Some(1) => Ok(()),
        number => Err(number.to_string()),
    });
    let before = server.upgrade(&[]);
    assert!(server.stop().success());
    assert_eq!(asked.join().unwrap().unwrap().status, 200);
    assert_eq!(socket.read().unwrap(), Frame::Close(1001));
    drop(socket);
    assert_eq!(ended(before), 0);
    assert_eq!(kernel::objects(server.data()), Vec::<String>::new());
    assert!(TcpStream::connect(server.http).is_err());
    server.spawn(&[]);
    assert_eq!(server.ask(HOST, "/").status, 200);
}

#[test]
fn a_server_that_hangs_is_left_as_it_is() {
    let mut server = sample::server();
    server.apply(&manifest("1", "min = 1", ""));
    let first = pid(&until_ready(&server, "app/web", 1)[0]);
    let process = Pid::from_raw(i32::try_from(server.pid()).unwrap()).unwrap();
    kill_process(process, Signal::STOP).unwrap();
    let begun = now();
    let words = ["server", "--upgrade", "--data", server.data().to_str().unwrap()];
    let said = server.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).output();
    kill_process(process, Signal::CONT).unwrap();
    let said = said.unwrap();
    let why = String::from_utf8_lossy(&said.stderr).into_owned();
    assert_eq!(said.status.code(), Some(1), "{why}");
    assert!(why.contains(&format!("(pid {}) doesn't answer", server.pid())), "{why}");
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    assert_eq!(server.ask(HOST, "/").status, 200);
    assert_eq!(pid(&until_ready(&server, "app/web", 1)[0]), first);
    let before = server.upgrade(&[]);
    assert_eq!(ended(before), 0);
    assert_eq!(pid(&until_ready(&server, "app/web", 1)[0]), first);
}
