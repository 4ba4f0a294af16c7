//! Programs that don't behave: each is told apart from the others, bounded, and of no concern to a
//! service beside it.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails here")]

use std::{path::PathBuf, time::Duration};

use minato_tests::{Server, http::Answer, images, run, sample::now, until};
use serde_json::Value;

/// Starts an app whose one service runs a line of shell, and lets nothing wait for it.
#[track_caller]
fn apply(server: &Server, app: &str, shell: &str, further: &str) {
    let command = serde_json::json!(["/bin/sh", "-c", shell]);
    let manifest = format!(
        "app = \"{app}\"\n[services.web]\nimage = \"box/web:1\"\nport = 8080\nhosts = [\"{app}.localhost\"]\n\
         command = {command}\n{further}\n"
    );
    let path = server.data().join(format!("{app}.toml"));
    std::fs::write(&path, manifest).unwrap();
    server.minato(&["apply", path.to_str().unwrap()]).ok();
}

/// A server with a box of tools, on which one service is well.
fn server() -> Server {
    let server = Server::start();
    let root = images::busybox(server.data());
    server.build(&root, "box/web:1", &["--entrypoint", images::HTTPD, "--port", "8080"]);
    apply(&server, "good", "exec httpd -f -p 8080 -h /www", "");
    good(&server);
    server
}

/// Whatever happens to others, the good service answers.
#[track_caller]
fn good(server: &Server) {
    let answer = server.ask("good.localhost", "/");
    assert_eq!((answer.status, answer.text().as_str()), (200, "from busybox\n"));
}

/// Asks until the edge says that the service can't be started for this reason.
#[track_caller]
fn start_failed(server: &Server, app: &str, reason: &str) -> Answer {
    until(reason, || {
        let answer = server.ask(&format!("{app}.localhost"), "/");
        let text = answer.text();
        if answer.status == 503 && text.contains(reason) { Ok(answer) } else { Err(text) }
    })
}

#[track_caller]
fn why(server: &Server, thing: &str, says: &[&str]) -> String {
    until("why to say it", || {
        let why = server.why(thing);
        if says.iter().all(|word| why.contains(word)) { Ok(why) } else { Err(why) }
    })
}

/// The instances of an app that are in this state.
#[track_caller]
fn in_state(server: &Server, app: &str, state: &str) -> Vec<Value> {
    let instances = server.instances(&format!("{app}/web"));
    instances.into_iter().filter(|instance| instance["state"] == state).collect()
}

/// Processes of an instance, by their control group.
fn processes(instance: &str) -> Vec<PathBuf> {
    let all = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    let of = |path: &PathBuf| {
        let group = std::fs::read_to_string(path.join("cgroup")).unwrap_or_default();
        group.contains(instance)
    };
    all.filter(of).collect()
}

#[test]
fn one_that_exits_at_once_is_told_why_and_tried_ever_later() {
    let server = server();
    apply(&server, "exits", "echo a secret of mine >&2; exit 3", "");
    let first = server.ask("exits.localhost", "/");
    assert_eq!((first.status, first.header("minato-code")), (503, Some("start_failed")), "{}", first.text());
    assert_eq!(first.header("minato-origin"), Some("cluster"));
    assert_eq!(first.header("content-type"), Some("application/problem+json"));
    let after: u64 = first.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&after), "{after}");
    let body: Value = serde_json::from_slice(&first.body).unwrap();
    let keys: Vec<_> = body.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        ["code", "detail", "instance", "reason", "service", "status", "title", "type"],
        "{body}"
    );
    assert_eq!((&body["reason"], &body["service"]), (&"exited".into(), &"exits/web".into()));
    assert!(!first.text().contains("secret") && !first.text().contains("/bin/sh"), "{body}");

    let said = why(
        &server,
        "exits/web",
        &["it exited with status 3", "a secret of mine", "1 in a row", "no next try before"],
    );
    assert!(said.contains("down"), "{said}");
    let life = server.why(body["instance"].as_str().unwrap());
    assert!(life.contains("exited: it exited") || life.contains("it exited with status 3"), "{life}");
    assert!(life.contains("a secret of mine"), "{life}");

    // Asking on doesn't start it more often than the back-off lets it.
    let begun = now();
    let mut asked = 0;
    until("the third failure", || {
        let answer = server.ask("exits.localhost", "/");
        assert_eq!(answer.status, 503);
        asked += 1;
        let why = server.why("exits/web");
        if why.contains("3 in a row") { Ok(()) } else { Err(why) }
    });
    assert!(begun.elapsed() > Duration::from_secs(1), "after half a second and one: {:?}", begun.elapsed());
    assert!(asked > 4, "answered at once meanwhile: {asked}");
    let failed = in_state(&server, "exits", "failed").len() + in_state(&server, "exits", "backing_off").len();
    assert!((1..=4).contains(&failed), "{failed}");
    good(&server);

    // With its cause gone it is well.
    apply(&server, "exits", "exec httpd -f -p 8080 -h /www", "");
    until("the mended release to serve", || {
        let answer = server.ask("exits.localhost", "/");
        if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
    });
}

