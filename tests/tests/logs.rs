//! What instances write, and how they end.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails here")]

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Stdio},
    sync::{Arc, Mutex},
};

use minato_tests::{
    Server,
    sample::{self, Client, manifest},
    until,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// `minato logs -f`, and what it has said so far.
struct Follower {
    child: Child,
    said: Arc<Mutex<Vec<Value>>>,
}

impl Follower {
    fn start(server: &Server) -> Self {
        let mut command = server.command(&["logs", "-f", "--json", "-n", "10000", "app/web"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let (said, lines) = (Arc::default(), BufReader::new(child.stdout.take().unwrap()).lines());
        let shared: Arc<Mutex<Vec<Value>>> = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                shared.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        Self { child, said }
    }

    /// Waits for a line.
    fn sees(&self, text: &str) -> Value {
        until(text, || {
            let said = self.said.lock().unwrap();
            let found = said.iter().find(|line| line["text"] == text).cloned();
            found.ok_or_else(|| format!("{said:?}"))
        })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn ask(server: &Server, path: &str) {
    assert_eq!(server.ask("app.localhost", path).status, 200);
}

#[test]
fn both_streams_are_kept_and_followed_from_one_instance_to_the_next() {
    let mut server = sample::server();
    server.apply(&manifest("1", "idle = \"1s\"", ""));
    let follower = Follower::start(&server);
    ask(&server, "/say?first");
    ask(&server, "/complain?wrong");
    let first = follower.sees("first");
    assert_eq!((&first["stream"], &first["release"]), (&"stdout".into(), &1.into()));
    assert_eq!(follower.sees("wrong")["stream"], "stderr");
    until("the service to be at rest", || match server.count("app/web", "ready") {
        0 => Ok(()),
        ready => Err(format!("{ready} ready")),
    });
    ask(&server, "/say?second");
    let second = follower.sees("second");
    assert_ne!(first["instance"], second["instance"]);
    server.apply(&manifest("2", "idle = \"1s\"", ""));
    ask(&server, "/say?third");
    assert_eq!(follower.sees("third")["release"], 2);
    let said = follower.said.lock().unwrap().clone();
    let of = |text: &str| said.iter().filter(|line| line["text"] == text).count();
    assert_eq!((of("first"), of("second"), of("third")), (1, 1, 1), "{said:?}");
    assert!(said.is_sorted_by_key(|line| line["at"].as_str().unwrap()), "{said:?}");

    // Afterwards, too, and only what is asked for.
    let logs = server.minato(&["logs", "--release", "1", "app/web"]).ok().stdout;
    assert!(logs.contains("first") && logs.contains("second") && !logs.contains("third"), "{logs}");
    let instance = first["instance"].as_str().unwrap();
    let logs = server.minato(&["logs", "--instance", instance, "app/web"]).ok().stdout;
    assert!(logs.contains("first") && logs.contains("wrong") && !logs.contains("second"), "{logs}");
    let logs = server.minato(&["logs", "-n", "1", "--json", "app/web"]).ok();
    assert_eq!(logs.stdout.lines().count(), 1, "{}", logs.stdout);
    assert_eq!(server.minato(&["logs", "app/nobody"]).code(), 1);

    // A stop ends those who follow; what was written is there after a start.
    assert!(server.stop().success());
    server.spawn(&[]);
    let logs = server.minato(&["logs", "app/web"]).ok().stdout;
    assert!(logs.contains("first") && logs.contains("third"), "{logs}");
}

fn bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    entries
        .map(
            |entry| {
                if entry.path().is_dir() { bytes(&entry.path()) } else { entry.metadata().unwrap().len() }
            },
        )
        .sum()
}

#[test]
fn what_is_written_without_end_is_bounded() {
    let server = sample::server();
    server.apply(&manifest("1", "", ""));
    // 30 MB, more than is kept of an instance.
    ask(&server, "/flood?30000");
    ask(&server, "/say?behind-the-flood");
    until("the last line", || {
        let logs = server.minato(&["logs", "-n", "5", "app/web"]).ok().stdout;
        if logs.contains("behind-the-flood") { Ok(()) } else { Err(logs.chars().take(200).collect()) }
    });
    let kept = bytes(&server.data().join("logs"));
    assert!((1 << 20..=17 << 20).contains(&kept), "{kept} bytes are kept");
    let logs = server.minato(&["logs", "--json", "-n", "3", "app/web"]).ok().stdout;
    let last: Value = serde_json::from_str(logs.lines().nth(1).unwrap()).unwrap();
    assert!(last["text"].as_str().unwrap().starts_with("29999 x"), "{last}");
}

/// The instance that serves.
fn serving(server: &Server) -> Value {
    let ready = || server.instances("app/web").into_iter().find(|one| one["state"] == "ready");
    until("an instance", || ready().ok_or_else(|| "none is ready".to_owned()))
}

/// What an instance's end is called, after something was done to it. Each is a release of its own:
/// none backs off for another.
fn end(server: &Server, code: &str, says: &str, harm: impl FnOnce(&Value)) {
    server.apply(&manifest(says, "", "resources = { memory = \"48MiB\" }"));
    assert_eq!(server.ask("app.localhost", "/").status, 200);
    let victim = serving(server);
    harm(&victim);
    let id = victim["id"].as_str().unwrap();
    let why = until("its end", || {
        let why = server.why(id);
        if why.contains("it ended: ") { Ok(why) } else { Err(why) }
    });
    assert!(why.contains(&format!("failed: {says}")), "{why}");
    let events = server.minato(&["events", "--json"]).ok().stdout;
    let event = events.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let event = event.into_iter().find(|event| event["kind"] == "instance_failed" && event["instance"] == id);
    assert_eq!(event.as_ref().map(|event| &event["data"]["code"]), Some(&Value::from(code)), "{event:?}");
}

#[test]
fn ends_are_told_apart() {
    let server = sample::server();
    // What kills the instance ends this connection as well, whatever the edge makes of it.
    let ask = |path: &str| drop(Client::new(server.http).get("app.localhost", path));
    end(&server, "exited", "it exited with status 7", |_| ask("/exit?7"));
    end(&server, "exited", "it exited with status 0", |_| ask("/exit?0"));
    end(&server, "killed", "signal 6 ended it", |_| ask("/abort"));
    end(&server, "out_of_memory", "it needed more memory", |_| ask("/eat"));
    end(&server, "killed", "signal 9 ended it", |victim| {
        let pid = i32::try_from(victim["pid"].as_u64().unwrap()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    });
}

#[test]
fn a_crash_loop_is_a_reason_not_a_hang() {
    let server = sample::server();
    let broken = manifest("1", "", "").replace("VERSION = \"1\"", "VERSION = \"1\"\nEXIT_AT_ONCE = \"3\"");
    server.apply(&broken);
    let answer = server.ask("app.localhost", "/");
    assert_eq!((answer.status, answer.header("minato-code")), (503, Some("start_failed")), "{}", answer.head);
    assert!(answer.header("retry-after").is_some(), "{}", answer.head);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert!(body.to_string().contains("exited"), "{body}");
    for secret in ["EXIT_AT_ONCE", "told to end", "/sample"] {
        assert!(!answer.text().contains(secret), "{}", answer.text());
    }
    until("the back-off", || match server.ask("app.localhost", "/") {
        _ if server.why("app/web").contains("no next try before") => Ok(()),
        answer => Err(answer.text()),
    });
    let why = server.why("app/web");
    assert!(why.contains("app/web is down") && why.contains("status 3") && why.contains("in a row"), "{why}");
    assert!(why.contains("| it was told to end with 3"), "its last lines are shown: {why}");
    let status = server.minato(&["status", "--json"]).ok().json();
    assert_eq!(status["apps"][0]["services"][0]["verdict"], "down");

    // The cure is tried at once, not after the back-off.
    server.apply(&manifest("2", "", ""));
    assert_eq!(server.ask("app.localhost", "/").status, 200);
}
