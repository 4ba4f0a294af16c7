use super::*;

fn id(name: &str) -> InstanceId {
    name.parse().unwrap()
}

fn ready(name: &str, seconds: u64, in_flight: u32) -> Candidate {
    Candidate { id: id(name), ready: Some(Duration::from_secs(seconds)), in_flight }
}

fn starting(name: &str) -> Candidate {
    Candidate { id: id(name), ready: None, in_flight: 0 }
}

fn view(min: u32, max: u32) -> View {
    View {
        envelope: Some(Envelope { min, max, weight: 1, concurrency: 10, idle: Duration::from_secs(30) }),
        load: Load::default(),
        woken: 0,
        startable: true,
        replacing: false,
        tick: true,
        instances: Vec::new(),
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
