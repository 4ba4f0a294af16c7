use super::*;

fn id(name: &str) -> InstanceId {
    name.parse().unwrap()
}

fn ready(name: &str, seconds: u64, in_flight: u32) -> Candidate {
    let ready = Some(Duration::from_secs(seconds));
    Candidate { id: id(name), ready, in_flight, renew: None, pressing: false, replaces: None }
}

fn starting(name: &str) -> Candidate {
    Candidate { ready: None, ..ready(name, 0, 0) }
}

fn view(min: u32, max: u32) -> View {
    View {
        envelope: Some(Envelope { min, max, weight: 1, concurrency: 10, idle: Duration::from_secs(30) }),
        load: Load::default(),
        woken: 0,
        startable: true,
        replacing: false,
        tick: true,
        calm: true,
        leaving: 0,
        ending: 0,
        instances: Vec::new(),
        unwell: Vec::new(),
    }
}

fn load(in_flight: u32, waiting: u32, peak: u32, idle: Option<u64>) -> Load {
    Load { in_flight, waiting, peak, idle: idle.map(Duration::from_secs) }
}

fn starts(view: &View) -> Option<(u32, AskedBy)> {
    decide(view).start.map(|start| (start.count, start.asked_by))
}

fn drains(view: &View) -> Vec<(String, DrainCause)> {
    decide(view).drain.into_iter().map(|(id, cause)| (id.to_string(), cause)).collect()
}

#[test]
fn nothing_runs_unless_somebody_wants_it() {
    assert_eq!(decide(&view(0, 5)), Decision::default());
}

#[test]
fn a_wake_starts_what_is_missing_within_the_envelope() {
    let mut view = view(0, 5);
    view.woken = 3;
    assert_eq!(starts(&view), Some((3, AskedBy::Request)));
    view.instances = vec![ready("a", 5, 10), starting("b")];
    assert_eq!(starts(&view), Some((1, AskedBy::Request)));
    view.woken = 50;
    assert_eq!(starts(&view), Some((3, AskedBy::Request)));
    view.startable = false;
    assert_eq!(decide(&view), Decision::default());
}

#[test]
fn the_load_asks_as_a_wake_does() {
    let mut view = view(0, 5);
    view.load = load(10, 11, 21, Some(0));
    view.instances = vec![ready("a", 5, 10)];
    assert_eq!(starts(&view), Some((2, AskedBy::Request)));
    view.replacing = true;
    assert_eq!(starts(&view), Some((2, AskedBy::Replacement)));
}

#[test]
fn the_minimum_is_kept_and_warmed() {
    let mut view = view(2, 5);
    view.instances = vec![ready("a", 5, 0)];
    assert_eq!(starts(&view), Some((1, AskedBy::Minimum)));
    view.envelope.as_mut().unwrap().weight = 0;
    assert_eq!(starts(&view), Some((1, AskedBy::Rollout)));
    view.replacing = true;
    assert_eq!(starts(&view), Some((1, AskedBy::Replacement)));
}

#[test]
fn a_retired_release_drains_whole() {
    let mut view = view(0, 0);
    view.load = load(5, 5, 10, Some(0));
    view.instances = vec![ready("a", 5, 5), starting("b")];
    let all = [("a".to_owned(), DrainCause::Retired), ("b".to_owned(), DrainCause::Retired)];
    assert_eq!((starts(&view), drains(&view)), (None, all.to_vec()));
    view.envelope = None;
    assert_eq!((starts(&view), drains(&view)), (None, all.to_vec()));
}

#[test]
fn a_lower_max_takes_the_least_used() {
    let mut view = view(0, 1);
    view.load = load(30, 0, 30, Some(0));
    view.instances = vec![ready("a", 9, 2), ready("b", 5, 20), starting("c")];
    view.tick = false;
    assert_eq!(drains(&view), [("c".to_owned(), DrainCause::OverMax), ("a".to_owned(), DrainCause::OverMax)]);
}

