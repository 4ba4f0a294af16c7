//! What another server finds.

use minato_model::{inventory::InstanceState, routing::Traffic};
use minato_state::{State, Write};
use rustix::process::{Pid, Signal, kill_process};

use crate::ground::{get, instance, key, run};

#[test]
fn what_runs_is_adopted_and_what_ended_is_told() {
    run(async |ground| {
        let agent = ground.agent().await;
        let mut slice = ground.slice(1, 1, &[]);
        (slice.releases[0].min, slice.releases[0].max) = (2, 2);
        ground.apply(&slice).await;
        let before = ground.admitted(2).await;
        let pids: Vec<u32> = {
            let instances = minato_model::node::NodeView::instances(&*agent).await;
            before
                .iter()
                .map(|e| instances.iter().find(|i| i.id == e.instance).unwrap().pid.unwrap())
                .collect()
        };
        agent.leave().await;
        drop(agent);
        *ground.edge.seen() = Default::default();
        kill_process(Pid::from_raw(pids[1].cast_signed()).unwrap(), Signal::KILL).unwrap();

        let agent = ground.agent().await;
        let after = ground.admitted(2).await;
        let kept = after.iter().find(|endpoint| endpoint.instance == before[0].instance).unwrap();
        assert_eq!((kept.address, kept.cold), (before[0].address, None));
        assert!(get(kept, "/index.html").await.contains("hello"));
        let seen = instance(&agent, InstanceState::Ready).await.unwrap();
        assert_eq!(seen.release, key(1).number);
        assert!(ground.kinds(&before[1].instance).contains(&"instance_failed".to_owned()));
        assert!(after.iter().all(|endpoint| endpoint.instance != before[1].instance));
        agent.stop(true).await;
        assert!(std::fs::read_to_string(format!("/proc/{}/stat", pids[0])).is_err());
    });
}

#[test]
fn what_nobody_wants_any_more_is_drained() {
    run(async |ground| {
        let agent = ground.agent().await;
        let mut slice = ground.slice(1, 1, &[]);
        slice.releases[0].min = 1;
        ground.apply(&slice).await;
        let before = ground.admitted(1).await.remove(0);
        agent.leave().await;
        drop(agent);
        *ground.edge.seen() = Default::default();
        slice.releases[0].max = 0;
        slice.releases[0].min = 0;
        slice.generation = minato_model::ids::Generation(2);
        ground.apply(&slice).await;

        let agent = ground.agent().await;
        ground.standing(1, |standing| standing.running == 0).await;
        ground.forgotten().await;
        let wanted = ["instance_starting", "instance_ready", "instance_draining", "instance_stopped"];
        assert_eq!(ground.kinds(&before.instance), wanted, "it was never ready for the second server");
        agent.stop(true).await;
    });
}

#[test]
fn a_slice_that_cannot_be_read_changes_nothing_and_is_said() {
    run(async |ground| {
        let agent = ground.agent().await;
        let mut slice = ground.slice(1, 1, &[]);
        slice.releases[0].min = 1;
        ground.apply(&slice).await;
        let before = ground.admitted(1).await.remove(0);
        let report = ground.standing(1, |standing| standing.ready == 1).await;
        agent.hand_over().await;
        drop(agent);
        *ground.edge.seen() = Default::default();
        let key = minato_model::keys::slice(&ground.node(), &slice.service);
        let garbage = Write::Put { key, value: b"{\"generation\": 2, \"later\": true}".to_vec() };
        ground.state.commit(Vec::new(), vec![garbage]).await.unwrap();

        let agent = ground.agent().await;
        let after = ground.admitted(1).await.remove(0);
        assert_eq!((&after.instance, after.address), (&before.instance, before.address));
        assert!(get(&after, "/index.html").await.contains("hello"));
        let said = ground.events().into_iter().find(|event| event.kind == "slice_unreadable").unwrap();
        assert_eq!(said.service.unwrap().as_str(), "cart");
        assert_eq!(ground.standing(1, |_| true).await, report);
        assert!(!ground.kinds(&before.instance).contains(&"instance_draining".to_owned()));

        // Readable again, it names another release: the old one goes.
        let mut second = ground.slice(3, 2, &["/bin/httpd", "-f", "-p", "8080", "-h", "/etc"]);
        second.releases[0].min = 1;
        ground.apply(&second).await;
        let other = async || {
            let seen = ground.edge.seen();
            let gone = !seen.introduced.contains_key(&before.instance);
            seen.admitted.values().any(|one| gone && one.release.number == 2).then_some(())
        };
        ground.until("replaced", other).await;
        assert_eq!(ground.kinds(&before.instance).last().unwrap(), "instance_stopped");
        agent.stop(true).await;
    });
}

#[test]
fn a_drain_goes_on_under_the_next_server_and_is_told_once() {
    run(async |ground| {
        let agent = ground.agent().await;
        let mut slice = ground.slice(1, 1, &[]);
        slice.releases[0].min = 1;
        slice.drain_streams = std::time::Duration::from_secs(3_600);
        ground.apply(&slice).await;
        let old = ground.admitted(1).await.remove(0).instance;
        let traffic = Traffic { in_flight: 1, streams: 1, ..Traffic::default() };
        ground.edge.seen().traffic.insert(old.clone(), traffic);
        (slice.releases[0].min, slice.releases[0].max) = (0, 0);
        slice.generation = minato_model::ids::Generation(2);
        ground.apply(&slice).await;
        let draining = || ground.kinds(&old).iter().filter(|kind| *kind == "instance_draining").count();
        ground.until("draining", async || (draining() == 1).then_some(())).await;
        agent.hand_over().await;
        drop(agent);

        let agent = ground.agent().await;
        let streams = async || {
            let seen = instance(&agent, InstanceState::Draining).await?;
            seen.reason.ends_with("its last streams go on").then_some(seen.id)
        };
        assert_eq!(ground.until("draining again", streams).await, old);
        agent.stop(false).await;
        let wanted = ["instance_starting", "instance_ready", "instance_draining", "instance_stopped"];
        assert_eq!(ground.kinds(&old), wanted);
    });
}

#[test]
fn without_a_keeper_all_is_started_anew() {
    run(async |ground| {
        let agent = ground.agent().await;
        let mut slice = ground.slice(1, 1, &[]);
        slice.releases[0].min = 1;
        ground.apply(&slice).await;
        let before = ground.admitted(1).await.remove(0);
        let pid = instance(&agent, InstanceState::Ready).await.unwrap().pid.unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let keeper = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(1).unwrap();
        kill_process(Pid::from_raw(keeper.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
        let other = async || {
            let seen = ground.edge.seen();
            seen.admitted.values().find(|endpoint| endpoint.instance != before.instance).cloned()
        };
        let after = ground.until("replaced", other).await;
        assert!(get(&after, "/index.html").await.contains("hello"));
        let life = minato_model::node::NodeView::life(&*agent, &before.instance).await.unwrap();
        assert_eq!(life.instance.reason, "the keeper ended, and all instances with it");
        agent.stop(true).await;
        // Its parent is the machine's first process now, which reaps it when it likes.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
    });
}
