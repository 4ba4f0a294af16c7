//! The keeper dies while a server and the one before it both live: it is noticed by who serves, once.

use minato_tests::{
    kernel,
    sample::{self, Load, manifest},
    until,
    watch::{id, until_ready},
};
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn the_end_of_a_keeper_that_another_server_started_is_told_once() {
    let mut server = sample::server();
    server.apply(&manifest("1", "min = 2\nmax = 2", ""));
    let before: Vec<_> = until_ready(&server, "app/web", 2).iter().map(id).collect();
    // It holds the server before for as long as it is asked.
    let load = Load::start(&server, 1, "app.localhost", "/slow?3000");
    until("a request under way", || {
        match server.instances("app/web").iter().map(|one| one["in_flight"].as_u64()).max() {
            Some(Some(1..)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let mut retired = server.upgrade(&["--anonymous-push"]);
    assert!(retired.try_wait().unwrap().is_none());
    let line = kernel::objects(server.data()).into_iter().find(|line| line.contains(" keeper ")).unwrap();
    let keeper = Pid::from_raw(line.split(' ').nth(1).unwrap().parse().unwrap()).unwrap();
    kill_process(keeper, Signal::KILL).unwrap();
    let gone = || {
        let journal = std::fs::read_to_string(server.data().join("events/events.ndjson")).unwrap_or_default();
        journal.lines().filter(|line| line.contains("\"keeper_gone\"")).count()
    };
    until("the keeper's end to be told", || match gone() {
        1 => Ok(()),
        other => Err(format!("{other} times")),
    });
    until("two others", || {
        let now: Vec<_> = until_ready(&server, "app/web", 2).iter().map(id).collect();
        if now.iter().all(|one| !before.contains(one)) { Ok(()) } else { Err(format!("{now:?}")) }
    });
    assert_eq!(server.ask("app.localhost", "/").status, 200);
    // What was under way went with its instance, and with that the server before.
    drop(load.end());
    until("the server before to end", || match retired.try_wait().unwrap() {
        Some(_) => Ok(()),
        None => Err("it runs".to_owned()),
    });
    assert_eq!(gone(), 1);
    assert!(server.stop().success());
    assert_eq!(kernel::objects(server.data()), Vec::<String>::new());
}