#[test]
fn idle_goes_to_the_minimum_at_once() {
    let mut view = view(1, 5);
    view.load = load(0, 0, 0, Some(30));
    view.instances = vec![ready("a", 40, 0), ready("b", 90, 0), ready("c", 50, 0)];
    assert_eq!(drains(&view), [("b".to_owned(), DrainCause::Idle), ("c".to_owned(), DrainCause::Idle)]);
    view.tick = false;
    assert_eq!(drains(&view), []);
    view.tick = true;
    view.load.idle = Some(Duration::from_secs(29));
    view.load.peak = 30;
    assert_eq!(drains(&view), []);
}

#[test]
fn an_instance_that_was_never_asked_has_its_idle_time_too() {
    let mut view = view(0, 5);
    view.instances = vec![ready("a", 29, 0)];
    assert_eq!(drains(&view), []);
    view.instances = vec![ready("a", 30, 0)];
    assert_eq!(drains(&view), [("a".to_owned(), DrainCause::Idle)]);
    // Asked long ago, started anew for a warm-up just now.
    view.load = load(0, 0, 0, Some(500));
    view.instances = vec![ready("a", 3, 0)];
    assert_eq!(drains(&view), []);
}

#[test]
fn scaling_in_goes_one_by_one_by_the_peak() {
    let mut view = view(0, 9);
    view.load = load(3, 0, 11, Some(0));
    view.instances = vec![ready("a", 90, 1), ready("b", 80, 0), ready("c", 70, 2)];
    assert_eq!(drains(&view), [("b".to_owned(), DrainCause::ScaleIn)]);
    view.instances.remove(1);
    assert_eq!(drains(&view), []);
    view.instances.push(starting("d"));
    assert_eq!(drains(&view), []);
    view.load.peak = 1;
    view.instances = vec![ready("a", 90, 1), ready("b", 20, 0)];
    assert_eq!(drains(&view), [], "not yet measured for long enough");
}

fn worn(name: &str, seconds: u64, why: Why) -> Candidate {
    Candidate { renew: Some(why), ..ready(name, seconds, 0) }
}

fn in_place_of(old: &str, why: Why, candidate: Candidate) -> Candidate {
    Candidate { replaces: Some((id(old), why)), ..candidate }
}

fn renewals(view: &View) -> Vec<(String, AskedBy)> {
    decide(view).renew.iter().map(|renewal| (renewal.old.to_string(), renewal.asked_by())).collect()
}

/// As many as these, with nothing in flight and none idle for too long.
fn busy(number: u32) -> View {
    let mut view = view(0, number);
    let all = number * 10;
    view.load = load(all, 0, all, Some(0));
    view.instances = (0..number).map(|n| ready(&format!("a{n}"), 1_000 - u64::from(n), 10)).collect();
    view
}

#[test]
fn routine_starts_the_replacement_first_and_one_at_a_time() {
    let mut view = busy(3);
    view.instances[1].renew = Some(Why::Requests);
    view.instances[2].renew = Some(Why::Age);
    assert_eq!(renewals(&view), [("a1".to_owned(), AskedBy::Recycle)]);
    assert_eq!((drains(&view), starts(&view)), (vec![], None));
    // While it starts, over `max`, nobody else begins.
    view.instances.push(in_place_of("a1", Why::Requests, starting("b")));
    assert_eq!((renewals(&view), drains(&view), starts(&view)), (vec![], vec![], None));
    view.instances[3].ready = Some(Duration::ZERO);
    assert_eq!(drains(&view), [("a1".to_owned(), DrainCause::Renewed(Why::Requests))]);
    // The next one when that one has finished.
    view.instances.remove(1);
    view.leaving = 1;
    assert_eq!(renewals(&view), []);
    view.leaving = 0;
    assert_eq!(renewals(&view), [("a2".to_owned(), AskedBy::Recycle)]);
}

#[test]
fn routine_waits_for_a_good_moment_and_repair_does_not() {
    let mut view = busy(3);
    view.instances[1].renew = Some(Why::Memory);
    view.calm = false;
    assert_eq!(renewals(&view), []);
    view.instances[1].renew = Some(Why::Drifted);
    assert_eq!(renewals(&view), [("a1".to_owned(), AskedBy::Replacement)]);
    assert_eq!(drains(&view), [("a1".to_owned(), DrainCause::Renewed(Why::Drifted))]);
    view.startable = false;
    assert_eq!((renewals(&view), drains(&view)), (vec![], vec![]));
    view.startable = true;
    view.tick = false;
    assert_eq!((renewals(&view), drains(&view)), (vec![], vec![]));
}

