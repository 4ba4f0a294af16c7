use minato_model::{
    inventory::{Failure, Preparation, Report},
    time::Moment,
};

use super::*;

const SCALE: Scale =
    Scale { min: 0, max: 20, concurrency: 32, concurrency_max: 128, idle: Duration::from_secs(60) };
const LIMITS: Limits = Limits { min: 0, drain: Duration::from_secs(30), deadline: Duration::from_secs(3600) };
const NO_TIME: Duration = Duration::ZERO;

fn standing(ready: u32, running: u32) -> Standing {
    Standing { ready, running, prepared: 1, ..Standing::default() }
}

fn seen(releases: &[(u32, Standing)]) -> Seen {
    Seen { in_force: true, releases: releases.iter().cloned().collect() }
}

fn failing(code: Code, in_a_row: u32, instance: &str) -> Standing {
    let failing = Failure {
        instance: instance.parse().unwrap(),
        code,
        reason: "it ended".to_owned(),
        at: Moment(0),
        in_a_row,
        next: None,
    };
    Standing { failing: Some(failing), ..standing(0, 0) }
}

fn stable_one() -> Rollout {
    let first = Rollout::begin(1, None, 0, BTreeSet::new(), "first");
    go(&first, &seen(&[(1, standing(0, 0))]))
}

fn second(ready: u32) -> Rollout {
    Rollout::begin(2, Some(&stable_one()), ready, BTreeSet::new(), "second")
}

#[track_caller]
fn go(rollout: &Rollout, seen: &Seen) -> Rollout {
    match step(rollout, seen, &LIMITS, NO_TIME) {
        Step::Move(next) => next,
        Step::Wait { why } => panic!("{:?} waits: {why}", rollout.phase),
    }
}

#[track_caller]
fn wait(rollout: &Rollout, seen: &Seen) -> String {
    match step(rollout, seen, &LIMITS, NO_TIME) {
        Step::Wait { why } => why,
        Step::Move(next) => panic!("{:?} moves to {:?}", rollout.phase, next.phase),
    }
}

/// `number: weight min-max` of each part.
fn parts(rollout: &Rollout) -> Vec<String> {
    let parts = rollout.parts(&SCALE);
    parts.iter().map(|part| format!("{}: {} {}-{}", part.number, part.weight, part.min, part.max)).collect()
}

#[test]
fn a_first_release_takes_everything_at_once_and_is_stable_when_prepared() {
    let first = Rollout::begin(1, None, 0, BTreeSet::new(), "first");
    assert_eq!(parts(&first), ["1: 1 0-20"]);
    let preparing = Standing { preparing: 1, ..Standing::default() };
    assert_eq!(wait(&first, &seen(&[(1, preparing)])), "its image is being prepared");
    let stable = go(&first, &seen(&[(1, standing(0, 0))]));
    assert_eq!((stable.phase.clone(), stable.serving), (Phase::Stable, Some(1)));
    assert_eq!(parts(&stable), ["1: 1 0-20"]);

    let two = Limits { min: 2, ..LIMITS };
    let step_two = |ready| step(&first, &seen(&[(1, standing(ready, 2))]), &two, NO_TIME);
    assert!(matches!(step_two(1), Step::Wait { .. }));
    assert!(matches!(step_two(2), Step::Move(Rollout { phase: Phase::Stable, .. })));
}

#[test]
fn nothing_is_stopped_before_its_requests_have_moved() {
    let mut at = second(3);
    assert_eq!(parts(&at), ["1: 3 0-20", "2: 0 1-20"]);
    wait(&at, &seen(&[(1, standing(3, 3))]));
    let unconfirmed = Seen { in_force: false, ..seen(&[(2, standing(1, 1))]) };
    assert_eq!(wait(&at, &unconfirmed), "not every node has confirmed what it was told");
    for (ready, shifting, draining) in [
        (1, ["1: 2 0-20", "2: 1 1-20"], ["1: 2 0-2", "2: 1 1-20"]),
        (2, ["1: 1 0-20", "2: 2 2-20"], ["1: 1 0-1", "2: 2 2-20"]),
        (3, ["1: 0 0-20", "2: 3 3-20"], ["1: 0 0-0", "2: 3 3-20"]),
    ] {
        let there = seen(&[(1, standing(4 - ready, 4 - ready)), (2, standing(ready, ready))]);
        at = go(&at, &there);
        assert_eq!(parts(&at), shifting);
        wait_unconfirmed(&at, &there);
        at = go(&at, &there);
        assert_eq!(parts(&at), draining);
        wait(&at, &there);
        if ready < 3 {
            at = go(&at, &seen(&[(1, standing(3 - ready, 4)), (2, standing(ready, ready))]));
        }
    }
    at = go(&at, &seen(&[(1, standing(0, 0)), (2, standing(3, 3))]));
    assert_eq!((at.phase.clone(), at.serving), (Phase::Stable, Some(2)));
    assert_eq!(parts(&at), ["1: 0 0-0", "2: 1 0-20"]);
    at = go(&at, &seen(&[(2, standing(3, 3))]));
    assert_eq!(parts(&at), ["2: 1 0-20"]);
    assert_eq!(wait(&at, &seen(&[(2, standing(3, 3))])), "stable");
}

