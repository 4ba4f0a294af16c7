//! Renewed by routine, replaced for a fault, drained with streams; and who may not come back.

use std::{process::Command, time::Duration};

use minato_model::{
    event::Event,
    ids::{Generation, InstanceId},
    inventory::InstanceState,
    manifest::Health,
    node::NodeView,
    route::Endpoint,
    routing::{Traffic, Wake},
};
use minato_runtime::usage::Reader;
use rustix::process::{Pid, Signal, kill_process};

use crate::ground::{Ground, instance, key, run};

/// Waits until another one than `old` is routed to, and `old` is gone.
async fn replaced(ground: &Ground, old: &InstanceId) -> Endpoint {
    let other = async || {
        let seen = ground.edge.seen();
        let gone = !seen.introduced.contains_key(old);
        seen.admitted.values().find(|endpoint| gone && endpoint.instance != *old).cloned()
    };
    ground.until("replaced", other).await
}

fn event(ground: &Ground, kind: &str) -> Event {
    ground.events().into_iter().find(|event| event.kind == kind).unwrap()
}

fn set(ground: &Ground, id: &InstanceId, traffic: Traffic) {
    ground.edge.seen().traffic.insert(id.clone(), traffic);
}

#[test]
fn who_has_served_its_number_is_renewed_without_a_gap() {
    run(async |ground| {
        let agent = ground.agent().await;
        let mut slice = ground.slice(1, 1, &[]);
        (slice.releases[0].min, slice.releases[0].max) = (1, 1);
        slice.recycle.requests = 100;
        ground.apply(&slice).await;
        let old = ground.admitted(1).await.remove(0).instance;
        set(&ground, &old, Traffic { requests: 100, ..Traffic::default() });
        let new = replaced(&ground, &old).await.instance;
        let told = ground.edge.seen().told.clone();
        let at = |told_of: String| told.iter().position(|told| *told == told_of).unwrap();
        assert!(at(format!("admit {new}")) < at(format!("withdraw {old}")), "{told:?}");
        assert_eq!(agent.life(&new).await.unwrap().asked_by, "recycle");
        let rehearsal = event(&ground, "rehearsal");
        assert_eq!((rehearsal.instance, &rehearsal.data["why"]), (Some(old), &"requests".into()));
        assert_eq!((&rehearsal.data["gap_ms"], &rehearsal.data["errors"]), (&0.0.into(), &0.into()));
        assert!(rehearsal.data["start_ms"].as_f64().unwrap() > 0.0);
        let metrics = agent.metrics();
        for line in ["minato_rehearsals_total{why=\"requests\"} 1", "minato_rehearsal_gap_seconds_count 1"] {
            assert!(metrics.contains(line), "{metrics}");
        }
        agent.stop(true).await;
    });
}

/// An instance with a stream, whose release gets none any more.
async fn retired_with_a_stream(ground: &Ground, drain_streams: Duration) -> InstanceId {
    let mut slice = ground.slice(1, 1, &[]);
    slice.releases[0].min = 1;
    slice.drain_streams = drain_streams;
    ground.apply(&slice).await;
    let old = ground.admitted(1).await.remove(0).instance;
    // Or a report from before would say that none runs any more.
    ground.standing(1, |standing| standing.running == 1).await;
    set(ground, &old, Traffic { in_flight: 1, streams: 1, ..Traffic::default() });
    slice.generation = Generation(2);
    (slice.releases[0].min, slice.releases[0].max) = (0, 0);
    ground.apply(&slice).await;
    old
}

#[test]
fn streams_outlast_the_drain_and_hold_nothing_up() {
    run(async |ground| {
        let agent = ground.agent().await;
        let old = retired_with_a_stream(&ground, Duration::from_secs(3_600)).await;
        // It counts as running no more, but it is there, and nothing is said to it.
        ground.standing(1, |standing| standing.running == 0).await;
        assert_eq!(instance(&agent, InstanceState::Draining).await.unwrap().id, old);
        assert!(ground.edge.seen().introduced.contains_key(&old));
        // In a hurry they are ended, in their own words.
        agent.stop(false).await;
        let told = ground.edge.seen().told.clone();
        let of: Vec<&str> = told.iter().map(|told| told.split(' ').next().unwrap()).collect();
        assert_eq!(of, ["introduce", "admit", "withdraw", "quiet", "end_streams", "forget"]);
    });
}

#[test]
fn streams_are_ended_when_their_time_is_over() {
    run(async |ground| {
        let agent = ground.agent().await;
        let old = retired_with_a_stream(&ground, Duration::from_millis(300)).await;
        ground.forgotten().await;
        assert!(ground.edge.seen().told.contains(&format!("end_streams {old}")));
        agent.stop(true).await;
    });
}

#[test]
fn who_dies_before_it_is_told_to_stop_has_failed() {
    run(async |ground| {
        let agent = ground.agent().await;
        let old = retired_with_a_stream(&ground, Duration::from_secs(3_600)).await;
        let draining = async || instance(&agent, InstanceState::Draining).await;
        let pid = ground.until("draining", draining).await.pid.unwrap();
        kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
        ground.forgotten().await;
        let wanted = ["instance_starting", "instance_ready", "instance_draining", "instance_failed"];
        assert_eq!(ground.kinds(&old), wanted);
        assert_eq!(event(&ground, "instance_failed").data["code"], "killed");
        assert_eq!(agent.life(&old).await.unwrap().instance.state, InstanceState::Failed);
        agent.stop(true).await;
    });
}

