//! What another server finds.

use minato_model::inventory::InstanceState;
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
        assert_eq!(ground.kinds(&before.instance).last().unwrap(), "instance_stopped");
        agent.stop(true).await;
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
