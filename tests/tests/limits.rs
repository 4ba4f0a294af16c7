//! What an instance may use, and what becomes of one that is stuck, unwell, changed by hand or worn.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails here")]

use std::{
    io::Write as _,
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use minato_tests::{
    Server, images, kernel, run,
    sample::{self, Client, Load, failed, manifest, now, pause},
    until,
    watch::{address, events_of, id, pid, ready, until_ready},
};
use rustix::process::test_kill_process;
use serde_json::Value;

/// Asks one instance, past the edge.
#[track_caller]
fn direct(instance: &Value, path: &str) -> String {
    Client::new(address(instance)).get("direct", path).unwrap().1
}

/// How an instance's end is told, with the event's code.
#[track_caller]
fn ended(server: &Server, id: &str) -> Value {
    until("its end to be told", || {
        let told = events_of(server, "instance_failed");
        let event = told.iter().find(|event| event["instance"] == *id).cloned();
        event.map(|event| event["data"]["code"].clone()).ok_or_else(|| format!("{told:?}"))
    })
}

#[test]
fn every_limit_holds() {
    let server = sample::server();
    let tight =
        "resources = { memory = \"40MiB\", pids = 40, files = 64, scratch = \"8MiB\", cpu_max = 0.1 }";
    server.apply(&manifest("1", "min = 2", tight));
    // The minimum's, then one that a request asked for: from a prepared sandbox, where there are any.
    for round in 0..2 {
        let one = until_ready(&server, "app/web", 2)[round].clone();
        let said = direct(&one, "/threads?1000");
        let (count, error) = said.split_once(' ').unwrap();
        assert!((5..40).contains(&count.parse::<u32>().unwrap()) && error == "Some(11)", "{said}");
        let said = direct(&one, "/files?1000");
        let (count, error) = said.split_once(' ').unwrap();
        assert!((40..64).contains(&count.parse::<u32>().unwrap()) && error == "Some(24)", "{said}");
        let said = direct(&one, "/fill?100");
        assert!(["7 Some(28)", "8 Some(28)"].contains(&said.as_str()), "{said}");
        let used: f64 = direct(&one, "/burn?2000").parse().unwrap();
        println!("{used} ms of 2,000 under a ceiling of a tenth");
        // A scheduler's period more or less.
        assert!(used < 500.0, "{used} ms");

        // More memory than it may have is told apart from an end of its own.
        let id = id(&one);
        drop(Client::new(address(&one)).get("direct", if round == 0 { "/eat" } else { "/exit?3" }));
        assert_eq!(ended(&server, &id), if round == 0 { "out_of_memory" } else { "exited" });
        until("another", || match ready(&server, "app/web") {
            now if now.len() == 2 && now.iter().all(|one| one["id"] != id) => Ok(()),
            now => Err(format!("{now:?}")),
        });
    }
}

#[test]
fn the_weight_of_a_processor_is_kept() {
    let server = sample::server();
    let one = |name: &str, cpu: &str| {
        format!(
            "[services.{name}]\nimage = \"app/sample:1\"\nhosts = [\"{name}.localhost\"]\n\
             resources = {{ cpu = {cpu} }}\n"
        )
    };
    server.apply(&format!("app = \"app\"\n{}{}", one("light", "0.1"), one("heavy", "1.6")));
    for host in ["light.localhost", "heavy.localhost"] {
        assert_eq!(server.ask(host, "/").status, 200);
    }
    let burn = |host: &'static str| {
        let http = server.http;
        std::thread::spawn(move || Client::new(http).get(host, "/burn?9000").unwrap())
    };
    let burning = [burn("light.localhost"), burn("heavy.localhost")];
    let used = || {
        ["light", "heavy"].map(|name| kernel::processor_time(&id(&ready(&server, &format!("app/{name}"))[0])))
    };
    let idle = used();
    let begun = until("both to compute", || {
        let now = used();
        let both = now.iter().zip(idle).all(|(now, idle)| *now > idle + 5);
        if both { Ok(now) } else { Err(format!("{now:?}")) }
    });
    pause(Duration::from_secs(3));
    let [light, heavy] =
        used().into_iter().zip(begun).map(|(now, begun)| now - begun).collect::<Vec<_>>()[..]
    else {
        unreachable!("there are two")
    };
    burning.into_iter().for_each(|one| assert_eq!(one.join().unwrap().0, 200));
    println!("{light} ticks with a weight of 0.1, {heavy} with one of 1.6");
    assert!(heavy > 4 * light.max(1), "{light} ticks with a weight of 0.1, {heavy} with one of 1.6");
}

