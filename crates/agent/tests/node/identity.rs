//! The certificates of instances: issued with each start, known to the next server, replaced in time.

use std::{
    process::{Command, Stdio},
    sync::atomic::Ordering,
    time::Duration,
};

use minato_agent::Agent;
use minato_identity::{SpiffeId, inspect, verify};
use minato_model::{
    ids::{Generation, InstanceId},
    inventory::{Identity, Standing},
    node::NodeView,
    route::Endpoint,
    slice::Slice,
    time::Moment,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::ground::{Ground, get, key, run};

const HOUR: i64 = 3_600_000;

/// A service of exactly one instance, which shows whoever asks what is in its folder.
fn one(ground: &Ground) -> Slice {
    let command = ["/bin/httpd", "-f", "-p", "8080", "-h", "/run/minato/identity"];
    let mut slice = ground.slice(1, 1, &command);
    (slice.releases[0].min, slice.releases[0].max) = (1, 1);
    slice
}

async fn identity(agent: &Agent, id: &InstanceId) -> Identity {
    agent.life(id).await.unwrap().instance.identity.unwrap()
}

async fn certificates(endpoint: &Endpoint, file: &str) -> Vec<CertificateDer<'static>> {
    let text = get(endpoint, file).await;
    CertificateDer::pem_slice_iter(text.as_bytes()).map(Result::unwrap).collect()
}

/// Waits until another one than `old` is routed to, and `old` is gone.
async fn replaced(ground: &Ground, old: &InstanceId) -> Endpoint {
    let other = async || {
        let seen = ground.edge.seen();
        let gone = !seen.introduced.contains_key(old);
        seen.admitted.values().find(|endpoint| gone && endpoint.instance != *old).cloned()
    };
    ground.until("replaced", other).await
}

/// The replacement took requests before the old one stopped taking them.
fn without_a_gap(ground: &Ground, old: &InstanceId, new: &InstanceId) {
    let told = ground.edge.seen().told.clone();
    let at = |told_of: String| told.iter().position(|told| *told == told_of).unwrap();
    assert!(at(format!("admit {new}")) < at(format!("withdraw {old}")), "{told:?}");
    let events = ground.events();
    let rehearsal = events.iter().find(|event| event.kind == "rehearsal").unwrap();
    assert_eq!((rehearsal.instance.as_ref(), &rehearsal.data["why"]), (Some(old), &"identity".into()));
}

#[test]
fn an_instance_finds_who_it_is_and_a_server_after_this_one_knows() {
    run(async |ground| {
        let agent = ground.agent().await;
        ground.apply(&one(&ground)).await;
        let endpoint = ground.admitted(1).await.remove(0);
        let chain = certificates(&endpoint, "/tls.crt").await;
        assert_eq!(chain.len(), 2);
        let cluster = ground.authority.cluster().to_owned();
        let instance = endpoint.instance.clone();
        let id = SpiffeId::Instance { cluster, service: key(1).service, instance: instance.clone() };
        assert_eq!(verify::spiffe_of(&chain[0]), Some(id));
        let bundle = ground.authority.bundle();
        assert_eq!(certificates(&endpoint, "/ca.crt").await, bundle.roots);
        assert!(get(&endpoint, "/tls.key").await.contains("-----BEGIN PRIVATE KEY-----"));
        let validity = inspect::validity(&chain[0]).unwrap();
        let known = identity(&agent, &instance).await;
        assert_eq!(known.not_after, validity.not_after);
        // Both ends are whole seconds.
        let life = validity.not_after.since(validity.not_before).as_secs();
        assert!((25 * 3_600..=25 * 3_600 + 1).contains(&life), "{life}");
        agent.leave().await;
        drop(agent);
        let agent = ground.agent().await;
        ground.admitted(1).await;
        assert_eq!(identity(&agent, &instance).await, known);
        // That one replaces it too, when its time has come.
        ground.ahead.store(17 * HOUR, Ordering::Relaxed);
        let new = replaced(&ground, &instance).await.instance;
        without_a_gap(&ground, &instance, &new);
        assert_ne!(identity(&agent, &new).await.serial, known.serial);
        agent.stop(true).await;
    });
}

