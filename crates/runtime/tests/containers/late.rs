//! Sandboxes that are made before it is known for whom, and a keeper that is older than its server.

use std::process::{Command, Stdio};

use minato_runtime::{
    keeper::{self, Client},
    logs,
    spec::{Binding, HeldState, Limits, Status},
};

use crate::ground::{Ground, text};

/// A parked sandbox, and for whom it turns out to be.
fn binding(ground: &Ground) -> Binding {
    Binding {
        limits: Limits { memory: 24 << 20, pids: 7, cpu_millis: 250, cpu_max_millis: 0 },
        scratch: 3 << 20,
        log: ground.folder.path().join("elsewhere/it.log"),
        log_max: 1 << 20,
    }
}

#[test]
fn what_is_bound_late_is_in_force_and_the_log_is_where_it_is_said() {
    let ground = Ground::new();
    let (mut sandbox, spec) = ground.make();
    let binding = binding(&ground);
    sandbox.bind(binding.clone());
    let script = "cat /proc/self/mounts | grep -c size=3072k; i=0; while [ $i -lt 20 ]; do sleep 5 & i=$((i+1)); done; echo $i";
    sandbox.start(&ground.start_of(&["sh", "-c", script])).unwrap();
    ground.end(&spec.instance);
    let written = text(&binding.log);
    // `/tmp` and `/dev/shm`; and of twenty processes some were refused.
    assert!(written.starts_with("2\n") && written.contains("fork"), "{written}");
    assert!(!spec.log.exists());
    assert!(logs::read(&spec.log, logs::Begin::Tail, 1).unwrap().is_empty());
}

#[test]
fn memory_that_is_bound_late_is_the_limit() {
    let ground = Ground::new();
    let (mut sandbox, spec) = ground.make();
    sandbox.bind(binding(&ground));
    let start = ground.start_of(&["dd", "if=/dev/zero", "of=/dev/null", "bs=40M", "count=1"]);
    sandbox.start(&start).unwrap();
    let ended = ground.end(&spec.instance);
    assert!(ended.oom, "{ended:?}");
}

#[test]
fn an_older_keeper_is_spoken_to_in_its_version() {
    let mut ground = Ground::new();
    ground.client().shutdown().unwrap();
    let mut process = Command::new(&ground.config.exe)
        .args([keeper::ARGUMENT.as_ref(), ground.config.data.as_os_str(), ground.config.id.as_ref()])
        .args(["--protocol", "1"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::read_to_string(process.stdout.take().unwrap()).unwrap();
    ground.reconnect();
    assert!(!ground.client().binds_late());
    let (written, ended) = ground.run("echo from one");
    assert_eq!((written.as_str(), ended.status), ("from one\n", Status::Exit(0)));
    let (running, spec) = ground.start(&["sleep", "1000"]);
    ground.reconnect();
    let held = ground.held.iter().find(|held| held.instance == spec.instance).unwrap();
    assert_eq!((held.pid, &held.state), (running.pid, &HeldState::Running));
    // What can't be said to it is refused.
    let (mut sandbox, refused) = ground.make();
    sandbox.bind(binding(&ground));
    sandbox.start(&ground.start_of(&["true"])).unwrap_err();
    ground.end(&refused.instance);
    ground.client().kill(&spec.instance).unwrap();
    assert_eq!(ground.end(&spec.instance).status, Status::Signal(9));
    ground.client().shutdown().unwrap();
    assert!(process.wait().unwrap().success());
    ground.client = None;
    ground.reconnect();
    assert!(Client::binds_late(ground.client()));
}
