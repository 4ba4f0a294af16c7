use super::*;

fn check(mounts: &str, unified: Option<&str>, roots: &[&str]) {
    let found = Hierarchies::parse(mounts);
    assert_eq!(found.unified.as_deref(), unified.map(Path::new));
    assert_eq!(found.roots(), roots.iter().map(Path::new).collect::<Vec<_>>());
}

#[test]
fn only_what_is_different_is_written() {
    let (memory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let legacy = ["memory", "cpu", "pids"].map(|name| {
        (name, if name == "memory" { memory.path().to_owned() } else { other.path().to_owned() })
    });
    let hierarchies = Hierarchies { unified: None, legacy: legacy.to_vec() };
    let parent = Parent { hierarchies, name: "minato-1".to_owned(), origin: None };
    let files = [
        (&memory, "memory.limit_in_bytes", "2097152"),
        (&memory, "memory.memsw.limit_in_bytes", "2097152"),
        (&other, "cpu.cfs_quota_us", "-1"),
        (&other, "cpu.shares", ""),
        (&other, "pids.max", ""),
    ];
    for (root, file, _) in &files {
        fs::create_dir_all(root.path().join(parent.relative("a"))).unwrap();
        fs::write(root.path().join(parent.relative("a")).join(file), "").unwrap();
    }
    let before = Limits { memory: 1 << 20, pids: 5, cpu_millis: 500, cpu_max_millis: 700 };
    let now = Limits { memory: 2 << 20, cpu_max_millis: 0, ..before };
    parent.change("a", &before, &now).unwrap();
    for (root, file, expected) in files {
        let found = fs::read_to_string(root.path().join(parent.relative("a")).join(file)).unwrap();
        assert_eq!(found, expected, "{file}");
    }
}

#[test]
fn every_layout_of_hierarchies_is_understood() {
    let host = "30 29 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n";
    let unified = "31 30 0:27 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    check(&format!("{host}{unified}"), Some("/sys/fs/cgroup"), &["/sys/fs/cgroup"]);
    let legacy = "32 30 0:30 / /c/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                  33 30 0:31 / /c/cpuset rw - cgroup cgroup rw,cpuset\n\
                  34 30 0:32 / /c/both rw - cgroup cgroup rw,memory,pids\n";
    check(&format!("{host}{legacy}"), None, &["/c/cpu,cpuacct", "/c/both"]);
    check(
        &format!("{legacy}{unified}"),
        Some("/sys/fs/cgroup"),
        &["/sys/fs/cgroup", "/c/cpu,cpuacct", "/c/both"],
    );
    assert_eq!(Hierarchies::parse(host).lacks(), Some("memory"));
    assert_eq!(Hierarchies::parse(legacy).lacks(), None);
}

/// A hierarchy of version 2 with these files below it, all of them empty.
fn version_2(files: &[&str]) -> (tempfile::TempDir, Parent) {
    let root = tempfile::tempdir().unwrap();
    for file in files {
        let path = root.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    let hierarchies = Hierarchies { unified: Some(root.path().to_owned()), legacy: Vec::new() };
    let parent = Parent { hierarchies, name: "minato-1".to_owned(), origin: None };
    (root, parent)
}

const LIMITS: Limits = Limits { memory: 64 << 20, pids: 32, cpu_millis: 500, cpu_max_millis: 1500 };

#[test]
fn a_keeper_enters_a_leaf_after_controllers_were_given_from_the_root_down() {
    let (top, below) = ("cgroup.subtree_control", "minato-1/cgroup.subtree_control");
    let leaf = "minato-1/keeper/cgroup.procs";
    let read = |root: &tempfile::TempDir, file: &str| fs::read_to_string(root.path().join(file)).unwrap();
    // The kernel gives below only what was given above: without the upper the lower isn't tried.
    let (root, mut parent) = version_2(&[below, leaf]);
    parent.enter().unwrap_err();
    assert_eq!((read(&root, below), read(&root, leaf)), (String::new(), String::new()));
    let (root, mut parent) = version_2(&[top, leaf]);
    parent.enter().unwrap_err();
    assert_eq!(read(&root, leaf), "");
    // And takes no process where it gives: what has children has no process.
    let within = "minato-1/cgroup.procs";
    let (root, mut parent) = version_2(&[top, below, leaf, within]);
    parent.enter().unwrap();
    assert_eq!((read(&root, leaf), read(&root, within)), ("0".to_owned(), String::new()));
    for file in [top, below] {
        assert!(read(&root, file).starts_with("+pids"), "{}", read(&root, file));
    }
}

#[test]
fn a_keeper_goes_back_where_it_came_from_if_the_root_takes_no_process() {
    let (root, mut parent) = version_2(&["init/cgroup.procs", "minato-1/keeper/x"]);
    fs::remove_file(root.path().join("minato-1/keeper/x")).unwrap();
    parent.origin = v2::place("4:memory:/a\n0::/init\n");
    parent.leave();
    assert_eq!(fs::read_to_string(root.path().join("init/cgroup.procs")).unwrap(), "0");
    assert!(!root.path().join("minato-1").exists());
}

#[test]
fn in_version_2_one_group_has_every_limit_and_the_door() {
    let files = ["memory.max", "memory.swap.max", "cpu.weight", "cpu.max", "pids.max", "memory.events"];
    let paths = files.map(|file| format!("minato-1/i-a/{file}"));
    let (root, parent) = version_2(&paths.each_ref().map(String::as_str));
    let directory = root.path().join("minato-1/i-a");
    let mut group = Group {
        directories: vec![directory.clone()],
        unified: Some(directory.clone()),
        memory: PathBuf::new(),
        memory_is_legacy: false,
    };
    let door = parent.fill(&mut group, "minato-1/i-a", &LIMITS).unwrap();
    assert!(door.unified.is_some() && door.tasks.is_empty());
    let expected = ["67108864", "0", "50", "150000 100000", "32", ""];
    for (file, expected) in files.iter().zip(expected) {
        assert_eq!(fs::read_to_string(directory.join(file)).unwrap(), expected, "{file}");
    }
    fs::write(directory.join("memory.events"), "max 9\noom 3\noom_kill 2\noom_group_kill 7\n").unwrap();
    assert_eq!(group.out_of_memory_kills(), 2);
    assert_eq!(parent.changed_limit("a", &LIMITS).unwrap(), None);
    fs::write(directory.join("cpu.max"), "max 100000").unwrap();
    let changed = parent.changed_limit("a", &LIMITS).unwrap().unwrap();
    assert_eq!(changed, "cpu.max is max 100000, not 150000 100000");
}

#[test]
fn a_group_is_killed_at_once_or_process_by_process_before_linux_5_14() {
    let (root, _) = version_2(&["i-a/cgroup.kill", "i-b/cgroup.procs"]);
    let group = |name: &str| Group {
        directories: vec![root.path().join(name)],
        unified: Some(root.path().join(name)),
        memory: PathBuf::new(),
        memory_is_legacy: false,
    };
    assert!(group("i-a").kill());
    assert_eq!(fs::read_to_string(root.path().join("i-a/cgroup.kill")).unwrap(), "1");
    let mut children = [0; 2].map(|_| std::process::Command::new("sleep").arg("1000").spawn().unwrap());
    // The kernel lists what isn't in this process' namespace as 0.
    let list = format!("0\n{}\n{}\n", children[0].id(), children[1].id());
    fs::write(root.path().join("i-b/cgroup.procs"), list).unwrap();
    // Who isn't in it yet must be killed besides.
    assert!(!group("i-b").kill());
    for child in &mut children {
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()), Some(9));
    }
}

#[test]
fn what_cannot_be_removed_is_tried_less_and_less_often() {
    let (root, parent) = version_2(&["minato-1/i-a/busy"]);
    let mut left = parent.sweep_where(|_| true, 0).unwrap();
    assert_eq!(left.len(), 1);
    let (mut now, mut tries) = (left[0].due(), 0);
    let begun = now;
    while now < begun + 60_000_000_000 {
        assert!(!left[0].take_away(now));
        now = left[0].due();
        tries += 1;
    }
    assert!((55..80).contains(&tries), "{tries}");
    fs::remove_file(root.path().join("minato-1/i-a/busy")).unwrap();
    assert!(!left[0].take_away(now - 1) && left[0].take_away(now));
}