#[track_caller]
fn wait_unconfirmed(rollout: &Rollout, seen: &Seen) {
    wait(rollout, &Seen { in_force: false, ..seen.clone() });
}

#[test]
fn a_tenth_at_a_time() {
    let batches = |ready| {
        let rollout = second(ready);
        (1..).map(|batch| rollout.moved(batch)).take_while(|moved| *moved < rollout.size).count() + 1
    };
    assert_eq!([0, 1, 3, 10, 15, 20, 95].map(batches), [1, 1, 3, 10, 15, 10, 11]);
}

#[test]
fn what_grew_since_the_beginning_loses_only_its_part() {
    let shifting = go(&second(10), &seen(&[(1, standing(10, 10)), (2, standing(1, 1))]));
    let draining = go(&shifting, &seen(&[(1, standing(20, 20)), (2, standing(1, 1))]));
    assert_eq!(draining.phase, Phase::Draining { batch: 1, keep: 18 });
}

#[test]
fn streams_that_outlast_the_drain_do_not_hold_the_release() {
    let mut at = go(&second(0), &seen(&[(2, standing(1, 1))]));
    let both = seen(&[(1, standing(0, 1)), (2, standing(1, 1))]);
    at = go(&at, &both);
    wait(&at, &both);
    let Step::Move(stable) = step(&at, &both, &LIMITS, Duration::from_secs(43)) else { panic!() };
    assert_eq!(stable.phase, Phase::Stable);
    assert_eq!(parts(&stable), ["1: 0 0-0", "2: 1 0-20"]);
    // And no deadline takes a release back that has every request.
    let late = Limits { deadline: Duration::from_secs(1), ..LIMITS };
    assert!(matches!(step(&at, &both, &late, Duration::from_secs(9)), Step::Wait { .. }));
}

#[test]
fn what_cannot_start_is_taken_back() {
    let begun = second(3);
    let with = |standing: Standing| seen(&[(1, super::tests::standing(3, 3)), (2, standing)]);
    wait(&begun, &with(failing(Code::Exited, 2, "i1")));
    let failed = go(&begun, &with(failing(Code::Exited, 3, "i1")));
    assert_eq!(failed.reason, "3 starts failed in a row; the last: it ended");
    assert_eq!(failed.in_service(), Some(1));
    assert_eq!(parts(&failed), ["1: 1 0-20", "2: 0 0-0"]);
    let gone = go(&failed, &seen(&[(1, standing(3, 3))]));
    assert_eq!(parts(&gone), ["1: 1 0-20"]);
    wait(&gone, &seen(&[(1, standing(3, 3))]));

    let unprepared =
        Standing { unprepared: Some((Code::ImageRefused, "a device".to_owned())), ..standing(0, 0) };
    let failed = go(&begun, &with(unprepared));
    assert_eq!(failed.phase, Phase::Failed { code: Some(Code::ImageRefused), instance: None });
    // A full disk is the node's fault.
    wait(&begun, &with(failing(Code::DiskFull, 9, "i1")));
    let unprepared = Standing { unprepared: Some((Code::DiskFull, "full".to_owned())), ..standing(0, 0) };
    wait(&begun, &with(unprepared));
}

