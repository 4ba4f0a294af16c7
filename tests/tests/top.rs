//! What the server, its instances and their starts use and carry, as the command line shows it.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use minato_tests::{Server, images, until, wire};
use serde_json::Value;

const MANIFEST: &str = r#"
app = "hello"
[services.web]
image = "hello/web:1"
hosts = ["hello.localhost"]
resources = { memory = "64MiB", pids = 50 }
[services.other]
image = "hello/web:1"
"#;

fn hello() -> Server {
    let server = Server::start();
    let root = images::busybox(server.data());
    server.build(&root, "hello/web:1", &["--entrypoint", images::HTTPD, "--port", "8080"]);
    server.apply(MANIFEST);
    assert_eq!(server.ask("hello.localhost", "/").status, 200);
    server
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn one_look_shows_what_there_is() {
    let server = hello();
    let top = server.minato(&["top", "--once", "--json"]).ok().json();
    let [node] = top["nodes"].as_array().unwrap().as_slice() else { panic!("{top}") };
    assert!(
        number(&node["machine"]["cores"]) >= 1.0 && node["machine"]["load"].as_array().unwrap().len() == 3
    );
    assert_eq!(node["server"]["pid"], server.pid());
    for process in ["server", "keeper"] {
        let process = &node[process];
        assert!(number(&process["pss"]) > 1e6 / 4.0 && number(&process["descriptors"]) >= 3.0, "{process}");
        assert!(number(&process["cpu"]) >= 0.0, "a first look waits for shares: {process}");
    }
    for figure in ["ready", "target", "taken", "missed", "memory", "memory_each"] {
        assert!(node["pool"][figure].is_u64(), "{figure}: {}", node["pool"]);
    }
    for object in ["processes", "namespaces", "links", "cgroup_directories", "mounts", "descriptors"] {
        assert!(node["pool"]["kernel"][object].is_u64(), "{object}: {}", node["pool"]);
    }
    assert_eq!((&node["held"], &node["at_rest"]), (&Value::from(0), &Value::from(1)));

    let starts = &node["starts"];
    assert_eq!((&starts["ready"], &starts["waiting"]), (&Value::from(1), &Value::from(0)));
    assert!(number(&starts["slots"]) >= 1.0, "{starts}");
    let phases: Vec<_> = starts["phases"].as_array().unwrap().iter().collect();
    let names: Vec<_> = phases.iter().map(|phase| phase["phase"].as_str().unwrap()).collect();
    assert_eq!(names, ["slot", "taken", "mounted", "executed", "listening"]);
    let ends: Vec<_> = phases.iter().skip(1).map(|phase| number(&phase["p50_ms"])).collect();
    assert!(ends.is_sorted() && ends[0] >= 0.0, "{starts}");

    let [service] = node["services"].as_array().unwrap().as_slice() else { panic!("{node}") };
    assert!(number(&service["ended"]) >= 0.0 && number(&service["retries"]) == 0.0, "{service}");
    assert_eq!(service["tripped"], 0);
    assert_eq!((&service["service"], &service["ready"]), (&Value::from("web"), &Value::from(1)));
    let [instance] = node["instances"].as_array().unwrap().as_slice() else { panic!("{node}") };
    assert_eq!(instance["state"], "ready");
    assert_eq!((&instance["memory_max"], &instance["pids_max"]), (&Value::from(64 << 20), &Value::from(50)));
    assert_eq!((&instance["requests"], &instance["streams"]), (&Value::from(1), &Value::from(0)));
    assert!(number(&instance["pids"]) >= 1.0 && number(&instance["memory"]) > 0.0, "{instance}");
    assert!(number(&instance["cpu"]) >= 0.0 && number(&instance["rate"]) >= 0.0, "{instance}");

    // A look a line; requests in between are seen in it.
    let mut child = server
        .command(&["top", "--json", "-n", "50", "--every", "200ms"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let seen = BufReader::new(child.stdout.take().unwrap()).lines().find(|line| {
        assert_eq!(server.ask("hello.localhost", "/").status, 200);
        let look: Value = serde_json::from_str(line.as_ref().unwrap()).unwrap();
        let service = &look["nodes"][0]["services"][0];
        let times = (service["p50_ms"].as_f64(), service["p99_ms"].as_f64());
        number(&service["ended"]) > 0.0
            && number(&service["error_share"]) == 0.0
            && times.0.is_some_and(|p50| p50 > 0.0 && times.1 >= Some(p50))
    });
    child.wait().unwrap();
    assert!(seen.is_some(), "requests between two looks are counted");

    let none = server.minato(&["top", "--once", "--json", "nobody"]).ok().json();
    assert_eq!(none["nodes"][0]["instances"], Value::Array(Vec::new()));
}

#[test]
fn people_see_lines_and_go_on_seeing_them() {
    let server = hello();
    let once = server.minato(&["top", "--once"]).ok().stdout;
    let id = server.instances("hello/web")[0]["id"].as_str().unwrap().to_owned();
    for part in [
        "node ",
        "\nserver   pid ",
        "\nkeeper   pid ",
        "\npool     ",
        "\nstarts   1 in a minute",
        "listening ",
        "\nSERVICE ",
        "\nhello/web ",
        "\nservices at rest: 1",
        "hello/web@1",
        &id,
        "/64.0MiB",
        "/50",
    ] {
        assert!(once.contains(part), "{part:?} is missing in:\n{once}");
    }
    assert!(!once.contains('\x1b'), "{once}");

    // It is no terminal: the pages follow one another.
    let mut child =
        server.command(&["top", "hello", "--every", "200ms"]).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let pages = lines.map(Result::unwrap).filter(|line| line.starts_with("node ")).take(3).count();
    assert_eq!(pages, 3);
    // Nobody reads it any more.
    until("the end of it", || match child.try_wait().unwrap() {
        Some(status) if status.success() => Ok(()),
        Some(status) => panic!("{status}"),
        None => Err("it goes on".to_owned()),
    });
}

#[test]
fn a_start_is_told_with_what_asked_for_it() {
    let server = hello();
    let id = server.instances("hello/web")[0]["id"].as_str().unwrap().to_owned();
    let why = server.why(&id);
    for part in ["asked by request: ", "for a slot among other starts", "  listening "] {
        assert!(why.contains(part), "{part:?} is missing in:\n{why}");
    }
    let token = wire::bearer(&server);
    let metrics = wire::call(&server, "GET", "/metrics", &[("Authorization", &token)], b"").text();
    for name in [
        "minato_instance_start_seconds",
        "minato_sandbox_pool",
        "minato_sandboxes_total",
        "minato_start_slots",
    ] {
        for line in [format!("# HELP {name} "), format!("# TYPE {name} ")] {
            assert_eq!(metrics.matches(&line).count(), 1, "{line} in:\n{metrics}");
        }
    }
}
