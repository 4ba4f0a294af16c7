//! Services over TLS: a program in an instance serves with the files that it finds there, and the edge and the
//! node's health checks speak to it, each side knowing the other.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use minato_tests::{
    Server,
    debian::{Made, packages},
    http, programs, run, until,
    watch::{events_of, id, until_ready},
};

/// A server with the image `tls/serve:1`.
fn server() -> Server {
    let server = Server::start();
    let root = server.data().join("serve");
    std::fs::create_dir(&root).unwrap();
    let tar = packages("python3", Made::Extracted);
    run(Command::new("tar").arg("-xf").arg(tar).arg("-C").arg(&root)).ok();
    std::fs::copy(programs::source("tls/serve.py"), root.join("serve.py")).unwrap();
    let entrypoint = r#"["/usr/bin/python3", "/serve.py"]"#;
    server.build(&root, "tls/serve:1", &["--entrypoint", entrypoint, "--port", "8443"]);
    std::fs::remove_dir_all(&root).unwrap();
    server
}

fn manifest(further: &str) -> String {
    format!(
        "app = \"tls\"\n[services.web]\nimage = \"tls/serve:1\"\nprotocol = \"https\"\nhosts = [\"tls.localhost\"]\n\
         {further}\nscale = {{ min = 1, max = 1 }}\n"
    )
}

#[test]
fn a_web_server_is_spoken_to_over_tls_and_knows_the_edge() {
    let server = server();
    server.apply(&manifest("health = { path = \"/well\", every = \"100ms\" }"));
    until_ready(&server, "tls/web", 1);
    let cluster = std::fs::read_to_string(server.data().join("identity/cluster")).unwrap();
    let cluster: serde_json::Value = serde_json::from_str(&cluster).unwrap();
    let edge = format!("spiffe://{}/node/", cluster["cluster"].as_str().unwrap());
    let mut last = 0;
    for path in ["/", "/end"].iter().cycle().take(40) {
        let answer = server.ask("tls.localhost", path);
        let text = answer.text();
        let words: Vec<_> = text.split_whitespace().collect();
        assert_eq!((answer.status, words.len()), (200, 3), "{text}");
        assert!(words[0].starts_with(&edge) && words[0].ends_with("/edge"), "{text}");
        last = words[1].parse().unwrap();
    }
    // The agent's, the edge's, and those of threads that came at the same time.
    assert!((1..=6).contains(&last), "sessions are resumed: {last} were whole");
    let body = "x".repeat(1 << 20);
    let request = format!(
        "POST / HTTP/1.1\r\nHost: tls.localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = http::raw(server.http, request.as_bytes()).unwrap();
    assert!(answer.text().trim_end().ends_with(" 1048576"), "{}", answer.text());
}

#[test]
fn a_web_server_without_tls_is_sent_nothing_and_why_says_it() {
    let server = server();
    server.apply(&manifest("env.SPEAKS = \"plain\""));
    until_ready(&server, "tls/web", 1);
    let answer = server.ask("tls.localhost", "/");
    assert_eq!((answer.status, answer.header("minato-code")), (502, Some("upstream")));
    assert!(answer.text().contains("it doesn't speak TLS"), "{}", answer.text());
    let wanted = "the edge doesn't trust it: it doesn't speak TLS";
    let instance = id(&server.instances("tls/web")[0]);
    for thing in ["tls/web", &instance] {
        until("the reason", || {
            let why = server.why(thing);
            if why.contains(wanted) { Ok(()) } else { Err(why) }
        });
    }
    assert_eq!(server.ask("tls.localhost", "/").status, 502);
    assert_eq!(events_of(&server, "instance_distrusted").len(), 1, "said once");
}
