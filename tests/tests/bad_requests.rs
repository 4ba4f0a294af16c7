//! Clients that don't behave, at the API and at the edge: each is answered in the contract's words or
//! given up in time, and the others are answered meanwhile.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails here")]

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use minato_tests::{
    Server,
    http::{self, Answer},
    images,
    sample::{self, now},
    until, wire,
};
use serde_json::Value;

const GOOD: &str = "app = \"good\"\n[services.web]\nimage = \"good/web:1\"\nhosts = [\"good.localhost\"]\n";

fn server() -> Server {
    let server = Server::start();
    let root = images::busybox(server.data());
    server.build(&root, "good/web:1", &["--entrypoint", images::HTTPD, "--port", "8080"]);
    server.apply(GOOD);
    good(&server);
    server
}

#[track_caller]
fn good(server: &Server) {
    assert_eq!(server.ask("good.localhost", "/").status, 200);
    server.minato(&["status"]).ok();
}

/// An error as the API answers it.
#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str) -> Value {
    assert_eq!(answer.status, status, "{}{}", answer.head, answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json"), "{}", answer.head);
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(body["error"]["code"], code, "{body}");
    assert!(body["error"]["message"].is_string(), "{body}");
    body["error"].clone()
}

#[test]
fn nobody_calls_the_api_without_being_meant_to() {
    let server = server();
    let token = wire::bearer(&server);
    let right = ("Authorization", token.as_str());
    let json = ("Content-Type", "application/json");
    let body = wire::files(&GOOD.replace("good\"\n[", "evil\"\n[").replace("good.local", "evil.local"));
    let apply =
        |headers: &[(&str, &str)]| wire::call(&server, "POST", "/api/v1/apply", headers, body.as_bytes());

    for path in ["/api/v1/apps", "/api/v1/events", "/metrics", "/api/openapi.json", "/api/nothing"] {
        let answer = wire::call(&server, "GET", path, &[], b"");
        let error = refused(&answer, 401, "unauthorized");
        assert!(error["hint"].as_str().unwrap().contains("MINATO_TOKEN"), "{error}");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        assert!(!answer.text().contains("good"), "{}", answer.text());
    }
    assert_eq!(wire::call(&server, "GET", "/readyz", &[], b"").status, 200);
    for wrong in ["Bearer wrong", "Basic bWluYXRvOng=", &format!("{token}x"), "Bearer "] {
        refused(&apply(&[("Authorization", wrong), json]), 401, "unauthorized");
    }
    for foreign in ["http://evil.example", "https://localhost.evil.example", "null"] {
        let error = refused(&apply(&[right, json, ("Origin", foreign)]), 403, "foreign_origin");
        assert!(error["message"].as_str().unwrap().contains(foreign), "{error}");
    }
    for foreign in ["evil.example", "evil.example:7070", "127.0.0.1.evil.example"] {
        refused(&apply(&[("Host", foreign), right, json]), 403, "foreign_origin");
        let answer = wire::call(&server, "GET", "/v2/", &[("Host", foreign)], b"");
        assert_eq!(answer.status, 403, "{}", answer.text());
    }
    refused(&apply(&[right]), 415, "unsupported_media");
    refused(&apply(&[right, ("Content-Type", "text/plain")]), 415, "unsupported_media");
    refused(
        &apply(&[right, ("Content-Type", "application/x-www-form-urlencoded")]),
        415,
        "unsupported_media",
    );
    refused(&wire::call(&server, "DELETE", "/api/v1/apps/good", &[json], b""), 401, "unauthorized");

    refused(&wire::api(&server, "POST", "/api/v1/apply", "{"), 400, "invalid_request");
    refused(&wire::api(&server, "POST", "/api/v1/apply", "{\"fils\":[]}"), 400, "invalid_request");
    refused(&wire::api(&server, "GET", "/api/v1/nothing", ""), 404, "not_found");
    refused(&wire::api(&server, "GET", "/api/v1/instances?al=true", ""), 400, "invalid_request");
    let error =
        refused(&wire::api(&server, "POST", "/api/v1/apply", &wire::files("app = 1")), 422, "wrong_type");
    assert_eq!(
        (&error["file"], &error["line"], &error["key"]),
        (&"shop.toml".into(), &1.into(), &"app".into())
    );

    let apps = server.minato(&["status", "--json"]).ok().json();
    assert_eq!(apps["apps"].as_array().unwrap().len(), 1, "nothing of it was done: {apps}");
    good(&server);
    // The command line says what to do about it.
    let said = minato_tests::run(server.command(&["status"]).env("MINATO_TOKEN", "wrong"));
    assert_eq!(said.code(), 1);
    assert!(
        said.stderr.contains("token is wrong") && said.stderr.contains("MINATO_TOKEN"),
        "{}",
        said.stderr
    );
}

