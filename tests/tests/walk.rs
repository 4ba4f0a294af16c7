//! The first walk: from a folder to an answered request, out under load, back to nothing, and again.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails here")]

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use minato_tests::{Server, images, kernel, sample, until};
use serde_json::Value;

const MANIFEST: &str = r#"
app = "hello"
[services.web]
image = "hello/web:1"
hosts = ["hello.localhost"]
[services.web.scale]
concurrency = 2
max = 3
idle = "1s"
"#;

fn hello() -> Server {
    let server = Server::start();
    let root = images::busybox(server.data());
    server.build(&root, "hello/web:1", &["--entrypoint", images::HTTPD, "--port", "8080"]);
    server
}

#[test]
fn a_request_starts_what_answers_it() {
    let server = hello();
    server.apply(MANIFEST);
    assert_eq!(server.count("hello/web", "ready"), 0, "nothing runs before the first request");

    let first = server.ask("hello.localhost", "/");
    assert_eq!((first.status, first.text().as_str()), (200, "from busybox\n"), "{}", first.head);
    let timing = first.header("server-timing").unwrap();
    for phase in
        ["start;dur=", "taken;dur=", "mounted;dur=", "executed;dur=", "listening;dur=", "sandbox;desc="]
    {
        assert!(timing.contains(phase), "{timing}");
    }
    let warm = server.ask("hello.localhost", "/");
    assert_eq!((warm.status, warm.header("server-timing")), (200, None));

    // What a node reports is in the state a moment later; no start waits for that.
    until("the verdict", || {
        assert_eq!(server.ask("hello.localhost", "/").status, 200);
        let status = server.minato(&["status", "--json", "hello"]).ok().json();
        if status["apps"][0]["services"][0]["verdict"] == "good" { Ok(()) } else { Err(status.to_string()) }
    });
    let why = server.why("hello/web");
    for phase in ["taken ", "mounted ", "executed ", "listening "] {
        assert!(why.contains(phase), "{why}");
    }

    until("the service to be at rest", || match server.count("hello/web", "ready") {
        0 => Ok(()),
        ready => Err(format!("{ready} ready")),
    });
    let again = server.ask("hello.localhost", "/");
    assert_eq!(again.status, 200);
    assert!(again.header("server-timing").is_some());
}

#[test]
fn the_same_manifest_again_changes_nothing() {
    let server = hello();
    server.apply(MANIFEST);
    let path = server.manifest(MANIFEST);
    let path = path.to_str().unwrap();
    let plan = server.minato(&["plan", "--json", "--check", path]).ok().json();
    assert_eq!(plan["plans"][0]["changes"].as_array().unwrap().len(), 0, "{plan}");
    let said = server.minato(&["apply", path]).ok();
    assert!(said.stdout.contains("nothing to change"), "{}", said.stdout);

    let other = server.manifest(&MANIFEST.replace("max = 3", "max = 4"));
    let other = other.to_str().unwrap();
    let plan = server.minato(&["plan", "--json", "--check", other]);
    assert_eq!(plan.code(), 3);
    assert_eq!(plan.json()["plans"][0]["changes"][0]["action"], "update");
}

#[test]
fn stopping_gives_everything_back() {
    let mut server = hello();
    server.apply(MANIFEST);
    assert_eq!(server.ask("hello.localhost", "/").status, 200);
    assert!(!kernel::objects(server.data()).is_empty(), "a running instance is seen in the kernel");
    assert!(server.stop().success());
    until("the kernel to have nothing left", || {
        let left = kernel::objects(server.data());
        if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
    });
    assert!(server.data().join("state.db").exists(), "the data directory stays");
}