#[test]
fn what_cant_be_executed_or_listens_to_itself_only_is_said() {
    let server = server();
    for (app, command, reason, says) in [
        ("absent", "/bin/absent", "entrypoint_missing", "/bin/absent"),
        ("plain", "/www/index.html", "entrypoint_missing", "/www/index.html"),
        ("folder", "/www", "entrypoint_missing", "/www"),
    ] {
        let manifest = format!(
            "app = \"{app}\"\n[services.web]\nimage = \"box/web:1\"\nhosts = [\"{app}.localhost\"]\ncommand = [\"{command}\"]\n"
        );
        server.minato(&["apply", server.manifest(&manifest).to_str().unwrap()]).ok();
        let answer = start_failed(&server, app, reason);
        assert!(!answer.text().contains(command), "{}", answer.text());
        why(&server, &format!("{app}/web"), &[says, reason]);
    }
    let manifest = "app = \"user\"\n[services.web]\nimage = \"box/user:1\"\nhosts = [\"user.localhost\"]\n";
    let root = server.data().join("busybox");
    server.build(&root, "box/user:1", &["--entrypoint", images::HTTPD, "--user", "nobody-here"]);
    server.minato(&["apply", server.manifest(manifest).to_str().unwrap()]).ok();
    start_failed(&server, "user", "user_missing");
    why(&server, "user/web", &["nobody-here"]);

    apply(&server, "loopback", "exec httpd -f -p 127.0.0.1:8080 -h /www", "");
    start_failed(&server, "loopback", "listens_on_loopback");
    why(&server, "loopback/web", &["listens_on_loopback", "127.0.0.1 only"]);
    good(&server);
}

#[test]
fn one_that_listens_on_nothing_is_waited_for_and_then_said() {
    let server = server();
    apply(&server, "deaf", "exec sleep 1000", "timeout = \"2s\"");
    let answer = server.ask("deaf.localhost", "/");
    assert_eq!((answer.status, answer.header("minato-code")), (504, Some("timeout")), "{}", answer.text());
    good(&server);
    // The start isn't given up with the request: a slow one is there for the next.
    assert_eq!(in_state(&server, "deaf", "starting").len(), 1);
    why(&server, "deaf/web", &["not_listening", "nothing listens on port 8080 after 60 s", "$PORT"]);
    good(&server);
}

#[test]
fn one_that_ignores_sigterm_is_killed_after_ten_seconds() {
    let mut server = server();
    // The shell, not the server that it started, is the first process.
    let stubborn = "trap '' TERM; httpd -p 8080 -h /www; while true; do sleep 1; done";
    apply(&server, "stubborn", stubborn, "");
    assert_eq!(server.ask("stubborn.localhost", "/").status, 200);
    let instance = in_state(&server, "stubborn", "ready").remove(0)["id"].as_str().unwrap().to_owned();
    let begun = now();
    server.minato(&["delete", "stubborn"]).ok();
    assert_eq!(server.ask("stubborn.localhost", "/").status, 404, "its routes are gone at once");
    assert!(!processes(&instance).is_empty());
    good(&server);
    until("it to be killed", || match processes(&instance).len() {
        0 => Ok(()),
        left => Err(format!("{left} processes")),
    });
    let took = begun.elapsed();
    assert!((Duration::from_secs(9)..Duration::from_secs(20)).contains(&took), "{took:?}");
    why(&server, &instance, &["stopped", "signal 9"]);

    apply(&server, "stubborn", stubborn, "");
    assert_eq!(server.ask("stubborn.localhost", "/").status, 200);
    let instance = in_state(&server, "stubborn", "ready").remove(0)["id"].as_str().unwrap().to_owned();
    let begun = now();
    assert!(server.stop().success());
    let took = begun.elapsed();
    assert!((Duration::from_secs(9)..Duration::from_secs(25)).contains(&took), "{took:?}");
    assert!(processes(&instance).is_empty());
}

