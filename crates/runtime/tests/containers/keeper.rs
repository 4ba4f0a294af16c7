//! The keeper outlives the server, and gives everything back.

use minato_runtime::{
    keeper::Client,
    spec::{Event, HeldState, Status},
};

use crate::ground::Ground;

#[test]
fn instances_run_on_without_a_server_and_are_held_for_the_next() {
    let mut ground = Ground::new();
    let (running, spec) = ground.start(&["sh", "-c", "while [ ! -e /tmp/x ]; do sleep 0.01; done"]);
    let (parked, parked_spec) = ground.make();
    let (_, short) = ground.start(&["sh", "-c", "sleep 0.2; exit 5"]);
    drop(parked);
    ground.reconnect();
    let held = |ground: &Ground, instance| ground.held.iter().find(|held| held.instance == instance).cloned();
    let one = held(&ground, spec.instance.clone()).unwrap();
    assert_eq!((one.pid, one.address, one.state.clone()), (running.pid, spec.address, HeldState::Running));
    assert_eq!((one.id_range_start, one.tag.as_slice()), (spec.id_range_start, b"tag".as_slice()));
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", running.pid)).unwrap();
    assert_eq!(stat.split_whitespace().nth(21).unwrap(), one.start_time.to_string());

    // The parked one ends, for nobody can start it; the short one's end is told to who is there, and
    // again to the next, until it is known.
    let mut ends = std::collections::BTreeMap::new();
    for one in &ground.held {
        if let HeldState::Ended(ended) = &one.state {
            ends.insert(ended.instance.clone(), ended.status);
        }
    }
    while ends.len() < 2 {
        let Event::Ended(ended) = ground.events.recv_timeout(std::time::Duration::from_secs(10)).unwrap()
        else {
            panic!()
        };
        ends.insert(ended.instance.clone(), ended.status);
    }
    assert_eq!(ends[&short.instance], Status::Exit(5));
    assert!(ends.contains_key(&parked_spec.instance));
    ground.reconnect();
    let ended = held(&ground, short.instance.clone()).unwrap();
    assert!(matches!(&ended.state, HeldState::Ended(ended) if ended.status == Status::Exit(5)));
    assert_eq!(ended.tag, b"tag");
    ground.client().forget(&short.instance).unwrap();
    ground.reconnect();
    assert!(held(&ground, short.instance).is_none());

    ground.client().signal(&spec.instance, 9).unwrap();
    ground.end(&spec.instance);
}

#[test]
fn ends_outlive_the_keeper_and_its_instances_do_not() {
    let mut ground = Ground::new();
    let (sandbox, ended) = ground.make();
    sandbox.start(&ground.start_of(&["sh", "-c", "exit 4"])).unwrap();
    let Event::Ended(_) = ground.events.recv().unwrap() else { panic!() };
    let (running, _) = ground.start(&["sleep", "1000"]);
    let keeper = std::fs::read_to_string(format!("/proc/{}/stat", running.pid)).unwrap();
    let keeper = keeper.split_whitespace().nth(3).unwrap().parse().unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(keeper).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    while ground.events.recv().unwrap() != Event::KeeperGone {}
    ground.reconnect();
    assert!(!runs(running.pid));
    let [held] = ground.held.as_slice() else { panic!("{:?}", ground.held) };
    assert_eq!(held.instance, ended.instance);
    assert!(matches!(&held.state, HeldState::Ended(ended) if ended.status == Status::Exit(4)));
}

#[test]
fn two_keepers_never_share_a_data_directory_and_a_shutdown_ends_everything() {
    let ground = Ground::new();
    let (running, _) = ground.start(&["sleep", "1000"]);
    let second = Client::connect_or_spawn(&ground.config).unwrap();
    assert_eq!(second.ids, ground.ids);
    assert_eq!(second.held.len(), 1);
    second.client.shutdown().unwrap();
    assert!(!runs(running.pid));
    assert_eq!(leftovers(&ground), 0);
    assert!(!ground.config.data.join("keeper/socket").exists());
}

#[test]
fn a_hundred_starts_and_stops_leave_nothing() {
    let ground = Ground::new();
    ground.run("true");
    let keeper_pid = keeper_of(&ground);
    settle(&ground);
    let before = descriptors(keeper_pid);
    for round in 0..100 {
        let (_, spec) = ground.start(&["sleep", "1000"]);
        ground.client().kill(&spec.instance).unwrap();
        assert_eq!(ground.end(&spec.instance).status, Status::Signal(9), "round {round}");
    }
    settle(&ground);
    assert_eq!(descriptors(keeper_pid), before);
    let mounts = std::fs::read_to_string(format!("/proc/{keeper_pid}/mountinfo")).unwrap();
    assert!(!mounts.contains(ground.folder.path().to_str().unwrap()), "{mounts}");
    let children = std::fs::read_to_string(format!("/proc/{keeper_pid}/task/{keeper_pid}/children")).unwrap();
    assert_eq!(children, "");
}

