//! Version 2: one hierarchy for all controllers that it is given.

use std::{fs, io, path::Path};

use super::{counter, write};
use crate::spec::Limits;

/// The period of a ceiling, in microseconds.
const PERIOD: u64 = 100_000;

/// What is in this hierarchy.
pub(super) fn controllers(root: &Path) -> String {
    fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default()
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

/// Sets what `controller` limits.
pub(super) fn limit(controller: &str, group: &Path, limits: &Limits) -> io::Result<()> {
    match controller {
        "memory" => {
            write(&group.join("memory.max"), &limits.memory.to_string())?;
            let swap = group.join("memory.swap.max");
            if swap.exists() { write(&swap, "0") } else { Ok(()) }
        }
        "pids" => write(&group.join("pids.max"), &limits.pids.to_string()),
        _ => {
            // A core is 100, the kernel's default weight; version 1's is 1,024 shares.
            let weight = (limits.cpu_millis / 10).clamp(1, 10_000);
            write(&group.join("cpu.weight"), &weight.to_string())?;
            if limits.cpu_max_millis > 0 {
                let quota = (u64::from(limits.cpu_max_millis) * PERIOD / 1000).max(1000);
                write(&group.join("cpu.max"), &format!("{quota} {PERIOD}"))?;
            }
            Ok(())
        }
    }
}

/// How many processes were killed for want of memory.
pub(super) fn out_of_memory_kills(group: &Path) -> u64 {
    counter(&group.join("memory.events"), "oom_kill")
}
