//! What a server has in the kernel and in memory, counted from outside.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    patience::Patience,
    processes::{expect, run},
};

/// The counts, in the order in which they are shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Counts(Vec<(&'static str, usize)>);

impl Counts {
    /// Counts what belongs to a data directory; `own` are its server and keeper.
    pub(crate) fn of(patience: &Patience, data: &Path, own: &[u32]) -> Result<Self> {
        expect("nft")?;
        let id = std::fs::read_to_string(data.join("id")).context("the data directory has no id")?;
        let id = id.trim();
        let inside = inside(id);
        let folders = data.to_string_lossy();
        let mounts = |pid: &str| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/mounts")).unwrap_or_default();
            text.lines().filter(|line| line.contains(&*folders)).count()
        };
        let own_mounts: usize = own.iter().map(|pid| mounts(&pid.to_string())).sum();
        let mut spaces = BTreeSet::new();
        for pid in &inside {
            spaces.extend(links(&format!("/proc/{pid}/ns")));
        }
        let files: Vec<PathBuf> = own.iter().flat_map(|pid| links(&format!("/proc/{pid}/fd"))).collect();
        spaces.extend(files.iter().filter(|link| is_namespace(link)).cloned());
        let interfaces = run(patience, Command::new("ip").args(["-o", "link"]))?;
        let prefix = format!("mn{}", id.get(..6).unwrap_or(id));
        let table = format!("minato_{id}");
        let rules = run(patience, Command::new("nft").args(["-s", "list", "table", "inet", &table]))?;
        Ok(Self(vec![
            ("processes", inside.len()),
            ("mounts", mounts("self") + own_mounts),
            ("namespaces", spaces.len()),
            ("control groups", groups(Path::new("/sys/fs/cgroup"), id)),
            ("links", interfaces.lines().filter(|line| line.contains(&prefix)).count()),
            // An element of a set counts as much as a rule, and several may share a line.
            ("rules", rules.split([',', '\n']).count()),
            ("descriptors", files.len()),
        ]))
    }

    /// Kind by kind, with how much more there is later.
    pub(crate) fn growth(&self, later: &Self) -> Vec<(&'static str, usize, usize)> {
        self.0.iter().zip(&later.0).map(|(&(kind, before), &(_, after))| (kind, before, after)).collect()
    }
}

/// The processes in the data directory's control groups that aren't just being reaped.
fn inside(id: &str) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let group = format!("minato-{id}");
    let belongs = |pid: &u32| {
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        groups.contains(&group)
    };
    pids.filter(belongs).collect()
}

/// Whether an open file is a namespace, such as `net:[4026531840]`.
fn is_namespace(link: &Path) -> bool {
    let text = link.to_string_lossy();
    let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
    text.split_once(":[").is_some_and(|(kind, _)| kinds.contains(&kind))
}

/// What the symbolic links of a folder name.
fn links(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect()
}

/// The folders below that are the data directory's, in every hierarchy.
fn groups(folder: &Path, id: &str) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let folders = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let own = |path: PathBuf| {
        let belongs = path.to_string_lossy().contains(&format!("minato-{id}"));
        usize::from(belongs) + groups(&path, id)
    };
    folders.map(|entry| own(entry.path())).sum()
}

/// What of a process's memory is in the machine's, in bytes; pages that are shared count whole.
pub(crate) fn resident(pid: u32) -> Result<u64> {
    memory(pid, "Rss:")
}

/// A process's share of memory, in bytes; pages that are shared count in part.
pub(crate) fn share(pid: u32) -> Result<u64> {
    memory(pid, "Pss:")
}

fn memory(pid: u32, what: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(&path).with_context(|| format!("can't read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(what));
    let line = line.with_context(|| format!("no {what} in {path}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

/// Bytes as megabytes.
#[expect(clippy::cast_precision_loss, reason = "a size to show")]
pub(crate) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