#[test]
fn a_body_of_a_gigabyte_is_refused_before_it_is_read() {
    let server = server();
    let token = wire::bearer(&server);
    let headers = [("Authorization", token.as_str()), ("Content-Type", "application/json")];
    for path in ["/api/v1/apply", "/api/v1/plans"] {
        // Announced: not a byte of it is waited for.
        let head = wire::head(&server, "POST", path, &headers, Some(1 << 30));
        let error = refused(&http::raw(server.api, head.as_bytes()).unwrap(), 413, "request_too_large");
        assert!(error["message"].as_str().unwrap().contains("2097152"), "{error}");
    }
    // Not announced: sent until nobody takes it any more.
    let chunked = [headers[0], headers[1], ("Transfer-Encoding", "chunked")];
    let mut stream = TcpStream::connect(server.api).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(wire::head(&server, "POST", "/api/v1/apply", &chunked, None).as_bytes()).unwrap();
    let chunk = [b"100000\r\n".as_slice(), &vec![b' '; 1 << 20], b"\r\n"].concat();
    let sent = (0..1024).take_while(|_| stream.write_all(&chunk).is_ok()).count();
    assert!(sent < 64, "{sent} MiB were taken");
    let mut said = Vec::new();
    // The connection was closed with bytes on their way to it: the answer may be lost with them.
    drop(stream.read_to_end(&mut said));
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.is_empty() || said.contains(" 413 "), "{said}");

    // A body that never comes holds nothing up, and ends in time with the server's patience.
    let mut silent = TcpStream::connect(server.api).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    silent.write_all(wire::head(&server, "POST", "/api/v1/apply", &headers, Some(10)).as_bytes()).unwrap();
    good(&server);
    let mut said = String::new();
    silent.read_to_string(&mut said).unwrap();
    assert!(said.contains(" 408 ") && said.contains("client_timeout"), "{said}");
}

/// An answer of the edge itself.
#[track_caller]
fn edge_says(answer: &Answer, status: u16, code: &str) {
    assert_eq!(
        (answer.status, answer.header("minato-code")),
        (status, Some(code)),
        "{}{}",
        answer.head,
        answer.text()
    );
    assert_eq!(answer.header("minato-origin"), Some("cluster"));
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((&body["status"], &body["code"]), (&status.into(), &code.into()), "{body}");
}