/// `2026-01-02T03:04:05.678Z`
fn is_moment(value: &Value) -> bool {
    let form = "0000-00-00T00:00:00.000Z";
    value.as_str().is_some_and(|text| {
        text.len() == form.len()
            && text.chars().zip(form.chars()).all(|(c, f)| if f == '0' { c.is_ascii_digit() } else { c == f })
    })
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn json_has_the_shapes_of_the_contract() {
    let server = hello();
    server.apply(MANIFEST);
    assert_eq!(server.ask("hello.localhost", "/").status, 200);

    let instances = server.minato(&["ps", "--json"]).ok().json();
    assert_eq!(keys(&instances), ["instances"]);
    let instance = &instances["instances"][0];
    let mut fields = keys(instance);
    fields.sort_unstable();
    let mut expected = vec![
        "id",
        "app",
        "service",
        "release",
        "image",
        "state",
        "reason",
        "address",
        "node",
        "pid",
        "started_at",
        "requests",
        "in_flight",
        "identity",
    ];
    expected.sort_unstable();
    assert_eq!(fields, expected);
    assert!(instance["release"].is_u64() && instance["pid"].is_u64() && instance["in_flight"].is_u64());
    assert!(is_moment(&instance["started_at"]), "{instance}");
    assert_eq!((&instance["state"], &instance["requests"]), (&Value::from("ready"), &Value::from(1)));
    assert!(instance["image"].as_str().unwrap().starts_with("sha256:"));

    let events = server.minato(&["events", "--json"]).ok().stdout;
    for line in events.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let mut fields = keys(&event);
        fields.sort_unstable();
        assert_eq!(fields, ["app", "at", "data", "instance", "kind", "reason", "release", "service"]);
        assert!(is_moment(&event["at"]), "{event}");
    }
    assert!(events.contains("\"instance_ready\""), "{events}");

    let id = instance["id"].as_str().unwrap();
    for thing in ["hello", "hello/web", "hello/web@1", id] {
        let why = server.minato(&["why", "--json", thing]).ok().json();
        assert_eq!(why["thing"], thing);
        assert!(why["lines"].as_array().unwrap().iter().all(Value::is_string), "{why}");
    }
    let releases = server.minato(&["release", "list", "--json", "hello/web"]).ok().json();
    assert_eq!(releases["releases"][0]["number"], 1);
    assert!(is_moment(&releases["releases"][0]["created_at"]), "{releases}");
    let path = server.manifest(MANIFEST);
    let path = path.to_str().unwrap();
    let again = server.minato(&["apply", "--json", path]).ok().json();
    assert_eq!(again["plans"][0]["changes"], Value::Array(Vec::new()));
    for line in server.minato(&["logs", "--json", "hello/web"]).ok().stdout.lines() {
        assert!(serde_json::from_str::<Value>(line).unwrap()["text"].is_string());
    }
    // What fails is JSON as well.
    for (words, status) in [(&["why", "nothing", "--json"][..], 1), (&["plan", "/nowhere.toml", "--json"], 2)]
    {
        let said = server.minato(words);
        assert_eq!(said.code(), status, "{said:?}");
        let error = &said.json()["error"];
        assert!(error["code"].is_string() && error["message"].is_string(), "{error}");
    }
    let gone = server.minato(&["delete", "--json", "hello"]).ok().json();
    assert_eq!(gone["plans"][0]["changes"][0]["action"], "delete");
}

#[test]
fn a_web_socket_passes_through_from_zero() {
    let server = sample::server();
    server.apply(&sample::manifest("1", "", ""));
    let mut stream = TcpStream::connect(server.http).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let ask = "GET /ws HTTP/1.1\r\nHost: app.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
               Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(ask.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains("sec-websocket-accept: s3ppl"), "{head}");
    assert!(head.contains("upgrade: websocket"), "{head}");
    for text in ["hello", "again"] {
        // A masked text frame of five bytes; the mask is four zeros.
        stream.write_all(&[&[0x81, 0x85, 0, 0, 0, 0], text.as_bytes()].concat()).unwrap();
        let mut frame = [0; 7];
        stream.read_exact(&mut frame).unwrap();
        assert_eq!(frame, [&[0x81, 5], text.as_bytes()].concat()[..]);
    }
    assert_eq!(server.instances("app/web")[0]["in_flight"], 1, "it is a request as long as it lasts");
    stream.write_all(&[0x88, 0x80, 0, 0, 0, 0]).unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, [0x88, 0], "the close comes back, and the end");
    until("the edge to have seen the end", || match &server.instances("app/web")[0]["in_flight"] {
        none if *none == 0 => Ok(()),
        other => Err(other.to_string()),
    });
}
