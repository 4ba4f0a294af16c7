//! Sandboxes that are made ahead: found by a start, made again, and given back.

use std::{fs, path::Path, time::Duration};

use minato_agent::Agent;
use minato_model::{
    node::NodeView,
    routing::{Load, Wake},
};
use rustix::process::{Pid, Signal, kill_process};

use crate::ground::{get, key, run};

const READY: &str = "minato_sandbox_pool{state=\"ready\"} 4";

/// Whether this line is among the metrics.
fn says(agent: &Agent, line: &str) -> Option<()> {
    agent.metrics().lines().any(|found| found == line).then_some(())
}

/// The keeper of this data directory.
fn keeper(data: &Path) -> Pid {
    let own = |pid: &i32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = words.split(|&byte| byte == 0).skip(1);
        words.next() == Some(b"keeper") && words.next() == Some(data.as_os_str().as_encoded_bytes())
    };
    let names = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name());
    let pids: Vec<i32> = names.filter_map(|name| name.to_str()?.parse().ok()).filter(own).collect();
    let [pid] = pids[..] else { panic!("keepers: {pids:?}") };
    Pid::from_raw(pid).unwrap()
}

fn children(of: Pid) -> Vec<Pid> {
    let of = of.as_raw_nonzero();
    let list = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap();
    list.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap()).collect()
}

/// Whether a process is there and not just waiting to be reaped.
fn runs(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))
        .is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_start_finds_a_sandbox_and_another_is_made() {
    run(async |ground| {
        let agent = ground.agent().await;
        ground.apply(&ground.slice(1, 1, &[])).await;
        ground.until("ready", async || says(&agent, READY)).await;
        agent.wake(&key(1), 1);
        let endpoint = ground.admitted(1).await.remove(0);
        assert!(get(&endpoint, "/index.html").await.contains("hello"));
        says(&agent, "minato_sandboxes_total{how=\"pooled\"} 1").unwrap();
        ground.until("ready again", async || says(&agent, READY)).await;
        agent.leave().await;
        drop(agent);
        *ground.edge.seen() = Default::default();

        // The next server takes none of them over, and makes its own.
        let agent = ground.agent().await;
        let kept = ground.admitted(1).await.remove(0);
        assert_eq!(kept.instance, endpoint.instance);
        ground.until("ready", async || says(&agent, READY)).await;
        agent.stop(true).await;
    });
}

#[test]
fn who_finds_a_sandbox_that_just_died_gets_another() {
    run(async |ground| {
        let agent = ground.agent().await;
        ground.apply(&ground.slice(1, 1, &[])).await;
        ground.until("ready", async || says(&agent, READY)).await;
        let keeper = keeper(ground.data());
        // It can't tell of those that die until it goes on.
        kill_process(keeper, Signal::STOP).unwrap();
        let parked = children(keeper);
        assert_eq!(parked.len(), 4);
        parked.iter().for_each(|one| kill_process(*one, Signal::KILL).unwrap());
        let load = Load { in_flight: 0, waiting: 1, peak: 1, idle: Some(Duration::ZERO) };
        ground.edge.seen().load.insert(key(1), load);
        agent.wake(&key(1), 1);
        let begun = async || ground.events().iter().any(|e| e.kind == "instance_starting").then_some(());
        ground.until("begun", begun).await;
        kill_process(keeper, Signal::CONT).unwrap();
        let endpoint = ground.admitted(1).await.remove(0);
        assert!(get(&endpoint, "/index.html").await.contains("hello"));
        assert_eq!(agent.life(&endpoint.instance).await.unwrap().pooled, Some(false));
        let failed: Vec<_> = ground.events().into_iter().filter(|e| e.kind == "instance_failed").collect();
        assert_eq!(failed.iter().map(|e| &e.data["in_a_row"]).collect::<Vec<_>>(), [0]);
        assert!(ground.edge.seen().refused.is_empty());
        agent.stop(true).await;
    });
}

#[test]
fn another_keeper_fills_it_again_and_a_stop_leaves_nothing() {
    run(async |ground| {
        let agent = ground.agent().await;
        ground.apply(&ground.slice(1, 1, &[])).await;
        ground.until("ready", async || says(&agent, READY)).await;
        let first = keeper(ground.data());
        let before = children(first);
        kill_process(first, Signal::KILL).unwrap();
        let gone = async || ground.events().iter().any(|e| e.kind == "keeper_gone").then_some(());
        ground.until("gone", gone).await;
        ground.until("ready again", async || says(&agent, READY)).await;
        let second = keeper(ground.data());
        assert_ne!(first, second);
        let after = children(second);
        assert_eq!(after.len(), 4);
        assert!(before.iter().all(|one| !after.contains(one) && !runs(*one)));
        agent.wake(&key(1), 1);
        let endpoint = ground.admitted(1).await.remove(0);
        assert!(get(&endpoint, "/index.html").await.contains("hello"));
        says(&agent, "minato_sandboxes_total{how=\"pooled\"} 1").unwrap();
        ground.until("ready once more", async || says(&agent, READY)).await;
        let parked = children(second);
        agent.stop(true).await;
        assert!(parked.iter().all(|one| !runs(*one)));
        assert!(!runs(second));
        let links = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        assert_eq!(links.lines().filter(|line| line.contains(':')).count(), 1, "{links}");
        for root in std::fs::read_dir("/sys/fs/cgroup").unwrap() {
            let group = root.unwrap().path().join(format!("minato-{}", ground.id()));
            assert!(!group.exists(), "{}", group.display());
        }
    });
}
