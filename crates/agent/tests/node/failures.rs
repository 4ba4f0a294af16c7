//! Starts that fail, and instances that end: told apart, refused at once, tried again.

use minato_agent::Agent;
use minato_model::{
    code::Code,
    inventory::{InstanceState, Preparation},
    node::NodeView,
    routing::Wake,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::ground::{Ground, instance, key, run};

/// Wakes a release that runs this, and waits until it is refused for this reason.
async fn refused(ground: &Ground, agent: &Agent, number: u32, command: &[&str], code: Code) {
    let slice = ground.slice(u64::from(number), number, command);
    ground.apply(&slice).await;
    ground.standing(number, |standing| standing.preparation == Preparation::Prepared).await;
    agent.wake(&key(number), 1);
    let refusal = async || ground.edge.seen().refused.get(&key(number)).cloned();
    let refusal = ground.until(&format!("refused {code}"), refusal).await;
    assert_eq!(refusal.code, code);
    assert!(!refusal.retry_after.is_zero());
    let standing = ground.standing(number, |standing| standing.failing.is_some()).await;
    assert_eq!(standing.failing.unwrap().code, code);
}

#[test]
fn failed_starts_are_told_apart() {
    run(async |ground| {
        let agent = ground.agent().await;
        refused(&ground, &agent, 1, &["/bin/nothing"], Code::EntrypointMissing).await;
        refused(&ground, &agent, 2, &["/bin/sh", "-c", "echo why; exit 3"], Code::Exited).await;
        let failed = async || instance(&agent, InstanceState::Failed).await.filter(|i| i.release == 2);
        let backing_off =
            async || instance(&agent, InstanceState::BackingOff).await.filter(|i| i.release == 2);
        let either = async || backing_off().await.or(failed().await);
        let seen = ground.until("remembered", either).await;
        let life = agent.life(&seen.id).await.unwrap();
        assert_eq!(
            (life.end.as_deref(), life.last_lines),
            (Some("it exited with status 3"), vec!["why".to_owned()])
        );
        refused(&ground, &agent, 3, &["/bin/sh", "-c", "kill -9 $$"], Code::Killed).await;
        let alone = &["/bin/httpd", "-f", "-p", "127.0.0.1:8080"];
        refused(&ground, &agent, 4, alone, Code::ListensOnLoopback).await;
        agent.stop(true).await;
        assert!(ground.edge.seen().introduced.is_empty());
    });
}

#[test]
fn an_image_that_is_missing_refuses_until_it_is_there() {
    run(async |ground| {
        let agent = ground.agent().await;
        let mut slice = ground.slice(1, 1, &[]);
        slice.releases[0].release.spec.digest = minato_image::digest::of(b"nothing");
        ground.apply(&slice).await;
        let failed = |preparation: &Preparation| {
            matches!(preparation, Preparation::Failed { code: Code::ImageMissing, .. })
        };
        ground.standing(1, |standing| failed(&standing.preparation)).await;
        let refusal = async || ground.edge.seen().refused.get(&key(1)).cloned();
        assert_eq!(ground.until("refused", refusal).await.code, Code::ImageMissing);
        agent.stop(true).await;
    });
}

#[test]
fn a_tree_that_is_gone_is_made_anew() {
    run(async |ground| {
        let agent = ground.agent().await;
        ground.apply(&ground.slice(1, 1, &[])).await;
        ground.standing(1, |standing| standing.preparation == Preparation::Prepared).await;
        std::fs::remove_dir_all(ground.data().join("trees")).unwrap();
        agent.wake(&key(1), 1);
        let refusal = async || ground.edge.seen().refused.get(&key(1)).cloned();
        assert_eq!(ground.until("refused", refusal).await.code, Code::NodeFault);
        let allowed = async || ground.edge.seen().refused.is_empty().then_some(());
        ground.until("allowed again", allowed).await;
        agent.wake(&key(1), 1);
        ground.admitted(1).await;
        agent.stop(true).await;
    });
}

#[test]
fn a_killed_instance_is_replaced_at_once() {
    run(async |ground| {
        let agent = ground.agent().await;
        let mut slice = ground.slice(1, 1, &[]);
        slice.releases[0].min = 1;
        ground.apply(&slice).await;
        let first = ground.admitted(1).await.remove(0);
        let pid = instance(&agent, InstanceState::Ready).await.unwrap().pid.unwrap();
        kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
        let other = async || {
            let seen = ground.edge.seen();
            seen.admitted.values().find(|endpoint| endpoint.instance != first.instance).cloned()
        };
        let second = ground.until("replaced", other).await;
        assert!(!ground.edge.seen().admitted.contains_key(&first.instance));
        assert_ne!(second.address, first.address);
        assert_eq!(agent.life(&second.instance).await.unwrap().asked_by, "replacement");
        assert!(ground.kinds(&first.instance).contains(&"instance_failed".to_owned()));
        ground.standing(1, |standing| standing.ready == 1 && standing.failing.is_none()).await;
        agent.stop(true).await;
    });
}
