//! What a server has in the kernel, looked at from outside.
#![expect(clippy::unwrap_used, reason = "a test that can't look fails here")]

use std::{path::Path, process::Command};

use crate::run;

/// Everything that is named after a data directory: links, tables, control groups, mounts, processes.
///
/// # Panics
/// When the machine can't be asked.
#[must_use]
pub fn objects(data: &Path) -> Vec<String> {
    let id = std::fs::read_to_string(data.join("id")).unwrap_or_default();
    let id = id.trim();
    if id.is_empty() {
        return Vec::new();
    }
    let mut found = Vec::new();
    let links = run(Command::new("ip").args(["-o", "link"])).stdout;
    let prefix = format!("mn{}", id.get(..6).unwrap_or(id));
    found.extend(links.lines().filter(|line| line.contains(&prefix)).map(|line| format!("link {line}")));
    let tables = run(Command::new("nft").args(["list", "tables"])).stdout;
    found.extend(tables.lines().filter(|line| line.contains(id)).map(|line| format!("table {line}")));
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let data = data.to_string_lossy();
    found.extend(mounts.lines().filter(|line| line.contains(&*data)).map(|line| format!("mount {line}")));
    let groups =
        run(Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-name", &format!("*{id}*")])).stdout;
    found.extend(groups.lines().map(|line| format!("control group {line}")));
    found.extend(processes(id, &data));
    found
}

/// Its keeper, and all that is in its control groups.
fn processes(id: &str, data: &str) -> Vec<String> {
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let found = |pid: u32| {
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let keeper = line.split('\0').nth(1) == Some("keeper") && line.contains(data);
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let dead = state.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'));
        ((groups.contains(id) || keeper) && !dead)
            .then(|| format!("process {pid} {}", line.replace('\0', " ")))
    };
    pids.filter_map(found).collect()
}