#[test]
fn one_that_forks_without_end_stays_within_its_processes() {
    let server = server();
    // A shell that can't fork ends; what it has started stays.
    let bomb = "(while true; do sleep 1000 & done) 2>/dev/null & exec httpd -f -p 8080 -h /www";
    apply(
        &server,
        "bomb",
        bomb,
        "resources = { pids = 48, memory = \"64MiB\" }\n[services.web.scale]\nmin = 1",
    );
    let mut most = 0;
    let begun = now();
    let mut instance = String::new();
    until("it to fork for three seconds", || {
        good(&server);
        for one in server.instances("bomb/web") {
            let id = one["id"].as_str().unwrap();
            let count = processes(id).len();
            if count > most {
                most = count;
                id.clone_into(&mut instance);
            }
        }
        if begun.elapsed() > Duration::from_secs(3) && most > 20 {
            Ok(())
        } else {
            Err(format!("{most} processes"))
        }
    });
    // The sandbox's own and its first process are among them, the server's threads are not.
    assert!(most <= 50, "{most} processes");
    server.minato(&["delete", "bomb"]).ok();
    until("all of it to be gone", || match processes(&instance).len() {
        0 => Ok(()),
        left => Err(format!("{left} processes")),
    });
    good(&server);
}

#[test]
fn one_that_eats_memory_is_killed_and_told_from_one_that_was_killed() {
    let server = server();
    let eater = "x=0123456789abcdef; while true; do x=$x$x; done";
    apply(&server, "eater", eater, "resources = { memory = \"16MiB\" }");
    let answer = start_failed(&server, "eater", "out_of_memory");
    assert!(!answer.text().contains("0123456789abcdef"));
    why(&server, "eater/web", &["out_of_memory", "needed more memory"]);
    good(&server);

    apply(&server, "suicide", "kill -9 $$", "");
    start_failed(&server, "suicide", "killed");
    let said = why(&server, "suicide/web", &["killed", "signal 9"]);
    assert!(!said.contains("memory"), "{said}");
    apply(&server, "segfault", "kill -SEGV $$", "");
    start_failed(&server, "segfault", "killed");
    why(&server, "segfault/web", &["signal 11"]);

    // Once it has served, it is replaced, and the reason is there still.
    let later = "httpd -p 8080 -h /www; sleep 1; x=0123456789abcdef; while true; do x=$x$x; done";
    apply(&server, "later", later, "resources = { memory = \"16MiB\" }");
    assert_eq!(server.ask("later.localhost", "/").status, 200);
    let failed = until("it to be killed", || {
        let failed = in_state(&server, "later", "failed");
        failed.first().cloned().ok_or_else(|| format!("{:?}", server.instances("later/web")))
    });
    why(&server, failed["id"].as_str().unwrap(), &["needed more memory"]);
    good(&server);
}

/// Bytes of the log files of an app.
fn logged(server: &Server, app: &str) -> u64 {
    let folder = server.data().join("logs").join(app);
    let said = run(std::process::Command::new("find").arg(folder).args(["-type", "f", "-printf", "%s\n"]));
    said.stdout.lines().map(|size| size.parse::<u64>().unwrap()).sum()
}

#[test]
fn one_that_logs_without_end_fills_no_disk_and_stops_nobody() {
    let server = server();
    let line = "x".repeat(120);
    let flood = format!("httpd -p 8080 -h /www; echo begun; exec busybox yes {line}");
    apply(&server, "flood", &flood, "");
    assert_eq!(server.ask("flood.localhost", "/").status, 200);
    let mut most = 0;
    let begun = now();
    until("the logs to be turned over", || {
        most = most.max(logged(&server, "flood"));
        good(&server);
        if most > 14 << 20 && begun.elapsed() > Duration::from_secs(3) {
            Ok(())
        } else {
            Err(format!("{most} bytes"))
        }
    });
    for _ in 0..20 {
        most = most.max(logged(&server, "flood"));
    }
    assert!(most <= 18 << 20, "{most} bytes");
    // The keeper has time for others: a start from nothing, while it writes.
    apply(&server, "other", "exec httpd -f -p 8080 -h /www", "");
    let asked = now();
    assert_eq!(server.ask("other.localhost", "/").status, 200);
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    let logs = server.minato(&["logs", "-n", "5", "flood/web"]).ok();
    assert_eq!(logs.stdout.lines().count(), 5, "{}", logs.stdout);
    assert!(logs.stdout.contains(&line), "{}", logs.stdout);

    // A line without an end, and bytes that are no text.
    apply(&server, "noise", "httpd -p 8080 -h /www; exec cat /dev/urandom", "");
    assert_eq!(server.ask("noise.localhost", "/").status, 200);
    apply(&server, "endless", "httpd -p 8080 -h /www; exec dd if=/dev/zero bs=65536", "");
    assert_eq!(server.ask("endless.localhost", "/").status, 200);
    until("noise to be logged", || match logged(&server, "noise") {
        0 => Err(server.why("noise/web")),
        _ => Ok(()),
    });
    for app in ["noise", "endless"] {
        server.minato(&["logs", "-n", "2", &format!("{app}/web")]).ok();
        server.minato(&["logs", "-n", "2", "--json", &format!("{app}/web")]).ok();
        assert!(logged(&server, app) <= 18 << 20);
    }
    good(&server);
}