#[test]
fn requests_that_no_service_should_see_are_answered_by_the_edge() {
    let server = server();
    let raw = |text: String| http::raw(server.http, text.as_bytes()).unwrap();
    let get = |rest: &str| {
        raw(format!("GET / HTTP/1.1\r\nHost: good.localhost\r\nConnection: close\r\n{rest}\r\n"))
    };
    edge_says(&server.ask("nobody.localhost", "/"), 404, "no_route");
    edge_says(&get(&format!("X-Large: {}\r\n", "x".repeat(70_000))), 431, "headers_too_large");
    edge_says(&get(&"X-Many: x\r\n".repeat(20_000)), 431, "headers_too_large");
    let long = "x".repeat(20_000);
    let long = format!("GET /{long} HTTP/1.1\r\nHost: good.localhost\r\nConnection: close\r\n\r\n");
    edge_says(&raw(long), 414, "uri_too_long");
    edge_says(&get("Host: other.localhost\r\n"), 400, "bad_request");
    edge_says(&raw("GET / HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned()), 400, "bad_request");
    edge_says(&get("Content-Length: 3\r\nContent-Length: 4\r\n"), 400, "bad_request");
    edge_says(&get("Transfer-Encoding: chunked, gzip\r\n"), 400, "bad_request");
    edge_says(&raw("NONSENSE\r\n\r\n".to_owned()), 400, "bad_request");
    edge_says(&get("Content-Length: 99999999999\r\n"), 413, "body_too_large");

    // Two lengths at once: one request at most comes of it, and the connection ends (RFC 9112, 6.3).
    let head = "POST / HTTP/1.1\r\nHost: good.localhost\r\n";
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: good.localhost\r\nConnection: close\r\n\r\n";
    let both = format!("{head}Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}");
    let mut stream = TcpStream::connect(server.http).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(both.as_bytes()).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(said.matches("HTTP/1.1 ").count(), 1, "{said}");
    good(&server);
}

#[test]
fn a_client_that_never_sends_its_body_is_given_up() {
    let server = server();
    // It answers when it has the whole body, and has room for more connections than are made here.
    sample::push(&server);
    server.apply(&sample::manifest("mute", "", "timeout = \"2m\""));
    let begun = now();
    let mut head = TcpStream::connect(server.http).unwrap();
    head.write_all(b"GET / HTTP/1.1\r\nHost: good.localhost\r\n").unwrap();
    let mut body = TcpStream::connect(server.http).unwrap();
    body.write_all(b"POST / HTTP/1.1\r\nHost: app.localhost\r\nContent-Length: 10\r\n\r\nfour").unwrap();
    // Fifty more of them, which hang up: nobody waits for them any longer.
    for _ in 0..50 {
        let mut gone = TcpStream::connect(server.http).unwrap();
        gone.write_all(b"POST / HTTP/1.1\r\nHost: app.localhost\r\nContent-Length: 10\r\n\r\n").unwrap();
    }
    good(&server);
    for (stream, least, most, status) in [(&mut head, 8, 20, " 408 "), (&mut body, 25, 45, " 408 ")] {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        let told = || server.minato(&["events", "--json"]).ok().stdout;
        assert!(said.starts_with("HTTP/1.1") && said.contains(status), "{said}\n{}", told());
        let took = begun.elapsed().as_secs();
        assert!((least..=most).contains(&took), "{took} s: {said}");
    }
    until("nothing to be in flight", || {
        let carried: Vec<_> =
            server.instances("app/web").iter().map(|one| one["in_flight"].clone()).collect();
        if carried.iter().all(|count| *count == 0) { Ok(()) } else { Err(format!("{carried:?}")) }
    });
    good(&server);
}

#[test]
fn of_two_applies_at_once_the_state_is_one_of_them() {
    let server = server();
    for round in 0..5 {
        let apply = |max: u32| {
            let text = format!("{GOOD}[services.web.scale]\nmax = {max}\n");
            let path = server.data().join(format!("{max}.toml"));
            std::fs::write(&path, text).unwrap();
            server.command(&["apply", "--json", path.to_str().unwrap()])
        };
        let (one, other) = (2 + round * 2, 3 + round * 2);
        let mut commands = [apply(one), apply(one), apply(other), apply(other)];
        let ends = std::thread::scope(|scope| {
            let running: Vec<_> =
                commands.iter_mut().map(|command| scope.spawn(|| minato_tests::run(command))).collect();
            running.into_iter().map(|end| end.join().unwrap()).collect::<Vec<_>>()
        });
        for end in &ends {
            let answer = end.json();
            match end.code() {
                0 => assert!(answer["plans"].is_array(), "{answer}"),
                1 => {
                    assert_eq!(answer["error"]["code"], "conflict", "{answer}");
                    assert!(answer["error"]["hint"].as_str().unwrap().contains("minato plan"), "{answer}");
                }
                code => panic!("{code}: {answer}"),
            }
        }
        assert!(ends.iter().any(|end| end.code() == 0), "{ends:?}");
        // What is declared is one of the two, whole: it, and only it, changes nothing.
        let unchanged = [one, other].map(|max| {
            let path = server.data().join(format!("{max}.toml"));
            server.minato(&["plan", "--check", path.to_str().unwrap()]).code()
        });
        assert!(matches!(unchanged, [0, 3] | [3, 0]), "{unchanged:?}");
    }
    let text = "app = \"new\"\n[services.web]\nimage = \"good/web:1\"\nhosts = [\"new.localhost\"]\n";
    let path = server.manifest(text);
    let path = path.to_str().unwrap();
    let ends = std::thread::scope(|scope| {
        let running: Vec<_> = (0..4).map(|_| scope.spawn(|| server.minato(&["apply", path]))).collect();
        running.into_iter().map(|end| end.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(ends.iter().any(|end| end.stdout.contains("create")), "{ends:?}");
    let releases = server.minato(&["release", "list", "--json", "new/web"]).ok().json();
    assert_eq!(releases["releases"].as_array().unwrap().len(), 1, "{releases}");
    assert_eq!(server.ask("new.localhost", "/").status, 200);
    good(&server);
}

#[test]
fn a_host_and_path_of_another_app_is_refused_until_it_is_free() {
    let server = server();
    let text = "app = \"thief\"\n[services.web]\nimage = \"good/web:1\"\nhosts = [\"thief.localhost\", \"good.localhost\"]\n";
    let path = server.manifest(text);
    let path = path.to_str().unwrap();
    for command in ["plan", "apply"] {
        let said = server.minato(&[command, path]);
        assert_eq!(said.code(), 1, "{said:?}");
        assert!(said.stderr.contains("`good.localhost/` belongs to good/web"), "{}", said.stderr);
        assert!(said.stderr.contains("manifest.toml:4"), "{}", said.stderr);
        let json = server.minato(&[command, "--json", path]).json();
        assert_eq!((&json["error"]["code"], &json["error"]["line"]), (&"route_taken".into(), &4.into()));
    }
    assert_eq!(server.ask("thief.localhost", "/").status, 404);
    good(&server);
    // Another path of the same host is free, and takes only what is below it.
    server.apply(
        &text
            .replace("[\"thief.localhost\", \"good.localhost\"]", "[\"good.localhost\"]\npaths = [\"/api\"]"),
    );
    assert_eq!(server.ask("good.localhost", "/api/x").status, 404, "busybox has no such file");
    assert_eq!(server.ask("good.localhost", "/apix").header("minato-code"), None);
    good(&server);
    server.minato(&["delete", "good"]).ok();
    server.apply(text);
    assert_eq!(server.ask("good.localhost", "/").status, 200);
}
