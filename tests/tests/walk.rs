//! The first walk: from a folder to an answered request, out under load, back to nothing, and again.

use minato_tests::{Server, images, kernel, until};

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
    for phase in ["start;dur=", "taken;dur=", "mounted;dur=", "executed;dur=", "listening;dur="] {
        assert!(timing.contains(phase), "{timing}");
    }
    let warm = server.ask("hello.localhost", "/");
    assert_eq!((warm.status, warm.header("server-timing")), (200, None));

    let status = server.minato(&["status", "--json", "hello"]).ok().json();
    assert_eq!(status["apps"][0]["services"][0]["verdict"], "good", "{status}");
    let why = server.why("hello/web");
    assert!(why.contains("listening"), "{why}");

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
