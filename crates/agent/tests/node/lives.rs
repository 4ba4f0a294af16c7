//! From a wake to an answer, and to nothing again.

use std::time::Duration;

use minato_model::{
    ids::Generation,
    inventory::{InstanceState, Preparation},
    manifest::Health,
    node::{LogQuery, NodeView},
    routing::{Load, Wake},
};
use rustix::process::{Pid, Signal, kill_process};

use crate::ground::{get, instance, key, run};

#[test]
fn a_wake_starts_and_idleness_stops() {
    run(async |ground| {
        let agent = ground.agent().await;
        let mut slice = ground.slice(1, 1, &[]);
        slice.idle = Duration::from_millis(300);
        ground.apply(&slice).await;
        ground.standing(1, |standing| standing.preparation == Preparation::Prepared).await;
        assert_eq!(ground.edge.seen().table.services.len(), 1);
        assert!(agent.instances().await.is_empty());

        // However often it is asked, one is started.
        (0..10).for_each(|_| agent.wake(&key(1), 1));
        let endpoint = ground.admitted(1).await.remove(0);
        assert!(get(&endpoint, "/index.html").await.ends_with("hello from the cart\n"));
        let phases = endpoint.cold.unwrap();
        let order = [phases.taken, phases.mounted, phases.executed, phases.listening].map(Option::unwrap);
        assert!(order.is_sorted(), "{order:?}");
        let seen = instance(&agent, InstanceState::Ready).await.unwrap();
        assert_eq!((&seen.id, seen.address), (&endpoint.instance, Some(endpoint.address)));
        let life = agent.life(&seen.id).await.unwrap();
        assert_eq!((life.asked_by.as_str(), life.phases), ("request", phases));
        assert!(agent.metrics().contains("minato_instances{state=\"ready\"} 1"));

        // Nobody asks any more.
        ground.standing(1, |standing| standing.running == 0 && standing.failing.is_none()).await;
        ground.forgotten().await;
        let told: Vec<String> =
            ground.edge.seen().told.iter().map(|told| told.split(' ').next().unwrap().to_owned()).collect();
        assert_eq!(told, ["introduce", "admit", "withdraw", "quiet", "forget"]);
        let kinds = ground.kinds(&seen.id);
        let wanted = ["instance_starting", "instance_ready", "instance_draining", "instance_stopped"];
        assert_eq!(kinds, wanted);
        assert!(ground.events().iter().any(|event| event.kind == "scale_to_zero"));
        let stopped = agent.life(&seen.id).await.unwrap();
        assert_eq!(stopped.instance.state, InstanceState::Stopped);
        agent.stop(true).await;
    });
}

#[test]
fn the_load_scales_within_the_envelope() {
    run(async |ground| {
        let agent = ground.agent().await;
        let slice = ground.slice(1, 1, &[]);
        ground.apply(&slice).await;
        let load = Load { in_flight: 0, waiting: 95, peak: 95, idle: Some(Duration::ZERO) };
        ground.edge.seen().load.insert(key(1), load);
        // Ten are needed, three allowed; prepared first, then started without being woken again.
        ground.admitted(3).await;
        let report = ground.standing(1, |standing| standing.ready == 3).await;
        assert_eq!(report.running, 3);
        agent.stop(true).await;
        assert!(ground.edge.seen().introduced.is_empty());
    });
}

#[test]
fn a_release_is_warmed_then_takes_over() {
    run(async |ground| {
        let agent = ground.agent().await;
        let mut slice = ground.slice(1, 1, &[]);
        slice.releases[0].min = 1;
        ground.apply(&slice).await;
        let old = ground.admitted(1).await.remove(0);

        let mut second = ground.slice(2, 2, &["/bin/httpd", "-f", "-p", "8080", "-h", "/etc"]);
        second.releases[0].min = 1;
        second.releases[0].weight = 0;
        second.releases.insert(0, slice.releases[0].clone());
        ground.apply(&second).await;
        ground.standing(2, |standing| standing.ready == 1).await;
        assert!(ground.edge.seen().admitted.contains_key(&old.instance));
        assert_eq!(ground.edge.seen().table.services[0].weights.len(), 1);

        second.generation = Generation(3);
        (second.releases[0].weight, second.releases[0].min, second.releases[0].max) = (0, 0, 0);
        second.releases[1].weight = 1;
        ground.apply(&second).await;
        ground.standing(1, |standing| standing.running == 0).await;
        let new = ground.admitted(1).await.remove(0);
        assert_eq!(new.release, key(2));

        // A slice that is older than what is in force changes nothing, one that goes ends it all.
        ground.apply(&slice).await;
        let gone = minato_model::keys::slice(&ground.node(), &slice.service);
        let delete = minato_state::Write::Delete { key: gone };
        minato_state::State::commit(&*ground.state, Vec::new(), vec![delete]).await.unwrap();
        ground.forgotten().await;
        ground.until("report gone", async || ground.report().await.is_none().then_some(())).await;
        assert_eq!(ground.kinds(&old.instance).len(), 4, "never started again");
        agent.stop(true).await;
    });
}

