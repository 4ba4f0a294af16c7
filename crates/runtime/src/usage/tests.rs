use super::*;

const LIMITS: Limits = Limits { memory: 64 << 20, pids: 32, cpu_millis: 500, cpu_max_millis: 0 };

/// A machine's hierarchies in a folder: `v2`, and `v1/<controllers>` for each name.
struct Tree {
    folder: tempfile::TempDir,
    reader: Reader,
}

fn id() -> InstanceId {
    "a1".parse().unwrap()
}

impl Tree {
    fn new(unified: bool, legacy: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().display();
        let mut mounts = String::new();
        if unified {
            mounts.push_str(&format!("31 30 0:27 / {root}/v2 rw - cgroup2 cgroup2 rw\n"));
        }
        for name in legacy {
            mounts.push_str(&format!("32 30 0:30 / {root}/v1/{name} rw - cgroup cgroup rw,{name}\n"));
        }
        let reader = Reader { parent: Parent::on(Hierarchies::parse(&mounts), "n") };
        for group in reader.directories(&id()) {
            fs::create_dir_all(group).unwrap();
        }
        Self { folder, reader }
    }

    fn file(&self, hierarchy: &str, name: &str, text: &str) -> &Self {
        fs::write(self.folder.path().join(hierarchy).join("minato-n/i-a1").join(name), text).unwrap();
        self
    }

    fn changed(&self) -> Option<String> {
        self.reader.changed_limit(&id(), &LIMITS).unwrap()
    }
}

/// Controllers in version 1, attaching in version 2.
fn hybrid() -> Tree {
    let tree = Tree::new(true, &["memory", "cpu", "pids"]);
    tree.file("v1/memory", "memory.usage_in_bytes", "9000\n")
        .file("v1/memory", "memory.max_usage_in_bytes", "10000\n")
        .file("v1/memory", "memory.stat", "inactive_file 7\ntotal_inactive_file 1000\n")
        .file("v1/memory", "memory.limit_in_bytes", "67108864\n")
        .file("v1/pids", "pids.current", "3\n")
        .file("v1/pids", "pids.max", "32\n")
        .file("v1/cpu", "cpu.shares", "512\n")
        .file("v1/cpu", "cpu.cfs_quota_us", "-1\n")
        .file("v2", "cpu.stat", "usage_usec 1234\nuser_usec 1000\n");
    for hierarchy in ["v1/memory", "v1/pids", "v1/cpu"] {
        tree.file(hierarchy, "cgroup.procs", "12\n10\n");
    }
    tree.file("v2", "cgroup.procs", "10\n0\n");
    tree
}

fn unified() -> Tree {
    let tree = Tree::new(true, &[]);
    tree.file("v2", "memory.current", "9000\n")
        .file("v2", "memory.peak", "10000\n")
        .file("v2", "memory.stat", "anon 8000\ninactive_file 1000\n")
        .file("v2", "memory.max", "67108864\n")
        .file("v2", "memory.swap.max", "0\n")
        .file("v2", "pids.current", "3\n")
        .file("v2", "pids.max", "32\n")
        .file("v2", "cpu.weight", "50\n")
        .file("v2", "cpu.max", "max 100000\n")
        .file("v2", "cpu.stat", "usage_usec 1234\n")
        .file("v2", "cgroup.procs", "10\n12\n");
    tree
}

const USED: Usage = Usage { memory: 8_000, memory_peak: 10_000, cpu_micros: 1_234, pids: 3 };

#[test]
fn every_layout_says_what_is_used() {
    for tree in [hybrid(), unified()] {
        assert_eq!(tree.reader.usage(&id()).unwrap(), USED);
        assert_eq!(tree.reader.processes(&id()).unwrap(), [10, 12]);
    }
    // Version 1 alone, where `cpu` and `cpuacct` are one hierarchy.
    let tree = Tree::new(false, &["memory", "cpu", "pids"]);
    tree.file("v1/memory", "memory.usage_in_bytes", "8000\n")
        .file("v1/memory", "memory.max_usage_in_bytes", "10000\n")
        .file("v1/memory", "memory.stat", "")
        .file("v1/pids", "pids.current", "3\n");
    assert_eq!(tree.reader.usage(&id()).unwrap(), Usage { cpu_micros: 0, ..USED });
    tree.file("v1/cpu", "cpuacct.usage", "1234567\n");
    assert_eq!(tree.reader.usage(&id()).unwrap(), USED);
}

#[test]
fn what_is_gone_is_not_found() {
    let tree = Tree::new(true, &[]);
    let other = "b2".parse().unwrap();
    assert_eq!(tree.reader.usage(&other).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(tree.reader.processes(&other).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_limit_that_was_changed_is_named() {
    let tree = hybrid();
    assert_eq!(tree.changed(), None);
    // The kernel rounds down to whole pages.
    tree.file("v1/memory", "memory.limit_in_bytes", "67104768\n");
    assert_eq!(tree.changed(), None);
    tree.file("v1/memory", "memory.memsw.limit_in_bytes", "9223372036854771712\n");
    let swap = "memory.memsw.limit_in_bytes is 9223372036854771712, not 67108864";
    assert_eq!(tree.changed().as_deref(), Some(swap));
    tree.file("v1/memory", "memory.memsw.limit_in_bytes", "67108864\n");
    tree.file("v1/cpu", "cpu.cfs_quota_us", "1000\n");
    assert_eq!(tree.changed().as_deref(), Some("cpu.cfs_quota_us is 1000, not -1"));

    let tree = unified();
    assert_eq!(tree.changed(), None);
    tree.file("v2", "pids.max", "max\n");
    assert_eq!(tree.changed().as_deref(), Some("pids.max is max, not 32"));
    tree.file("v2", "pids.max", "32\n").file("v2", "cpu.weight", "10000\n");
    assert_eq!(tree.changed().as_deref(), Some("cpu.weight is 10000, not 50"));
}
