//! The life of a server: ready, stopped, killed, started again, cleaned away.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails here")]

use std::{path::Path, process::Command, time::Duration};

use minato_tests::{
    Server, kernel, program, run,
    sample::{self, Client, manifest, now},
    until,
};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

/// The node's keeper.
fn keeper(data: &Path) -> Pid {
    let line = kernel::objects(data).into_iter().find(|line| line.contains(" keeper ")).unwrap();
    pid(line.split(' ').nth(1).unwrap().parse().unwrap())
}

fn pid(number: u64) -> Pid {
    Pid::from_raw(i32::try_from(number).unwrap()).unwrap()
}

fn pid_of(instance: &Value) -> Pid {
    pid(instance["pid"].as_u64().unwrap())
}

fn ready(server: &Server) -> Vec<Value> {
    server.instances("app/web").into_iter().filter(|instance| instance["state"] == "ready").collect()
}

/// Waits until nothing of a data directory is left in the kernel.
fn clean(data: &Path) {
    until("the kernel to have nothing left", || {
        let left = kernel::objects(data);
        if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
    });
}

#[test]
fn ready_in_under_a_second() {
    let begun = now();
    let mut server = Server::start();
    let first = begun.elapsed();
    assert!(server.stop().success());
    let begun = now();
    server.spawn(&[]);
    println!("ready after {first:?} the first time, {:?} the second", begun.elapsed());
    assert!(first < Duration::from_secs(5), "{first:?}: far more than the second that is promised");
    assert_eq!(minato_tests::http::get(server.api, "localhost", "/readyz").unwrap().status, 200);
    assert_eq!(minato_tests::http::get(server.api, "localhost", "/metrics").unwrap().status, 401);
}