#[test]
fn the_last_one_that_serves_stays_until_its_replacement_does() {
    let mut view = view(1, 1);
    view.instances = vec![worn("a", 90, Why::Stuck)];
    assert_eq!(renewals(&view), [("a".to_owned(), AskedBy::Replacement)]);
    assert_eq!(drains(&view), []);
    view.instances.push(in_place_of("a", Why::Stuck, starting("b")));
    assert_eq!((renewals(&view), drains(&view)), (vec![], vec![]));
    view.instances[1].ready = Some(Duration::ZERO);
    assert_eq!(drains(&view), [("a".to_owned(), DrainCause::Renewed(Why::Stuck))]);
    view.instances.remove(0);
    assert_eq!((drains(&view), starts(&view)), (vec![], None));
}

#[test]
fn a_tenth_is_renewed_at_once() {
    let mut view = busy(25);
    view.instances.iter_mut().for_each(|candidate| candidate.renew = Some(Why::Age));
    assert_eq!(renewals(&view).len(), 2);
    view.instances.iter_mut().for_each(|candidate| candidate.renew = Some(Why::Drifted));
    assert_eq!((renewals(&view).len(), drains(&view).len()), (2, 2));
    let mut few = busy(2);
    few.instances.iter_mut().for_each(|candidate| candidate.renew = Some(Why::Drifted));
    assert_eq!((renewals(&few).len(), drains(&few).len()), (1, 1));
}

#[test]
fn an_identity_is_renewed_whatever_else_goes_on_and_never_at_the_cost_of_who_serves() {
    let mut view = busy(1);
    view.instances[0].renew = Some(Why::Identity);
    // A roll-out, a failure, a sibling that is started because the load asks for it.
    view.calm = false;
    view.load.waiting = 5;
    view.envelope.as_mut().unwrap().max = 2;
    assert_eq!(starts(&view), Some((1, AskedBy::Request)));
    assert_eq!((renewals(&view), drains(&view)), (vec![("a0".to_owned(), AskedBy::Recycle)], vec![]));
    view.instances.push(in_place_of("a0", Why::Identity, starting("b")));
    assert_eq!((renewals(&view), drains(&view)), (vec![], vec![]));
    view.instances[1].ready = Some(Duration::ZERO);
    assert_eq!(drains(&view), [("a0".to_owned(), DrainCause::Renewed(Why::Identity))]);
    // Who goes anyway needs no replacement.
    let mut many = busy(3);
    many.instances.iter_mut().for_each(|candidate| candidate.renew = Some(Why::Identity));
    many.envelope.as_mut().unwrap().max = 1;
    assert_eq!((renewals(&many).len(), drains(&many).len()), (1, 2));
    many.startable = false;
    assert_eq!(renewals(&many), []);
}

#[test]
fn when_an_identity_presses_half_are_renewed_at_once() {
    let mut view = busy(20);
    view.instances.iter_mut().for_each(|candidate| candidate.renew = Some(Why::Identity));
    assert_eq!(renewals(&view).len(), 2);
    view.leaving = 2;
    assert_eq!(renewals(&view).len(), 0);
    view.instances.iter_mut().skip(4).for_each(|candidate| candidate.pressing = true);
    let chosen = renewals(&view);
    assert_eq!((chosen.len(), chosen[0].0.as_str()), (10, "a4"));
    view.instances.extend((4..12).map(|n| in_place_of(&format!("a{n}"), Why::Identity, starting("b"))));
    assert_eq!(renewals(&view).len(), 2);
}

#[test]
fn a_replacement_that_fails_is_tried_again_only_while_it_is_due() {
    let mut view = busy(2);
    view.instances[0].renew = Some(Why::Age);
    assert_eq!(renewals(&view).len(), 1);
    view.calm = false;
    assert_eq!(renewals(&view), []);
    // The old one ended first: its replacement is one as any other.
    view.instances.remove(0);
    view.instances.push(in_place_of("a0", Why::Age, starting("b")));
    assert_eq!((starts(&view), drains(&view)), (None, vec![]));
}

