//! What a server has in the kernel, looked at from outside.
#![expect(clippy::unwrap_used, reason = "a test that can't look fails here")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

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

/// How much a running server and its keeper have of everything that the kernel counts. Compared with
/// another of the same server, it says what was not given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Census(BTreeMap<&'static str, usize>);

impl Census {
    /// Counts. A namespace lives by a process, a descriptor or a mount, and all three are counted.
    ///
    /// # Panics
    /// When the machine can't be asked.
    #[must_use]
    pub fn take(data: &Path, server: u32, keeper: u32) -> Self {
        let id = std::fs::read_to_string(data.join("id")).unwrap().trim().to_owned();
        let short = format!("mn{}", id.get(..6).unwrap_or(&id));
        let said = |program: &str, words: &[&str]| run(Command::new(program).args(words)).ok().stdout;
        let lines = |text: String, with: &str| text.lines().filter(|line| line.contains(with)).count();
        let processes = processes(&id, &data.to_string_lossy());
        let pids = processes.iter().filter_map(|line| line.split(' ').nth(1)?.parse::<u32>().ok());
        let namespaces: BTreeSet<_> = pids.flat_map(|pid| links(pid, "ns")).collect();
        let table = format!("minato_{id}");
        let groups = format!("*/minato-{id}*");
        // It fails where a folder goes while it looks.
        let groups = run(Command::new("find").args(["/sys/fs/cgroup", "-type", "d", "-path", &groups]));
        let mounts = |pid| std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap().lines().count();
        Self(BTreeMap::from([
            ("processes", processes.len()),
            ("namespaces", namespaces.len()),
            ("control groups", groups.stdout.lines().count()),
            ("links", lines(said("ip", &["-o", "link"]), &short)),
            ("routes", lines(said("ip", &["route", "show", "table", "all"]), &short)),
            ("neighbours", lines(said("ip", &["neigh", "show", "nud", "all"]), &short)),
            // Words and not lines: a set has all its elements on one.
            ("rules", said("nft", &["list", "table", "inet", &table]).split_whitespace().count()),
            ("mounts of the server", mounts(server)),
            ("mounts of the keeper", mounts(keeper)),
            ("descriptors of the server", links(server, "fd").len()),
            ("descriptors of the keeper", links(keeper, "fd").len()),
            ("threads of the keeper", std::fs::read_dir(format!("/proc/{keeper}/task")).unwrap().count()),
        ]))
    }

    /// Of what there is more than before.
    #[must_use]
    pub fn more_than(&self, before: &Self) -> Vec<String> {
        let more = self.0.iter().filter_map(|(what, number)| {
            let had = before.0.get(what).copied().unwrap_or(0);
            (*number > had).then(|| format!("{what}: {number}, and {had} before"))
        });
        more.collect()
    }
}

/// What the entries of a folder of a process's `/proc` point to.
fn links(pid: u32, folder: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/{folder}")) else { return Vec::new() };
    entries.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect()
}

/// The resident memory of a process, in bytes.
///
/// # Panics
/// When there is no such process.
#[must_use]
pub fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// How many processes of a program of this name run in a data directory's instances.
#[must_use]
pub fn programs(data: &Path, name: &str) -> usize {
    let id = std::fs::read_to_string(data.join("id")).unwrap_or_default();
    let running = processes(id.trim(), &data.to_string_lossy());
    running.iter().filter(|line| line.split(' ').nth(2).is_some_and(|path| path.ends_with(name))).count()
}

/// The time that an instance's processes have had of a processor, in hundredths of a second.
///
/// # Panics
/// When `/proc` can't be read.
#[must_use]
pub fn processor_time(instance: &str) -> u64 {
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let used = |pid: u32| {
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Behind the name, which may hold anything: the 12th and 13th word.
        let words: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let time = |place: usize| words.get(place)?.parse::<u64>().ok();
        groups.contains(instance).then_some(time(11)? + time(12)?)
    };
    pids.filter_map(used).sum()
}