#[test]
fn cleaning_takes_away_one_nodes_and_leaves_anothers() {
    let (one, other) = (Ground::new(), Ground::new());
    let (gone, _) = one.start(&["sleep", "1000"]);
    let (left, spec) = other.start(&["sleep", "1000"]);
    minato_runtime::keeper::clean(&one.config.id, &one.config.data).unwrap();
    assert!(!runs(gone.pid));
    assert_eq!(leftovers(&one), 0);
    assert!(runs(left.pid));
    assert!(leftovers(&other) > 0);
    other.client().kill(&spec.instance).unwrap();
    assert_eq!(other.end(&spec.instance).status, Status::Signal(9));
}

#[test]
fn one_that_logs_without_end_waits_and_others_do_not() {
    let ground = Ground::new();
    let begun = seconds();
    let (_, flood) = ground.start(&["sh", "-c", "busybox yes 0123456789012345678901234567890123456789"]);
    let others: Vec<_> = (0..10).map(|_| ground.run("echo well").0).collect();
    ground.wait_for_line(&flood, "0123456789012345678901234567890123456789");
    ground.client().kill(&flood.instance).unwrap();
    ground.end(&flood.instance);
    let took = seconds() - begun;
    assert!(others.iter().all(|text| text == "well\n"), "{others:?}");
    // 8 MiB a second after the first four, and what the pipe held.
    let records = minato_runtime::logs::read(&flood.log, minato_runtime::logs::Begin::Tail, 1).unwrap();
    let written = records[0].line * 41;
    assert!((written as f64) < (took + 0.7) * f64::from(8 << 20), "{written} bytes in {took} s");
}

#[test]
fn who_was_put_into_an_instances_groups_goes_with_it() {
    let ground = Ground::new();
    let (_, spec) = ground.start(&["sleep", "1000"]);
    let mut foreign = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let group = group_of(&ground, &spec);
    let joined = std::fs::write(group.join("cgroup.procs"), foreign.id().to_string());
    ground.client().kill(&spec.instance).unwrap();
    assert_eq!(ground.end(&spec.instance).status, Status::Signal(9));
    let pause = rustix::event::Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
    let ended = (0..500).any(|_| {
        rustix::event::poll(&mut [], Some(&pause)).unwrap();
        foreign.try_wait().unwrap().is_some()
    });
    foreign.kill().unwrap();
    foreign.wait().unwrap();
    joined.unwrap();
    assert!(ended);
    settle(&ground);
}

/// Keeps a control group from being removed, as a process does that hangs in the kernel.
struct Stuck(std::path::PathBuf);

impl Drop for Stuck {
    fn drop(&mut self) {
        std::fs::remove_dir(&self.0).unwrap();
    }
}

#[test]
fn what_a_former_keeper_left_and_cannot_be_removed_keeps_no_keeper_from_starting() {
    let mut ground = Ground::new();
    let (_, spec) = ground.start(&["sleep", "1000"]);
    let keeper = ground.client().pid().unwrap();
    let stuck = Stuck(group_of(&ground, &spec).join("stuck"));
    std::fs::create_dir(&stuck.0).unwrap();
    let keeper = rustix::process::Pid::from_raw(keeper.cast_signed()).unwrap();
    rustix::process::kill_process(keeper, rustix::process::Signal::KILL).unwrap();
    while ground.events.recv().unwrap() != Event::KeeperGone {}
    ground.reconnect();
    assert!(ground.keeper_log().contains("can't be removed yet"), "{}", ground.keeper_log());
    assert_eq!(ground.run("echo well").0, "well\n");
    drop(stuck);
    settle(&ground);
}

/// The control group that limits an instance's processes.
fn group_of(ground: &Ground, spec: &minato_runtime::spec::SandboxSpec) -> std::path::PathBuf {
    let mut inside = groups(ground).map(|path| path.join(format!("i-{}", spec.instance)));
    inside.find(|path| path.join("pids.max").exists()).unwrap()
}

fn seconds() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

/// Whether a process is there and not just waiting to be reaped.
fn runs(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn keeper_of(ground: &Ground) -> u32 {
    let (running, spec) = ground.start(&["sleep", "1000"]);
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", running.pid)).unwrap();
    ground.client().kill(&spec.instance).unwrap();
    ground.end(&spec.instance);
    stat.split_whitespace().nth(3).unwrap().parse().unwrap()
}

/// Waits until the keeper has given back what ended instances had.
fn settle(ground: &Ground) {
    let pause = rustix::event::Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
    let settled = (0..500).any(|_| {
        rustix::event::poll(&mut [], Some(&pause)).unwrap();
        instances(ground) == 0
    });
    assert!(settled, "{} control groups are left", instances(ground));
    // The keeper works in order: with the answer to one more question, everything before it is done.
    let mut spec = ground.spec();
    spec.address = std::net::Ipv4Addr::LOCALHOST;
    ground.client().make(&spec).unwrap_err();
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Control groups of this keeper, over all hierarchies.
fn leftovers(ground: &Ground) -> usize {
    groups(ground).count()
}

fn instances(ground: &Ground) -> usize {
    let inside = groups(ground).flat_map(|path| std::fs::read_dir(path).unwrap());
    inside.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("i-")).count()
}

fn groups(ground: &Ground) -> impl Iterator<Item = std::path::PathBuf> + use<> {
    let name = format!("minato-{}", ground.config.id);
    let roots = std::fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path());
    roots.chain(["/sys/fs/cgroup".into()]).map(move |root| root.join(&name)).filter(|path| path.is_dir())
}
