//! Crashes at bad moments: in the middle of a roll-out, of everything at once, again and again.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails here")]

use std::path::Path;

use minato_tests::{
    Server, kernel,
    sample::{self, Load, failed, manifest},
    until,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn ready(server: &Server) -> Vec<Value> {
    server.instances("app/web").into_iter().filter(|instance| instance["state"] == "ready").collect()
}

/// The keeper's process, and with it those that it keeps.
fn keeper(data: &Path) -> Pid {
    let line = kernel::objects(data).into_iter().find(|line| line.contains(" keeper ")).unwrap();
    Pid::from_raw(line.split(' ').nth(1).unwrap().parse().unwrap()).unwrap()
}

#[test]
fn a_roll_out_goes_on_where_the_server_was_killed() {
    let scale = "min = 3\nmax = 6\nconcurrency = 8";
    let mut server = sample::server();
    server.apply(&manifest("1", scale, ""));
    // What takes 300 ms to begin gives time to kill in between.
    for (round, version) in ["2", "3", "4", "5"].into_iter().enumerate() {
        let slow = format!("VERSION = \"{version}\"\nBEGIN_AFTER_MS = \"300\"");
        let text = manifest(version, scale, "").replace(&format!("VERSION = \"{version}\""), &slow);
        let path = server.manifest(&text);
        server.minato(&["apply", path.to_str().unwrap()]).ok();
        // Each time a little later.
        let begun = sample::now();
        until("the moment", || {
            if begun.elapsed().as_millis() >= 150 * round as u128 { Ok(()) } else { Err(String::new()) }
        });
        server.kill();
        server.spawn(&[]);
        assert_eq!(server.ask("app.localhost", "/").status, 200, "some release serves at once");
        let number = round + 2;
        // The same again changes nothing, and waits for what is under way.
        let said = server.apply(&text).stdout;
        assert!(said.contains("nothing to change") && said.contains("is stable"), "{said}");
        let ready = ready(&server);
        assert!(ready.len() == 3 && ready.iter().all(|one| one["release"] == number), "{ready:?}");
        assert!(server.ask("app.localhost", "/").text().starts_with(&format!("{version} {number} ")));
    }
}

#[test]
fn a_crash_of_server_and_keeper_leaves_nothing_that_hurts() {
    // Without sandboxes that are made ahead, so that each link is an instance's.
    let mut server = Server::start_with(&["--anonymous-push", "--pool", "0"]);
    sample::push(&server);
    server.apply(&manifest("1", "min = 2", ""));
    until("two instances", || match ready(&server).len() {
        2 => Ok(()),
        other => Err(format!("{other} ready")),
    });
    let (before, killed) = (ready(&server), keeper(server.data()));
    // The server first: it would start another keeper.
    server.kill();
    kill_process(killed, Signal::KILL).unwrap();
    server.spawn(&["--pool", "0"]);
    assert_eq!(server.ask("app.localhost", "/").status, 200);
    until("two others", || {
        let now = ready(&server);
        let fresh = now.iter().all(|one| before.iter().all(|old| old["id"] != one["id"]));
        if fresh && now.len() == 2 { Ok(()) } else { Err(format!("{now:?}")) }
    });
    // The old ones leave no address, link or control group behind; a link goes when the kernel has
    // taken its namespace apart, which is after the processes in it.
    until("the links of two instances", || {
        let objects = kernel::objects(server.data());
        match objects.iter().filter(|line| line.starts_with("link ")).count() {
            2 => Ok(()),
            _ => Err(format!("{objects:#?}")),
        }
    });
    assert!(server.stop().success());
    assert_eq!(kernel::objects(server.data()), Vec::<String>::new());
}

#[test]
fn crashes_in_a_row_lose_nothing() {
    let mut server = sample::server();
    server.apply(&manifest("1", "min = 1", ""));
    let id = ready(&server)[0]["id"].clone();
    for round in 0..5 {
        server.kill();
        server.spawn(&[]);
        let text = server.ask("app.localhost", &format!("/say?round-{round}")).text();
        assert!(text.contains(id.as_str().unwrap()), "{text}");
    }
    until("every line", || {
        let logs = server.minato(&["logs", "app/web"]).ok().stdout;
        let all = (0..5).all(|round| logs.matches(&format!("round-{round}")).count() == 1);
        if all { Ok(()) } else { Err(logs) }
    });
}

#[test]
fn changes_of_every_kind_under_load_fail_nothing() {
    let server = sample::server();
    let scale = "min = 1\nmax = 8\nconcurrency = 2\nidle = \"1s\"";
    server.apply(&manifest("1", scale, ""));
    let load = Load::start(&server, 8, "app.localhost", "/slow?20");
    for (round, version) in ["2", "3", "2", "4"].into_iter().enumerate() {
        // Releases back and forth, wider and narrower, another host beside.
        let max = if round % 2 == 0 { "max = 3" } else { "max = 8" };
        let hosts = format!("hosts = [\"app.localhost\", \"h{round}.localhost\"]");
        let text = manifest(version, &scale.replace("max = 8", max), "");
        server.apply(&text.replace("hosts = [\"app.localhost\"]", &hosts));
        assert_eq!(server.ask(&format!("h{round}.localhost"), "/").status, 200);
    }
    let shots = load.end();
    let failed = failed(&shots);
    assert!(failed.is_empty(), "{} of {} failed: {:?}", failed.len(), shots.len(), failed.first());
    assert!(shots.len() > 100, "{}", shots.len());
    // Nobody needs so many any more.
    until("scale-in", || match ready(&server).len() {
        1 => Ok(()),
        other => Err(format!("{other} ready")),
    });
}
