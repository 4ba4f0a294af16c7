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
    found
}