#[test]
fn past_two_thirds_it_is_replaced_whatever_else_goes_on() {
    run(async |ground| {
        let agent = ground.agent().await;
        let mut slice = one(&ground);
        ground.apply(&slice).await;
        let old = ground.admitted(1).await.remove(0).instance;
        // A release is under way that can't start: there is no calm for routine, for as long as it lasts.
        let mut next = ground.slice(2, 2, &["/bin/missing"]).releases.remove(0);
        (next.weight, next.min) = (0, 1);
        slice.releases.push(next);
        (slice.generation, slice.recycle.age) = (Generation(2), Duration::from_secs(1));
        ground.apply(&slice).await;
        let again =
            |standing: &Standing| standing.failing.as_ref().is_some_and(|failing| failing.in_a_row > 2);
        ground.standing(2, again).await;
        assert_eq!(ground.admitted(1).await[0].instance, old);
        ground.ahead.store(16 * HOUR, Ordering::Relaxed);
        let new = replaced(&ground, &old).await.instance;
        without_a_gap(&ground, &old, &new);
        agent.stop(true).await;
    });
}

#[test]
fn days_without_the_cluster_cost_nobody_a_certificate() {
    run(async |ground| {
        let agent = ground.agent().await;
        let mut slice = one(&ground);
        ground.apply(&slice).await;
        let mut last = ground.admitted(1).await.remove(0);
        ground.away.store(true, Ordering::Relaxed);
        for day in 1..=5 {
            ground.ahead.store(day * 17 * HOUR, Ordering::Relaxed);
            let next = replaced(&ground, &last.instance).await;
            let chain = certificates(&next, "/tls.crt").await;
            let now = Moment(ground.now().0 + HOUR);
            assert!(inspect::validity(&chain[0]).unwrap().not_after > now);
            last = next;
        }
        // What was decided meanwhile is heard of when it is there again.
        slice.generation = Generation(2);
        (slice.releases[0].min, slice.releases[0].max) = (0, 0);
        ground.apply(&slice).await;
        ground.away.store(false, Ordering::Relaxed);
        ground.forgotten().await;
        agent.stop(true).await;
    });
}

#[test]
fn who_can_not_be_issued_a_certificate_is_tried_again() {
    run(async |ground| {
        let agent = ground.agent().await;
        // The intermediate has ended, and where the next one would be kept is nothing.
        let (folder, aside) = (ground.data().join("identity"), ground.data().join("aside"));
        std::fs::rename(&folder, &aside).unwrap();
        ground.ahead.store(31 * 24 * HOUR, Ordering::Relaxed);
        ground.apply(&one(&ground)).await;
        let failing = ground.standing(1, |standing| standing.failing.is_some()).await.failing.unwrap();
        assert_eq!(failing.code.to_string(), "node_fault");
        assert!(failing.reason.starts_with("it can't be issued a certificate: "), "{}", failing.reason);
        std::fs::rename(&aside, &folder).unwrap();
        let endpoint = ground.admitted(1).await.remove(0);
        assert_eq!(certificates(&endpoint, "/tls.crt").await.len(), 2);
        agent.stop(true).await;
    });
}

#[test]
fn an_older_keepers_instances_run_without_one() {
    run(async |ground| {
        let mut keeper = Command::new(env!("CARGO_BIN_EXE_minato-agent-keeper"))
            .args(["keeper".as_ref(), ground.data().as_os_str(), ground.id().as_ref()])
            .args(["--protocol", "2"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::read_to_string(keeper.stdout.take().unwrap()).unwrap();
        let agent = ground.agent().await;
        ground.apply(&one(&ground)).await;
        let endpoint = ground.admitted(1).await.remove(0);
        assert!(get(&endpoint, "/tls.crt").await.contains(" 404 "));
        let life = agent.life(&endpoint.instance).await.unwrap();
        assert_eq!(life.instance.identity, None);
        assert!(life.findings[0].starts_with("it has no certificate: the keeper is of an earlier version"));
        agent.stop(true).await;
        assert!(keeper.wait().unwrap().success());
    });
}