#[test]
fn who_goes_for_want_of_load_takes_its_replacement_along() {
    let mut view = view(0, 5);
    view.load = load(0, 0, 0, Some(30));
    view.instances = vec![worn("a", 90, Why::Age)];
    assert_eq!((renewals(&view), drains(&view)), (vec![], vec![("a".to_owned(), DrainCause::Idle)]));
    // A replacement doesn't make the service less idle.
    view.instances = vec![in_place_of("gone", Why::Age, ready("b", 1, 0))];
    assert_eq!(drains(&view), [("b".to_owned(), DrainCause::Idle)]);
    view.instances = vec![ready("a", 90, 0), in_place_of("a", Why::Age, starting("b"))];
    view.envelope.as_mut().unwrap().max = 1;
    view.instances.push(ready("c", 80, 5));
    let both = [("a".to_owned(), DrainCause::OverMax), ("b".to_owned(), DrainCause::OverMax)];
    assert_eq!(drains(&view), both);
}

fn unwell(name: &str, seconds: u64, why: Why) -> Unwell {
    Unwell { id: id(name), since: Duration::from_secs(seconds), why }
}

#[test]
fn who_stays_out_of_routing_goes_a_tenth_at_a_time() {
    let mut view = view(0, 5);
    view.unwell = vec![unwell("a", 29, Why::Unhealthy), unwell("b", 4, Why::Leaking)];
    assert_eq!(drains(&view), []);
    view.unwell[1].since = Duration::from_secs(5);
    assert_eq!(drains(&view), [("b".to_owned(), DrainCause::Renewed(Why::Leaking))]);
    view.unwell[0].since = Duration::from_secs(30);
    assert_eq!(drains(&view), [("a".to_owned(), DrainCause::Renewed(Why::Unhealthy))]);
    view.tick = false;
    assert_eq!(drains(&view), []);
    view.envelope.as_mut().unwrap().max = 0;
    assert_eq!(drains(&view).len(), 2, "a retired release drains them too");
}

#[test]
fn the_next_tenth_goes_when_the_one_before_is_gone_and_its_place_is_taken() {
    let mut view = view(0, 40);
    view.unwell = (0..20).map(|n| unwell(&format!("a{n}"), 30, Why::Unhealthy)).collect();
    assert_eq!(drains(&view).len(), 2);
    view.leaving = 1;
    assert_eq!(drains(&view).len(), 1);
    view.ending = 1;
    assert_eq!(drains(&view), []);
    (view.leaving, view.ending) = (0, 0);
    view.instances = vec![starting("b"), starting("c")];
    assert_eq!(drains(&view), [], "theirs are not ready yet");
    view.instances = vec![in_place_of("d", Why::Age, ready("e", 1, 0)), ready("d", 9, 0)];
    view.load = load(20, 0, 20, Some(0));
    assert_eq!(drains(&view).len(), 2, "one of them goes for its replacement that is ready");
}

#[test]
fn who_is_out_of_routing_is_replaced_within_max_and_a_tenth() {
    let mut view = view(3, 3);
    view.replacing = true;
    view.unwell = vec![unwell("a", 1, Why::Unhealthy)];
    view.instances = vec![ready("b", 50, 1), ready("c", 50, 1)];
    assert_eq!(starts(&view), Some((1, AskedBy::Replacement)));
    view.unwell.extend([unwell("b", 1, Why::Unhealthy), unwell("c", 1, Why::Unhealthy)]);
    view.instances = Vec::new();
    assert_eq!(starts(&view), Some((1, AskedBy::Replacement)));
    view.instances = vec![ready("d", 1, 1)];
    assert_eq!(starts(&view), None);
    view.envelope.as_mut().unwrap().max = 20;
    assert_eq!(starts(&view), Some((2, AskedBy::Replacement)));
}

#[test]
fn the_end_of_the_idle_time_is_looked_at_when_it_comes() {
    let mut view = view(0, 5);
    view.instances = vec![ready("a", 10, 0)];
    view.load = load(0, 0, 1, Some(4));
    assert_eq!(decide(&view).look, Some(Duration::from_secs(26)));
    view.load = load(1, 0, 1, Some(0));
    assert_eq!(decide(&view).look, Some(Duration::from_secs(30)));
    view.envelope.as_mut().unwrap().min = 1;
    assert_eq!(decide(&view).look, None);
}
