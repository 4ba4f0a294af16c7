//! New versions under load: nothing fails, nothing old answers late, what can't start is taken back.

use std::{collections::BTreeSet, time::Duration};

use minato_tests::{
    Server,
    sample::{self, Load, Shot, failed, manifest, now},
    until,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const SCALE: &str = "min = 2\nmax = 4\nconcurrency = 8";

fn ready(server: &Server) -> Vec<Value> {
    server.instances("app/web").into_iter().filter(|instance| instance["state"] == "ready").collect()
}

fn wait_ready(server: &Server, number: usize) {
    until("the instances", || match ready(server).len() {
        ready if ready == number => Ok(()),
        ready => Err(format!("{ready} ready")),
    });
}

/// The sample app under load: four clients whose requests take 50 ms.
fn loaded(scale: &str) -> (Server, Load) {
    let server = sample::server();
    server.apply(&manifest("1", scale, ""));
    let load = Load::start(&server, 4, "app.localhost", "/slow?50");
    pause(300);
    (server, load)
}

#[expect(clippy::disallowed_methods, reason = "load is made for a time")]
fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// The version that an answer names.
fn version(shot: &Shot) -> &str {
    shot.answer.as_deref().unwrap_or_default().split(' ').next().unwrap_or_default()
}

fn none_failed(shots: &[Shot]) {
    let failed = failed(shots);
    assert!(failed.is_empty(), "{} of {} failed: {:?}", failed.len(), shots.len(), failed.first());
    assert!(shots.len() > 20, "{} requests are no load", shots.len());
}

#[test]
fn a_new_release_under_load_fails_nothing() {
    let (server, load) = loaded(SCALE);
    let id = |one: &Value| one["id"].as_str().unwrap().to_owned();
    let old: BTreeSet<String> = ready(&server).iter().map(id).collect();
    server.apply(&manifest("2", SCALE, ""));
    // Stable: what begins from here on is the new release's.
    let stable = now();
    pause(300);
    let shots = load.end();
    none_failed(&shots);
    assert_eq!((version(&shots[0]), version(shots.last().unwrap())), ("1", "2"));
    let late = shots.iter().filter(|shot| shot.begun > stable && version(shot) != "2");
    assert_eq!(late.count(), 0, "the old release answered after it was gone");
    // Old and new were mixed in steps, and never was there only one client's worth of both.
    assert!(ready(&server).iter().all(|one| one["release"] == 2 && !old.contains(&id(one))));

    // Each old instance left the routing and finished before it was told to stop.
    let events = server.minato(&["events", "--json", "-n", "1000"]).ok().stdout;
    let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let first_new =
        events.iter().position(|event| event["kind"] == "instance_ready" && event["release"] == 2);
    let first_gone =
        events.iter().position(|event| event["kind"] == "instance_draining" && event["release"] == 1);
    assert!(first_new.unwrap() < first_gone.unwrap(), "the new one is ready before the first old one goes");
    for id in &old {
        let story: Vec<&str> = events
            .iter()
            .filter(|event| event["instance"] == **id)
            .map(|event| event["kind"].as_str().unwrap())
            .collect();
        assert_eq!(story, ["instance_starting", "instance_ready", "instance_draining", "instance_stopped"]);
    }
    let releases = server.minato(&["release", "list", "--json", "app/web"]).ok().json();
    let states: Vec<_> =
        releases["releases"].as_array().unwrap().iter().map(|one| one["state"].clone()).collect();
    assert!(states.contains(&"serving".into()) && states.contains(&"retired".into()), "{states:?}");
}

#[test]
fn a_release_that_can_not_start_is_taken_back() {
    let (server, load) = loaded(SCALE);
    let broken = manifest("1", SCALE, "").replace("VERSION = \"1\"", "VERSION = \"1\"\nEXIT_AT_ONCE = \"3\"");
    let path = server.manifest(&broken);
    let path = path.to_str().unwrap();
    let said = server.minato(&["apply", "--wait", path]);
    assert_eq!(said.code(), 4, "{said:?}");
    assert!(said.stderr.contains("taken back") && said.stderr.contains("status 3"), "{}", said.stderr);
    let why = server.why("app/web");
    assert!(why.contains("release 2 was taken back") && why.contains("release 1 serves"), "{why}");
    let why = server.why("app/web@2");
    assert!(why.contains("taken_back") && why.contains("status 3"), "{why}");

    // The same again is refused at once, and `plan` says so with the evidence.
    for words in [&["apply", path][..], &["apply", "--wait", path]] {
        let said = server.minato(words);
        assert_eq!(said.code(), 4, "{said:?}");
        assert!(said.stderr.contains("--retry"), "{}", said.stderr);
    }
    let plan = server.minato(&["plan", path]);
    assert!(plan.stdout.contains("taken back") && plan.stdout.contains("status 3"), "{plan:?}");
    let retried = server.minato(&["apply", "--wait", "--retry", path]);
    assert_eq!(retried.code(), 4, "{retried:?}");
    let events = server.minato(&["events", "--json", "-n", "1000"]).ok().stdout;
    let tries = events.lines().filter(|line| line.contains("\"release_failed\"")).count();
    assert_eq!(tries, 2, "tried at first and by --retry: {events}");

    // Back to what is good, and on to what is new.
    server.apply(&manifest("1", SCALE, ""));
    assert!(ready(&server).iter().all(|one| one["release"] == 1), "the old release never left");
    server.apply(&manifest("2", SCALE, ""));
    let shots = load.end();
    none_failed(&shots);
    assert_eq!(version(shots.last().unwrap()), "2");
}

#[test]
fn a_killed_instance_costs_no_safe_request() {
    let (server, load) = loaded(SCALE);
    wait_ready(&server, 2);
    let before = ready(&server);
    let victim = before[0].clone();
    let pid = Pid::from_raw(i32::try_from(victim["pid"].as_u64().unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    let id = victim["id"].as_str().unwrap();
    until("its replacement", || {
        let now = ready(&server);
        let gone = now.iter().all(|one| one["id"] != id);
        if gone && now.len() == 2 { Ok(()) } else { Err(format!("{now:?}")) }
    });
    pause(200);
    none_failed(&load.end());
    let why = server.why(id);
    assert!(why.contains("failed") && why.contains("signal 9 ended it"), "{why}");
    let now = ready(&server);
    let fresh = |one: &&Value| before.iter().all(|old| old["id"] != one["id"]);
    let replacement = now.iter().find(fresh);
    let story = server.why(replacement.unwrap()["id"].as_str().unwrap());
    assert!(story.contains("asked by replacement"), "{story}");
}

#[test]
fn a_release_at_rest_switches_without_staying_up() {
    let server = sample::server();
    let scale = "idle = \"1s\"";
    server.apply(&manifest("1", scale, ""));
    assert_eq!(server.instances("app/web").len(), 0);
    server.apply(&manifest("2", scale, ""));
    // One instance showed that the release can start, and may go again.
    let tried = server.instances("app/web");
    assert!(tried.len() == 1 && tried[0]["release"] == 2, "{tried:?}");
    wait_ready(&server, 0);
    assert!(server.ask("app.localhost", "/").text().starts_with("2 2 "));
}

#[test]
fn release_numbers_are_never_used_again() {
    let server = sample::server();
    server.apply(&manifest("1", "", ""));
    server.apply(&manifest("2", "", ""));
    // The same content as before keeps its number.
    let said = server.apply(&manifest("1", "", ""));
    assert!(said.stdout.contains("release 1 is stable"), "{}", said.stdout);
    assert!(server.ask("app.localhost", "/").text().starts_with("1 1 "));
    server.minato(&["delete", "app"]).ok();
    until("its instances to be gone", || {
        let left: Vec<_> =
            server.instances("app/web").into_iter().filter(|one| one["state"] != "stopped").collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    assert_eq!(server.ask("app.localhost", "/").header("minato-code"), Some("no_route"));
    assert_eq!(server.minato(&["why", "app/web"]).code(), 1);
    server.apply(&manifest("3", "", ""));
    assert!(server.ask("app.localhost", "/").text().starts_with("3 3 "));
}

#[test]
fn what_belongs_to_the_service_starts_nothing_anew() {
    let server = sample::server();
    server.apply(&manifest("1", "min = 1", ""));
    wait_ready(&server, 1);
    let before = ready(&server)[0]["id"].clone();
    let other = manifest("1", "min = 1\nmax = 5\nconcurrency = 4", "drain = \"5s\"")
        .replace("app.localhost", "other.localhost");
    let path = server.manifest(&other);
    let plan = server.minato(&["plan", "--json", path.to_str().unwrap()]).ok().json();
    let changes = plan["plans"][0]["changes"].as_array().unwrap();
    assert!(changes.len() >= 4 && changes.iter().all(|change| change["action"] == "update"), "{plan}");
    let hosts = changes.iter().find(|change| change["what"].as_str().unwrap().contains("hosts")).unwrap();
    assert!(hosts["from"].as_str().unwrap().contains("app.localhost"), "{hosts}");
    assert!(hosts["to"].as_str().unwrap().contains("other.localhost"), "{hosts}");

    server.minato(&["apply", path.to_str().unwrap()]).ok();
    // In force when `apply` returns.
    assert_eq!(server.ask("app.localhost", "/").status, 404);
    assert!(server.ask("other.localhost", "/").text().contains(before.as_str().unwrap()));
    assert_eq!(server.instances("app/web").len(), 1);
}

#[test]
fn a_plan_that_the_state_has_left_behind_is_refused() {
    let server = sample::server();
    let path = server.manifest(&manifest("1", "", ""));
    let path = path.to_str().unwrap();
    let id = |server: &Server| {
        server.minato(&["plan", "--json", path]).ok().json()["plans"][0]["id"].as_str().unwrap().to_owned()
    };
    let first = id(&server);
    assert_eq!(first, id(&server), "the same twice is the same plan");
    server.minato(&["apply", "--plan", &first, path]).ok();
    let said = server.minato(&["apply", "--plan", &first, path]);
    assert_eq!(said.code(), 1);
    assert!(said.stderr.contains("plan"), "{}", said.stderr);

    server.manifest(&manifest("2", "", ""));
    let second = id(&server);
    // A wake voids no plan.
    assert_eq!(server.ask("app.localhost", "/").status, 200);
    assert_eq!(second, id(&server));
    // Another change does.
    server.minato(&["apply", server.manifest(&manifest("3", "", "")).to_str().unwrap()]).ok();
    server.manifest(&manifest("2", "", ""));
    let said = server.minato(&["apply", "--json", "--plan", &second, path]);
    assert_eq!((said.code(), &said.json()["error"]["code"]), (1, &Value::from("plan_outdated")));
    until("the other change", || match server.ask("app.localhost", "/").text() {
        text if text.starts_with("3 ") => Ok(()),
        text => Err(text),
    });
}