#[test]
fn a_stuck_instance_is_found_and_replaced_while_its_sibling_answers() {
    let server = sample::server();
    server.apply(&manifest("1", "min = 2\nmax = 2", "timeout = \"2s\""));
    let before = until_ready(&server, "app/web", 2);
    let load = Load::start(&server, 6, "app.localhost", "/slow?20");
    let mut stuck = TcpStream::connect(address(&before[0])).unwrap();
    stuck.write_all(b"GET /stick HTTP/1.1\r\n\r\n").unwrap();
    let begun = now();
    let (old, sibling) = (id(&before[0]), id(&before[1]));
    let told = until("it to be replaced", || {
        let told = events_of(&server, "instance_replaced");
        told.iter().find(|event| event["instance"] == old).cloned().ok_or_else(|| format!("{told:?}"))
    });
    println!("found and replaced after {:?}", begun.elapsed());
    assert_eq!(told["data"]["why"], "stuck", "{told}");
    let after = until_ready(&server, "app/web", 2);
    let (fresh, found) = (after.iter().all(|one| id(one) != old), now());
    assert!(fresh && after.iter().any(|one| id(one) == sibling), "{after:?}");
    pause(Duration::from_secs(1));
    let shots = load.end();
    let by_sibling = |shot: &&sample::Shot| shot.answer.as_ref().is_ok_and(|text| text.contains(&sibling));
    let served = shots.iter().filter(|shot| shot.begun > begun && shot.ended < found).filter(by_sibling);
    assert!(served.count() > 10, "the sibling answered all the time");
    let late: Vec<_> = shots.iter().filter(|shot| shot.begun > found && shot.answer.is_err()).collect();
    assert!(late.is_empty(), "{late:?}");
}

#[test]
fn one_that_fails_whatever_it_is_asked_is_passed_over_and_replaced() {
    let server = sample::server();
    server.apply(&manifest("1", "min = 3\nmax = 3", "breaker = { eject = \"100ms\" }"));
    let before = until_ready(&server, "app/web", 3);
    let load = Load::start(&server, 6, "app.localhost", "/slow?5");
    direct(&before[0], "/fail?1");
    let old = id(&before[0]);
    let told = until("it to be replaced", || {
        let told = events_of(&server, "instance_replaced");
        told.iter().find(|event| event["instance"] == old).cloned().ok_or_else(|| format!("{told:?}"))
    });
    assert_eq!(told["data"]["why"], "failing", "{told}");
    let after = until_ready(&server, "app/web", 3);
    assert!(after.iter().all(|one| id(one) != old), "{after:?}");
    let shots = load.end();
    assert!(failed(&shots).is_empty(), "what it failed another answered: {:?}", failed(&shots).first());
    assert!(server.why("app/web").contains("failing 1"), "{}", server.why("app/web"));
}

#[test]
fn one_whose_health_check_fails_is_taken_out_alive_and_let_back_in() {
    let server = sample::server();
    server.apply(&manifest("1", "min = 2\nmax = 4", "health = { path = \"/healthz\", every = \"250ms\" }"));
    let before = until_ready(&server, "app/web", 2);
    let load = Load::start(&server, 4, "app.localhost", "/slow?10");
    let (one, name) = (&before[0], id(&before[0]));
    let told = |kind: &str| {
        until(kind, || {
            let told = events_of(&server, kind);
            if told.iter().any(|event| event["instance"] == name) { Ok(()) } else { Err(format!("{told:?}")) }
        });
    };
    direct(one, "/sick?1");
    told("instance_unhealthy");
    let out = now();
    pause(Duration::from_millis(500));
    assert!(test_kill_process(pid(one)).is_ok(), "it was killed: {}", server.why(&name));
    let state =
        |server: &Server| server.instances("app/web").into_iter().find(|one| id(one) == name).unwrap();
    assert_ne!(state(&server)["state"], "ready");
    let back = now();
    direct(one, "/sick?0");
    told("instance_healthy");
    assert!(test_kill_process(pid(one)).is_ok(), "it was killed: {}", server.why(&name));
    let shots = load.end();
    assert!(failed(&shots).is_empty(), "{:?}", failed(&shots).first());
    let between = shots.iter().filter(|shot| shot.begun > out && shot.ended < back);
    let by_it = between.filter(|shot| shot.answer.as_ref().unwrap().contains(&name)).count();
    assert!(by_it <= 1, "{by_it} requests went to one that was out");
}