#[test]
fn a_fault_of_a_node_takes_nothing_back_and_hides_nothing() {
    let report = |code, in_a_row| {
        let Standing { failing: Some(failing), .. } = failing(code, in_a_row, "i1") else { panic!() };
        let preparation = Preparation::Failed { code, reason: "so".to_owned() };
        let standing = minato_model::inventory::Standing {
            number: 2,
            preparation,
            ready: 0,
            running: 0,
            failing: Some(failing),
        };
        let service = "shop/cart".parse().unwrap();
        Report { service, generation: minato_model::ids::Generation(1), releases: vec![standing] }
    };
    let seen = |reports: &[Report]| Seen::collect(true, reports);
    let (node, own) = (report(Code::NodeFault, 9), report(Code::Exited, 3));
    wait(&second(3), &seen(std::slice::from_ref(&node)));
    for reports in [[node.clone(), own.clone()], [own, node]] {
        let seen = seen(&reports);
        assert_eq!(seen.of(2).failing.unwrap().code, Code::Exited);
        assert_eq!(seen.of(2).unprepared.unwrap().0, Code::Exited);
    }
}

#[test]
fn what_failed_before_is_not_blamed_again_until_it_fails_again() {
    let known = BTreeSet::from(["i1".parse().unwrap()]);
    let again = Rollout::begin(2, Some(&stable_one()), 0, known, "again");
    wait(&again, &seen(&[(2, failing(Code::Exited, 3, "i1"))]));
    go(&again, &seen(&[(2, failing(Code::Exited, 4, "i2"))]));
}

#[test]
fn the_deadline_counts_what_has_passed() {
    let mut begun = second(1);
    let nothing = Seen::default();
    begun.elapsed = Duration::from_secs(3599);
    assert!(matches!(step(&begun, &nothing, &LIMITS, Duration::from_secs(1)), Step::Wait { .. }));
    let Step::Move(failed) = step(&begun, &nothing, &LIMITS, Duration::from_secs(2)) else { panic!() };
    assert_eq!(failed.phase, Phase::Failed { code: None, instance: None });
    assert_eq!(failed.reason, "it wasn't stable within its deadline of 3600 s");
}

#[test]
fn a_first_release_that_fails_stays_in_force_and_may_recover_or_be_replaced() {
    let first = Rollout::begin(1, None, 0, BTreeSet::new(), "first");
    let failed = go(&first, &seen(&[(1, failing(Code::Exited, 3, "i1"))]));
    assert_eq!(parts(&failed), ["1: 1 0-20"]);
    wait(&failed, &seen(&[(1, failing(Code::Exited, 4, "i2"))]));
    assert_eq!(go(&failed, &seen(&[(1, standing(1, 1))])).phase, Phase::Stable);
    let next = Rollout::begin(2, Some(&failed), 0, BTreeSet::new(), "next");
    assert_eq!(
        (next.phase.clone(), parts(&next)),
        (Phase::Starting, vec!["1: 0 0-0".to_owned(), "2: 1 0-20".to_owned()])
    );
}

#[test]
fn going_back_to_what_serves_is_stable_at_once() {
    let failed = go(&second(3), &seen(&[(2, failing(Code::Exited, 3, "i1"))]));
    let back = Rollout::begin(1, Some(&failed), 3, BTreeSet::new(), "back");
    assert_eq!(
        (back.phase.clone(), parts(&back)),
        (Phase::Stable, vec!["1: 1 0-20".to_owned(), "2: 0 0-0".to_owned()])
    );
}

/// Whatever is reported, some release has weight, and what has weight may have instances.
#[test]
fn every_phase_can_carry_the_requests() {
    let mut seed = 7u64;
    let mut random = |below: u32| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(seed >> 33).unwrap() % below
    };
    for _ in 0..300 {
        let mut at = second(random(25));
        for _ in 0..1000 {
            let mut releases =
                vec![(1, standing(random(25), random(25))), (2, standing(random(25), random(25)))];
            if random(40) == 0 {
                releases[1].1 = failing(Code::Exited, random(5), "i1");
            }
            let seen = Seen { in_force: random(4) > 0, releases: releases.into_iter().collect() };
            if let Step::Move(next) = step(&at, &seen, &LIMITS, Duration::from_secs(u64::from(random(20)))) {
                at = next;
            }
            let parts = at.parts(&SCALE);
            assert!(parts.iter().any(|part| part.weight > 0), "{at:?}");
            assert!(
                parts.iter().all(|part| (part.weight == 0 || part.max > 0) && part.min <= part.max),
                "{at:?}: {parts:?}"
            );
        }
        assert!(!at.under_way(), "{at:?}");
    }
}