#[test]
fn who_accepts_and_never_answers_is_replaced() {
    run(async |ground| {
        let agent = ground.agent().await;
        let mut slice = ground.slice(1, 1, &[]);
        (slice.releases[0].min, slice.releases[0].max) = (1, 1);
        slice.route.timeout = Duration::from_secs(1);
        ground.apply(&slice).await;
        let old = ground.admitted(1).await.remove(0).instance;
        // As an edge sees it that gives up each request after a second.
        let oldest = Some(Duration::from_millis(900));
        set(&ground, &old, Traffic { in_flight: 1, errors: 7, oldest, ..Traffic::default() });
        let new = replaced(&ground, &old).await.instance;
        assert_eq!(agent.life(&new).await.unwrap().asked_by, "replacement");
        assert_eq!(event(&ground, "instance_replaced").data["why"], "stuck");
        agent.stop(true).await;
    });
}

#[test]
fn who_was_changed_by_hand_is_replaced() {
    run(async |ground| {
        let agent = ground.agent().await;
        let mut slice = ground.slice(1, 1, &[]);
        (slice.releases[0].min, slice.releases[0].max) = (1, 1);
        ground.apply(&slice).await;
        let old = ground.admitted(1).await.remove(0).instance;
        let mut stranger = Command::new("/bin/busybox").args(["sleep", "1000"]).spawn().unwrap();
        let group = Reader::open(&ground.id()).unwrap().directories(&old).remove(0);
        let entered = std::fs::write(group.join("cgroup.procs"), stranger.id().to_string());
        let pid = stranger.id();
        let new = replaced(&ground, &old).await.instance;
        // Killed with the instance where whole groups can be, else here.
        stranger.kill().ok();
        stranger.wait().unwrap();
        entered.unwrap();
        assert_ne!(new, old);
        let drifted = event(&ground, "instance_drifted");
        let what = format!("the process {pid} (`busybox`) is in its control group");
        assert!(drifted.reason.starts_with(&what), "{}", drifted.reason);
        assert_eq!(event(&ground, "instance_replaced").data["why"], "drifted");
        agent.stop(true).await;
    });
}

#[test]
fn a_stale_route_wakes_nobody() {
    run(async |ground| {
        let agent = ground.agent().await;
        let mut slice = ground.slice(1, 1, &[]);
        slice.releases[0].min = 1;
        ground.apply(&slice).await;
        let old = ground.admitted(1).await.remove(0).instance;
        slice.generation = Generation(2);
        (slice.releases[0].min, slice.releases[0].max) = (0, 0);
        ground.apply(&slice).await;
        ground.forgotten().await;
        // As an edge thread that has not yet seen the new routes.
        agent.wake(&key(1), 5);
        agent.suspect(&old);
        let mut second = ground.slice(3, 2, &["/bin/httpd", "-f", "-p", "8080", "-h", "/etc"]);
        second.releases[0].min = 1;
        second.releases.push(slice.releases[0].clone());
        ground.apply(&second).await;
        assert_eq!(ground.admitted(1).await[0].release, key(2));
        agent.wake(&key(1), 5);
        ground.standing(2, |standing| standing.ready == 1).await;
        let starts = ground.events().into_iter().filter(|event| event.kind == "instance_starting");
        assert_eq!(starts.filter(|event| event.release == Some(1)).count(), 1);
        agent.stop(true).await;
    });
}

#[test]
fn a_check_that_hangs_holds_no_order_up() {
    run(async |ground| {
        let agent = ground.agent().await;
        let script =
            "trap 'kill -STOP $p' USR1; httpd -f -p 8080 -h /www & p=$!; while :; do sleep 0.02; done";
        let mut slice = ground.slice(1, 1, &["/bin/sh", "-c", script]);
        slice.releases[0].min = 1;
        slice.health = Some(Health { path: "/index.html".to_owned(), every: Duration::from_secs(5) });
        ground.apply(&slice).await;
        let old = ground.admitted(1).await.remove(0);
        let pid = instance(&agent, InstanceState::Ready).await.unwrap().pid.unwrap();
        kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::USR1).unwrap();
        // Looked at again and again until a look's connection stands open: it waits for its answer.
        let [a, b, c, d] = old.address.octets();
        let remote = format!("{d:02X}{c:02X}{b:02X}{a:02X}:1F90 01");
        let hangs = async || {
            agent.suspect(&old.instance);
            let open = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
            open.contains(&remote).then_some(())
        };
        ground.until("asked", hangs).await;
        let begun = tokio::time::Instant::now();
        slice.generation = Generation(2);
        (slice.releases[0].min, slice.releases[0].max) = (0, 0);
        ground.apply(&slice).await;
        let out =
            async || ground.edge.seen().told.contains(&format!("withdraw {}", old.instance)).then_some(());
        ground.until("withdrawn", out).await;
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        agent.stop(false).await;
    });
}