#[test]
fn what_instances_write_is_read() {
    run(async |ground| {
        let agent = ground.agent().await;
        let script = "env; echo oops >&2; exec httpd -f -p $PORT -h /www";
        let mut slice = ground.slice(1, 1, &["/bin/sh", "-c", script]);
        slice.releases[0].min = 1;
        ground.apply(&slice).await;
        let endpoint = ground.admitted(1).await.remove(0);
        let id = format!("MINATO_INSTANCE={}", endpoint.instance);
        let wanted = [
            "PORT=8080",
            "MINATO_APP=shop",
            "MINATO_SERVICE=cart",
            "MINATO_RELEASE=1",
            &id,
            "LOG=info",
            "HOME=/",
            "oops",
        ];
        let service = key(1).service;
        let query = LogQuery { service, release: None, instance: None, after: None, limit: 100 };
        let all = async || {
            let lines = agent.logs(query.clone()).await;
            wanted.iter().all(|text| lines.iter().any(|line| line.text == *text)).then_some(())
        };
        ground.until("written", all).await;
        agent.stop(true).await;
    });
}

#[test]
fn who_is_not_well_leaves_routing_and_comes_back() {
    run(async |ground| {
        let agent = ground.agent().await;
        let script = "cd /var/cache; echo ok > ok; trap 'rm ok' USR1; trap 'echo ok > ok' USR2; \
                      httpd -p 8080 -h .; while :; do sleep 0.02; done";
        let mut slice = ground.slice(1, 1, &["/bin/sh", "-c", script]);
        slice.releases[0].min = 1;
        slice.releases[0].max = 1;
        slice.health = Some(Health { path: "/ok".to_owned(), every: Duration::from_millis(50) });
        ground.apply(&slice).await;
        let endpoint = ground.admitted(1).await.remove(0);
        let pid = instance(&agent, InstanceState::Ready).await.unwrap().pid.unwrap();
        let tell = |signal| kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
        tell(Signal::USR1);
        let out = async || (!ground.edge.seen().admitted.contains_key(&endpoint.instance)).then_some(());
        ground.until("withdrawn", out).await;
        tell(Signal::USR2);
        let back = async || ground.edge.seen().admitted.get(&endpoint.instance).cloned();
        assert_eq!(ground.until("admitted again", back).await.cold, None);
        let kinds = ground.kinds(&endpoint.instance);
        let wanted = ["instance_starting", "instance_ready", "instance_unhealthy", "instance_healthy"];
        assert_eq!(kinds[..4], wanted);
        agent.stop(true).await;
    });
}

#[test]
fn a_hurried_stop_waits_for_nobody() {
    run(async |ground| {
        let agent = ground.agent().await;
        let mut slice = ground.slice(
            1,
            1,
            &["/bin/sh", "-c", "trap '' TERM; httpd -p 8080 -h /www; while :; do sleep 1; done"],
        );
        (slice.releases[0].min, slice.releases[0].max) = (2, 2);
        ground.apply(&slice).await;
        let endpoints = ground.admitted(2).await;
        let begun = tokio::time::Instant::now();
        agent.stop(false).await;
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
        let life = agent.life(&endpoints[0].instance).await.unwrap();
        assert_eq!(
            (life.instance.state, life.end.as_deref()),
            (InstanceState::Stopped, Some("signal 9 ended it"))
        );
        let report = ground.report().await.unwrap();
        assert_eq!(report.releases[0].running, 0);
    });
}

#[test]
fn who_is_suspected_is_looked_at_closely() {
    run(async |ground| {
        let agent = ground.agent().await;
        let script = "trap 'kill $p' USR1; httpd -f -p 8080 -h /www & p=$!; while :; do sleep 0.02; done";
        let mut slice = ground.slice(1, 1, &["/bin/sh", "-c", script]);
        slice.releases[0].min = 1;
        ground.apply(&slice).await;
        let endpoint = ground.admitted(1).await.remove(0);
        let pid = instance(&agent, InstanceState::Ready).await.unwrap().pid.unwrap();
        kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::USR1).unwrap();
        // As an edge does at each connection that is refused.
        let out = async || {
            agent.suspect(&endpoint.instance);
            (!ground.edge.seen().admitted.contains_key(&endpoint.instance)).then_some(())
        };
        ground.until("withdrawn", out).await;
        let events = ground.events();
        let found = events.iter().find(|event| event.kind == "instance_unhealthy").unwrap();
        assert_eq!(found.reason, "it doesn't listen on port 8080 any more");
        // Another one serves meanwhile.
        ground.admitted(1).await;
        agent.stop(true).await;
    });
}
