//! Version 2: one hierarchy for all controllers that it is given.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{Setting, counter, write};
use crate::spec::Limits;

/// The period of a ceiling, in microseconds.
const PERIOD: u64 = 100_000;

/// What is in this hierarchy.
pub(super) fn controllers(root: &Path) -> String {
    fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default()
}

/// Where a process is, below this hierarchy's root, by its `/proc/<pid>/cgroup`.
pub(super) fn place(groups: &str) -> Option<PathBuf> {
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    // Of a group that was removed it is only told that.
    (!path.ends_with(" (deleted)")).then(|| path.trim_start_matches('/').into())
}

/// Gives `controllers` to the children of `root` and of `parent`.
pub(super) fn enable(root: &Path, parent: &Path, controllers: &[&str]) -> io::Result<()> {
    for directory in [root, parent] {
        for controller in controllers {
            let control = directory.join("cgroup.subtree_control");
            write(&control, &format!("+{controller}")).map_err(|error| {
                // In a container the hierarchy's root is one in truth below it, with processes in it.
                let path = directory.display();
                let why = format!("{path} can't give `{controller}` to groups below it ({error}); if processes are in it, run it with the host's control groups");
                io::Error::new(error.kind(), why)
            })?;
        }
    }
    Ok(())
}

/// What `controller` is given.
pub(super) fn settings(controller: &str, limits: &Limits) -> Vec<Setting> {
    match controller {
        "memory" => {
            vec![Setting::written("memory.max", limits.memory), Setting::if_there("memory.swap.max", 0)]
        }
        "pids" => vec![Setting::written("pids.max", limits.pids)],
        _ => {
            // A core is 100, the kernel's default weight; version 1's is 1,024 shares.
            let weight = (limits.cpu_millis / 10).clamp(1, 10_000);
            let mut settings = vec![Setting::written("cpu.weight", weight)];
            settings.push(if limits.cpu_max_millis > 0 {
                let quota = (u64::from(limits.cpu_max_millis) * PERIOD / 1000).max(1000);
                Setting::written("cpu.max", format!("{quota} {PERIOD}"))
            } else {
                Setting::untouched("cpu.max", format!("max {PERIOD}"))
            });
            settings
        }
    }
}

/// How many processes were killed for want of memory.
pub(super) fn out_of_memory_kills(group: &Path) -> u64 {
    counter(&group.join("memory.events"), "oom_kill")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { memory: 64 << 20, pids: 32, cpu_millis: 500, cpu_max_millis: 1500 };

    /// A group with these control files, and what is in them after all limits were set.
    fn check(limits: &Limits, expected: &[(&str, &str)]) {
        let group = tempfile::tempdir().unwrap();
        for (name, _) in expected {
            fs::write(group.path().join(name), "").unwrap();
        }
        for controller in super::super::CONTROLLERS {
            let settings = settings(controller, limits);
            settings.iter().try_for_each(|setting| setting.set(group.path())).unwrap();
        }
        for (name, text) in expected {
            assert_eq!(fs::read_to_string(group.path().join(name)).unwrap(), *text, "{name}");
        }
    }

    #[test]
    fn limits_are_written_as_the_kernel_reads_them() {
        let files =
            [("memory.max", "67108864"), ("memory.swap.max", "0"), ("pids.max", "32"), ("cpu.weight", "50")];
        check(&LIMITS, &[&files[..], &[("cpu.max", "150000 100000")]].concat());
        // Without a ceiling `cpu.max` stays as it is; without swap there is nothing to forbid.
        let unbounded = Limits { cpu_max_millis: 0, ..LIMITS };
        check(&unbounded, &[files[0], files[2], files[3], ("cpu.max", "")]);
        let tiny = Limits { cpu_millis: 1, cpu_max_millis: 1, ..LIMITS };
        check(&tiny, &[files[0], files[2], ("cpu.weight", "1"), ("cpu.max", "1000 100000")]);
    }

    #[test]
    fn a_missing_controller_is_named_with_what_to_do() {
        let root = tempfile::tempdir().unwrap();
        let error = enable(root.path(), root.path(), &["memory"]).unwrap_err().to_string();
        assert!(error.contains("can't give `memory`") && error.contains("host's control groups"), "{error}");
        fs::write(root.path().join("cgroup.subtree_control"), "").unwrap();
        enable(root.path(), root.path(), &["pids"]).unwrap();
        let written = fs::read_to_string(root.path().join("cgroup.subtree_control")).unwrap();
        assert_eq!(written, "+pids");
    }

    #[test]
    fn kills_are_counted() {
        let group = tempfile::tempdir().unwrap();
        assert_eq!(out_of_memory_kills(group.path()), 0);
        fs::write(group.path().join("memory.events"), "low 0\noom 3\noom_kill 2\n").unwrap();
        assert_eq!(out_of_memory_kills(group.path()), 2);
    }
}