/// The directories of an instance's control groups.
fn groups(server: &Server, instance: &str) -> Vec<PathBuf> {
    let node = format!(
        "*/minato-{}/i-{instance}",
        std::fs::read_to_string(server.data().join("id")).unwrap().trim()
    );
    let found = run(Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-path", &node])).ok();
    found.stdout.lines().map(PathBuf::from).collect()
}

/// A process of the test that is put where it has no business; gone with this.
struct Intruder(Child);

impl Intruder {
    fn put(groups: &[PathBuf]) -> Self {
        let child = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
        for group in groups {
            std::fs::write(group.join("cgroup.procs"), child.id().to_string()).unwrap();
        }
        Self(child)
    }
}

impl Drop for Intruder {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The file of a memory limit, whichever version of control groups has it.
fn memory_limit(groups: &[PathBuf]) -> PathBuf {
    let files = ["memory.limit_in_bytes", "memory.max"];
    let mut all = groups.iter().flat_map(|group| files.map(|file| group.join(file)));
    all.find(|file| file.exists()).unwrap()
}

fn mount_inside(instance: &Value) {
    let process = pid(instance).as_raw_nonzero().to_string();
    let inside = ["/bin/busybox", "mount", "-t", "tmpfs", "by-hand", "/www"];
    run(Command::new("nsenter").args(["--target", &process, "--mount", "--"]).args(inside)).ok();
}

#[test]
fn what_is_changed_by_hand_is_replaced() {
    let server = Server::start();
    server.build(
        &images::busybox(server.data()),
        "app/box:1",
        &["--entrypoint", images::HTTPD, "--port", "8080"],
    );
    server.apply(
        "app = \"app\"\n[services.web]\nimage = \"app/box:1\"\nhosts = [\"app.localhost\"]\n\
         [services.web.scale]\nmin = 3\n",
    );
    let mut intruder = None;
    let first = until_ready(&server, "app/web", 3);
    for (what, one) in ["process", "limit", "mount"].into_iter().zip(&first) {
        let groups = groups(&server, &id(one));
        match what {
            "process" => intruder = Some(Intruder::put(&groups)),
            "limit" => std::fs::write(memory_limit(&groups), "67108864").unwrap(),
            _ => mount_inside(one),
        }
        let begun = now();
        let told = until(what, || {
            let told = events_of(&server, "instance_replaced");
            told.iter()
                .find(|event| event["instance"] == one["id"])
                .cloned()
                .ok_or_else(|| format!("{told:?}"))
        });
        println!("changed {what}: replaced after {:?}", begun.elapsed());
        assert_eq!(told["data"]["why"], "drifted", "{told}");
        assert!(begun.elapsed() < Duration::from_secs(25), "{what}: {:?}", begun.elapsed());
        let seen = events_of(&server, "instance_drifted");
        let seen = seen.iter().find(|event| event["instance"] == one["id"]);
        let says = if what == "mount" { "mounts" } else { what };
        assert!(seen.is_some_and(|event| event["reason"].as_str().unwrap().contains(says)), "{seen:?}");
    }
    drop(intruder);
    let why = server.why("app/web");
    assert_eq!(server.ask("app.localhost", "/").status, 200, "{why}");
}

/// Renewals under load; nothing fails, and each is a rehearsal.
fn renewed(recycle: &str, why: &str) {
    let server = sample::server();
    server.apply(&format!("{}[services.web.recycle]\n{recycle}\n", manifest("1", "min = 3\nmax = 3", "")));
    let first: Vec<String> = until_ready(&server, "app/web", 3).iter().map(id).collect();
    let load = Load::start(&server, 4, "app.localhost", "/slow?5");
    let told = until("renewals", || {
        let told = events_of(&server, "rehearsal");
        let gone = first.iter().all(|id| told.iter().any(|event| event["instance"] == **id));
        if gone && told.len() >= 4 { Ok(told) } else { Err(format!("{told:?}")) }
    });
    let shots = load.end();
    assert!(failed(&shots).is_empty(), "of {}: {:?}", shots.len(), failed(&shots).first());
    for event in &told {
        let data = &event["data"];
        assert_eq!(
            (&data["why"], &data["errors"], &data["gap_ms"]),
            (&why.into(), &0.into(), &0.0.into()),
            "{event}"
        );
    }
}

#[test]
fn recycling_by_requests_fails_nothing() {
    renewed("requests = 200", "requests");
}

#[test]
fn recycling_by_age_fails_nothing() {
    renewed("age = \"3s\"", "age");
}

/// One that takes far longer than its siblings keeps what it was given: it is renewed, and ends that first.
#[test]
fn recycling_by_in_flight_fails_nothing() {
    let server = sample::server();
    let scale = "min = 3\nmax = 3\nconcurrency = 4";
    server.apply(&manifest("1", scale, "drain = \"50s\"\ntimeout = \"60s\""));
    let slow = until_ready(&server, "app/web", 3)[0].clone();
    direct(&slow, "/lag?22000");
    // A crowd, of which its share stays with it when the others have been answered.
    let crowd = Load::start(&server, 9, "app.localhost", "/slow?300");
    until("its share", || match server.instances("app/web").iter().find(|one| one["id"] == slow["id"]) {
        Some(one) if one["in_flight"].as_u64() >= Some(3) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let crowd = std::thread::spawn(move || crowd.end());
    let light = Load::start(&server, 2, "app.localhost", "/slow?5");
    let told = until("its renewal", || {
        let told = events_of(&server, "rehearsal");
        told.iter().find(|event| event["instance"] == slow["id"]).cloned().ok_or_else(|| format!("{told:?}"))
    });
    let data = &told["data"];
    assert_eq!(
        (&data["why"], &data["errors"], &data["gap_ms"]),
        (&"in_flight".into(), &0.into(), &0.0.into()),
        "{told}"
    );
    assert!(server.why(&id(&slow)).contains("far more in flight than its siblings"));
    assert!(until_ready(&server, "app/web", 3).iter().all(|one| one["id"] != slow["id"]));
    for shots in [light.end(), crowd.join().unwrap()] {
        assert!(failed(&shots).is_empty(), "of {}: {:?}", shots.len(), failed(&shots).first());
    }
}
