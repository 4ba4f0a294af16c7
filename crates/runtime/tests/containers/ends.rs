//! How instances end, and that each way is told apart.

use minato_runtime::spec::Status;

use crate::ground::Ground;

#[test]
fn an_exit_status_is_told() {
    let ground = Ground::new();
    let (text, ended) = ground.run("echo hello; exit 7");
    assert_eq!(text, "hello\n");
    assert_eq!((ended.status, ended.oom), (Status::Exit(7), false));
}

#[test]
fn an_exit_status_is_told_without_an_init() {
    let ground = Ground::new();
    let (sandbox, spec) = ground.make();
    let mut start = ground.start_of(&["sh", "-c", "echo $$; exit 9"]);
    start.init = false;
    sandbox.start(&start).unwrap();
    assert_eq!(ground.end(&spec.instance).status, Status::Exit(9));
    assert_eq!(crate::ground::text(&spec.log), "1\n");
}

#[test]
fn a_signal_reaches_the_program_and_is_told() {
    let ground = Ground::new();
    let (_, spec) = ground.start(&["sleep", "1000"]);
    ground.client().signal(&spec.instance, 15).unwrap();
    assert_eq!(ground.end(&spec.instance).status, Status::Signal(15));

    let (_, spec) = ground.start(&[
        "sh",
        "-c",
        "trap 'echo stopped; exit 3' TERM; echo ready; while :; do sleep 0.01; done",
    ]);
    ground.wait_for_line(&spec, "ready");
    ground.client().signal(&spec.instance, 15).unwrap();
    assert_eq!(ground.end(&spec.instance).status, Status::Exit(3));
    assert_eq!(crate::ground::text(&spec.log), "ready\nstopped\n");
}

#[test]
fn who_ignores_a_signal_is_killed_with_everything_it_started() {
    let ground = Ground::new();
    let (_, spec) = ground.start(&[
        "sh",
        "-c",
        "trap '' TERM; sleep 1000 & sleep 1000 & echo ready; wait; wait; sleep 1000",
    ]);
    ground.wait_for_line(&spec, "ready");
    ground.client().signal(&spec.instance, 15).unwrap();
    ground.client().kill(&spec.instance).unwrap();
    assert_eq!(ground.end(&spec.instance).status, Status::Signal(9));
}

#[test]
fn want_of_memory_is_told_apart_from_other_kills() {
    let ground = Ground::new();
    // tail keeps all of an endless line.
    let (_, ended) = ground.run("exec busybox tail /dev/zero");
    assert_eq!((ended.status, ended.oom), (Status::Signal(9), true));

    let (_, spec) = ground.start(&["sleep", "1000"]);
    ground.client().kill(&spec.instance).unwrap();
    let ended = ground.end(&spec.instance);
    assert_eq!((ended.status, ended.oom), (Status::Signal(9), false));
}

#[test]
fn want_of_memory_that_was_survived_is_no_reason_of_a_later_end() {
    let ground = Ground::new();
    let survived = "busybox tail /dev/zero; echo survived $?;";
    let (text, ended) = ground.run(&format!("{survived} exit 1"));
    assert!(text.ends_with("survived 137\n"), "{text}");
    assert_eq!((ended.status, ended.oom), (Status::Exit(1), false));

    let (_, spec) = ground.start(&["sh", "-c", &format!("{survived} sleep 1000")]);
    ground.wait_for_line(&spec, "survived 137");
    ground.client().kill(&spec.instance).unwrap();
    let ended = ground.end(&spec.instance);
    assert_eq!((ended.status, ended.oom), (Status::Signal(9), false));
    // A script ends as what it started did.
    let (_, ended) = ground.run("busybox tail /dev/zero");
    assert!(ended.oom, "{ended:?}");
    let (_, ended) = ground.run("busybox tail /dev/zero; exit $?");
    assert_eq!((ended.status, ended.oom), (Status::Exit(137), true));
}

#[test]
fn forks_without_end_are_stopped_at_the_limit() {
    let ground = Ground::new();
    let (text, ended) =
        ground.run("i=0; while [ $i -lt 100 ]; do sleep 1000 & i=$((i+1)); done; echo not reached");
    assert!(text.contains("can't fork"), "{text}");
    assert!(!text.contains("not reached"));
    assert_ne!(ended.status, Status::Exit(0));
}

#[test]
fn orphans_are_reaped_while_the_program_runs() {
    let ground = Ground::new();
    // Each inner shell leaves its child to process 1.
    let command = "for i in 1 2 3 4 5; do (sleep 0 & ); done; sleep 0.2; grep -l 'State:.Z' /proc/[0-9]*/status | busybox wc -l";
    let (text, _) = ground.run(&command.replace("grep", "busybox grep"));
    assert_eq!(text, "0\n");
}

#[test]
fn output_without_end_stays_within_its_bound_and_blocks_nobody() {
    let ground = Ground::new();
    let (_, spec) = ground.start(&[
        "sh",
        "-c",
        "busybox yes 'a line of no interest' | busybox head -c 6000000; echo done >&2",
    ]);
    assert_eq!(ground.end(&spec.instance).status, Status::Exit(0));
    let mut older = spec.log.clone().into_os_string();
    older.push(".1");
    for path in [spec.log.clone().into_os_string(), older] {
        assert!(std::fs::metadata(path).unwrap().len() <= spec.log_max);
    }
    let last = minato_runtime::logs::read(&spec.log, minato_runtime::logs::Begin::Tail, 10).unwrap();
    assert!(last.iter().any(|record| record.text == "done"), "{last:?}");
    assert_eq!(last.last().unwrap().line, 272_728);
}