#[test]
fn a_stop_finishes_what_was_begun_and_gives_everything_back() {
    let mut server = sample::server();
    server.apply(&manifest("1", "min = 1", ""));
    let posted = format!("/run/minato/{}.token", server.api.port());
    assert!(Path::new(&posted).exists());
    let http = server.http;
    assert_eq!(server.ask("app.localhost", "/").status, 200);
    let slow = std::thread::spawn(move || Client::new(http).get("app.localhost", "/slow?1500"));
    until("the request to be in flight", || match server.instances("app/web")[0]["in_flight"].as_u64() {
        Some(1) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let late = std::thread::spawn(move || {
        until("the edge to take no more", || match Client::new(http).get("app.localhost", "/") {
            Ok((200, body)) => Err(body),
            Ok((status, _)) => Ok(status),
            Err(_) => Ok(503),
        })
    });
    assert!(server.stop().success());
    assert_eq!(slow.join().unwrap().unwrap().0, 200, "what was begun is finished");
    assert_eq!(late.join().unwrap(), 503, "what comes later is refused");
    // With the process everything is gone already.
    assert_eq!(kernel::objects(server.data()), Vec::<String>::new());
    assert!(!Path::new(&posted).exists(), "the posted token is gone");
    for kept in ["state.db", "id", "token", "registry"] {
        assert!(server.data().join(kept).exists(), "{kept} stays");
    }

    // What was declared is still so.
    server.spawn(&[]);
    until("the minimum to run again", || match ready(&server).len() {
        1 => Ok(()),
        other => Err(format!("{other} ready")),
    });
    assert_eq!(server.ask("app.localhost", "/").status, 200);
    let path = server.manifest(&manifest("1", "min = 1", ""));
    assert_eq!(server.minato(&["plan", "--check", path.to_str().unwrap()]).code(), 0);
}

#[test]
fn a_second_signal_skips_the_drain() {
    let mut server = sample::server();
    server.apply(&manifest("1", "", ""));
    assert_eq!(server.ask("app.localhost", "/").status, 200);
    let http = server.http;
    let slow = std::thread::spawn(move || Client::new(http).get("app.localhost", "/slow?25000"));
    until("the request to be in flight", || match server.instances("app/web")[0]["in_flight"].as_u64() {
        Some(1) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let begun = now();
    let process = pid(u64::from(server.pid()));
    kill_process(process, Signal::TERM).unwrap();
    until("the drain to begin", || match std::fs::read_to_string(server.log()).unwrap() {
        log if log.contains("the server stops") => Ok(()),
        log => Err(log),
    });
    assert!(server.stop().success());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    drop(slow.join().unwrap());
    clean(server.data());
}

#[test]
fn instances_outlive_a_crash_and_are_adopted() {
    let mut server = sample::server();
    server.apply(&manifest("1", "min = 2", ""));
    until("two instances", || match ready(&server).len() {
        2 => Ok(()),
        other => Err(format!("{other} ready")),
    });
    let before = ready(&server);
    let busy = sample::Client::new(server.http).get("app.localhost", "/say?before").unwrap().1;
    server.kill();
    for instance in &before {
        test_kill_process(pid_of(instance)).unwrap();
    }
    // One of them ends while nobody looks. Its program is the child of the first process there.
    let address = before[1]["address"].as_str().unwrap();
    let direct = format!("{address}:8080").parse().unwrap();
    drop(Client::new(direct).get("app.localhost", "/exit?7"));
    let lost = pid_of(&before[1]);
    until("it to have ended", || match test_kill_process(lost) {
        Ok(()) => Err("it runs".to_owned()),
        Err(_) => Ok(()),
    });

    let begun = now();
    server.spawn(&[]);
    let answer = server.ask("app.localhost", "/say?after");
    println!("first answer {:?} after a restart over a running instance", begun.elapsed());
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("server-timing"), None, "nothing had to start for it");
    let id = before[0]["id"].as_str().unwrap();
    assert!(answer.text().contains(id), "{busy} before, {} after", answer.text());
    let kept = until("the adopted one", || {
        let now = ready(&server);
        now.iter().find(|instance| instance["id"] == id).cloned().ok_or_else(|| format!("{now:?}"))
    });
    assert_eq!((&kept["pid"], &kept["started_at"]), (&before[0]["pid"], &before[0]["started_at"]));
    until("the lost one's replacement", || match ready(&server).len() {
        2 => Ok(()),
        other => Err(format!("{other} ready")),
    });
    let lost = server.why(before[1]["id"].as_str().unwrap());
    assert!(lost.contains("status 7") && lost.contains("while no server was there"), "{lost}");
    until("the logs to go on", || {
        let logs = server.minato(&["logs", "--instance", id, "app/web"]).ok().stdout;
        if logs.contains("after") { Ok(()) } else { Err(logs) }
    });
    assert!(server.minato(&["events", "--json"]).ok().stdout.contains("adopted"));
    assert!(server.stop().success());
    clean(server.data());
}

#[test]
fn a_keeper_that_dies_takes_its_instances_along_and_is_replaced() {
    let mut server = sample::server();
    server.apply(&manifest("1", "min = 2", ""));
    until("two instances", || match ready(&server).len() {
        2 => Ok(()),
        other => Err(format!("{other} ready")),
    });
    let before: Vec<_> = ready(&server).iter().map(|instance| instance["id"].clone()).collect();
    let killed = keeper(server.data());
    kill_process(killed, Signal::KILL).unwrap();
    let answered = until("an answer after it", || {
        let answer = server.ask("app.localhost", "/");
        let fresh = before.iter().all(|id| !answer.text().contains(id.as_str().unwrap()));
        if answer.status == 200 && fresh {
            Ok(answer)
        } else {
            Err(format!("{}{}", answer.head, answer.text()))
        }
    });
    assert_eq!(answered.status, 200);
    until("the replacements", || match ready(&server).len() {
        2 => Ok(()),
        other => Err(format!("{other} ready")),
    });
    assert_ne!(keeper(server.data()), killed);
    let why = server.why(before[0].as_str().unwrap());
    assert!(why.contains("keeper"), "{why}");
    let events = server.minato(&["events"]).ok().stdout;
    assert!(events.contains("keeper"), "{events}");
    assert!(server.stop().success());
    clean(server.data());
}

/// Runs a server command to its end.
fn serve(data: &Path, words: &[&str]) -> minato_tests::Said {
    run(Command::new(program()).args(["server", "--data"]).arg(data).args(words))
}

#[test]
fn cleaning_takes_everything_away_but_the_data() {
    let mut server = sample::server();
    server.apply(&manifest("1", "min = 1", ""));
    let said = serve(server.data(), &["--clean"]);
    assert_eq!(said.code(), 1);
    let process = format!("pid {}", server.pid());
    assert!(said.stderr.contains(&process), "{}", said.stderr);
    assert_eq!(server.ask("app.localhost", "/").status, 200, "nothing was touched");

    // A second node beside it, which is not disturbed.
    let other = sample::server();
    other.apply(&manifest("2", "min = 1", ""));
    let running = ready(&other)[0]["pid"].clone();
    server.kill();
    assert!(!kernel::objects(server.data()).is_empty());
    let posted = format!("/run/minato/{}.token", server.api.port());
    assert!(Path::new(&posted).exists(), "a crash leaves it");
    serve(server.data(), &["--clean"]).ok();
    clean(server.data());
    assert!(!Path::new(&posted).exists());
    assert!(server.data().join("state.db").exists());
    assert!(other.ask("app.localhost", "/").text().starts_with("2 "));
    assert_eq!(ready(&other)[0]["pid"], running);
    // Once more changes nothing.
    serve(server.data(), &["--clean"]).ok();
    server.spawn(&[]);
    assert!(server.ask("app.localhost", "/").text().starts_with("1 "));
    assert!(other.ask("app.localhost", "/").text().starts_with("2 "));
}

#[test]
fn a_server_that_can_not_be_says_why() {
    let mut server = Server::start();
    let data = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .tempdir_in("/var/tmp")
        .unwrap();
    let (api, http) = (server.api.to_string(), server.http.to_string());
    let refused = |data: &Path, words: &[&str], status: i32, says: &[&str]| {
        let said = serve(data, words);
        assert_eq!((said.code(), said.stdout.as_str()), (status, ""), "{words:?}: {}", said.stderr);
        for text in says {
            assert!(said.stderr.contains(text), "{words:?}: {}", said.stderr);
        }
        assert_eq!(said.stderr.matches("error:").count(), 1, "one error: {}", said.stderr);
    };
    let free = ["--api", "127.0.0.1:0", "--http", "127.0.0.1:0", "--https", "127.0.0.1:0"];
    let process = format!("pid {}", server.pid());
    refused(server.data(), &free, 1, &["already", &process, "--data"]);
    refused(
        data.path(),
        &["--api", &api, "--http", "127.0.0.1:0", "--https", "127.0.0.1:0"],
        1,
        &[&api, "--api"],
    );
    refused(data.path(), &["--api", "127.0.0.1:0", "--http", &http], 1, &[&http, "--http"]);
    refused(data.path(), &["--api", "0.0.0.0:7070"], 2, &["`api`", "`api_names`"]);
    refused(data.path(), &["--upgrade"], 1, &["no server runs on", "without --upgrade"]);
    let https = server.https.to_string();
    refused(data.path(), &[&free[..4], &["--https", &https]].concat(), 1, &[&https, "--https"]);

    let config = data.path().join("server.toml");
    let file = config.to_str().unwrap();
    for (text, says) in [
        ("htp = 1\n", "unknown field `htp`"),
        ("stop = \"maybe\"\n", "maybe"),
        ("[tls]\nlifetime_scale = 2\n", "`tls.lifetime_scale` is 2"),
        ("network = \"8.8.0.0/16\"\n", "private /16"),
        ("log = \"minato=shout\"\n", "log"),
        ("= 1\n", "server.toml"),
    ] {
        std::fs::write(&config, text).unwrap();
        refused(data.path(), &["--config", file], 2, &[says]);
    }
    refused(data.path(), &["--config", "/nowhere.toml"], 2, &["/nowhere.toml"]);
    assert_eq!(kernel::objects(data.path()), Vec::<String>::new(), "what is refused leaves nothing");

    std::fs::write(data.path().join("state.db"), "no database\n".repeat(1_000)).unwrap();
    refused(data.path(), &free, 1, &["state"]);
    assert_eq!(kernel::objects(data.path()), Vec::<String>::new(), "what can't be opened leaves nothing");

    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(data.path(), open).unwrap();
    let cure = format!("sudo chmod 700 {}", data.path().display());
    refused(data.path(), &free, 1, &[&cure]);
    assert!(server.stop().success());
}

#[test]
fn without_root_the_line_that_has_it_is_said() {
    // Where anybody may read it; the build's folder may be root's alone.
    let folder = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir_in("/var/tmp")
        .unwrap();
    let copy = folder.path().join("minato");
    std::fs::copy(program(), &copy).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--clear-groups"]).arg(&copy);
    let said = run(command.args(["server", "--data", "/var/tmp/it's here"]));
    assert_eq!(said.code(), 2, "{said:?}");
    let line = format!("sudo {} server --data '/var/tmp/it'\\''s here'", copy.display());
    assert!(said.stderr.contains(&line), "{}", said.stderr);
}

#[test]
fn stop_keep_leaves_instances_running() {
    let mut server = sample::server();
    let config = server.data().join("server.toml");
    std::fs::write(&config, "stop = \"keep\"\n").unwrap();
    let arguments = ["--config", config.to_str().unwrap()];
    assert!(server.stop().success());
    server.spawn(&arguments);
    server.apply(&manifest("1", "min = 1", ""));
    let before = ready(&server)[0].clone();
    let posted = format!("/run/minato/{}.token", server.api.port());
    assert!(server.stop().success());
    test_kill_process(pid_of(&before)).unwrap();
    assert!(!Path::new(&posted).exists(), "the posted token goes with the server");
    server.spawn(&arguments);
    let answer = server.ask("app.localhost", "/");
    assert!(answer.text().contains(before["id"].as_str().unwrap()), "{}", answer.text());
    assert_eq!(ready(&server)[0]["pid"], before["pid"]);
    assert!(server.stop().success());
    serve(server.data(), &["--clean"]).ok();
    clean(server.data());
}

#[test]
fn nodes_of_one_machine_never_take_the_same_network() {
    let network = |server: &Server| std::fs::read_to_string(server.data().join("network")).unwrap();
    // All at once, each with a data directory of its own.
    let starting: Vec<_> = (0..4).map(|_| std::thread::spawn(Server::start)).collect();
    let mut servers: Vec<Server> = starting.into_iter().map(|thread| thread.join().unwrap()).collect();
    let networks: std::collections::BTreeSet<_> = servers.iter().map(network).collect();
    assert_eq!(networks.len(), servers.len(), "{networks:?}");
    // What a stopped node had may have gone to another meanwhile: it takes another one then.
    let mut stopped = servers.remove(0);
    assert!(stopped.stop().success());
    // One that no server chooses by itself: those of other tests come and go meanwhile.
    let had = network(&stopped);
    let second = had.split('.').nth(1).unwrap();
    let had = had.replacen(&format!(".{second}."), ".233.", 1);
    std::fs::write(stopped.data().join("network"), &had).unwrap();
    let base = had.trim().to_owned();
    let heir = Server::start_with(&["--network", &base]);
    assert_eq!(network(&heir), had);
    stopped.spawn(&[]);
    assert_ne!(network(&stopped), had);
    assert_eq!(minato_tests::http::get(stopped.http, "nobody.localhost", "/").unwrap().status, 404);
}

/// The time that a process has had of a processor, in hundredths of a second.
fn processor_time(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // Behind the name, which may hold anything: the 12th and 13th word.
    let words: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
    [words[11], words[12]].iter().map(|word| word.parse::<u64>().unwrap()).sum()
}

#[test]
#[expect(clippy::disallowed_methods, reason = "doing nothing is measured over a time")]
fn ten_services_at_zero_cost_next_to_nothing() {
    let server = sample::server();
    let one = |number| {
        let host = format!("s{number}.localhost");
        format!(
            "[services.s{number}]\nimage = \"app/sample:1\"\nhosts = [\"{host}\"]\ninit = true\n\
                 [services.s{number}.scale]\nidle = \"1s\"\n"
        )
    };
    let services: String = (0..10).map(one).collect();
    server.apply(&format!("app = \"app\"\n{services}"));
    for number in 0..10 {
        assert_eq!(server.ask(&format!("s{number}.localhost"), "/").status, 200);
    }
    until("all to be at rest", || match server.count("app", "ready") + server.count("app", "draining") {
        0 => Ok(()),
        left => Err(format!("{left} run")),
    });
    std::thread::sleep(Duration::from_secs(2));
    let keeper = keeper(server.data()).as_raw_nonzero().get().unsigned_abs();
    let used = || processor_time(server.pid()) + processor_time(keeper);
    let before = used();
    let seconds = 6;
    std::thread::sleep(Duration::from_secs(seconds));
    let used = used() - before;
    println!("{} % of a core", used as f64 / seconds as f64);
    assert!(used <= seconds, "{used} hundredths of a second in {seconds} s: more than 1 % of a core");
}
