//! What instances use of the machine, and whether their control groups are as they were made. Only
//! reads, and only what the keeper made; for a look at every instance some times a minute.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use minato_model::ids::InstanceId;

use crate::{
    cgroup::{Hierarchies, Parent},
    spec::Limits,
};

/// What an instance uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory now, in bytes, without the part of the file cache that the kernel would give up first.
    pub memory: u64,
    /// The most memory it had, in bytes; 0 where the kernel doesn't say (version 2 before Linux 5.19).
    pub memory_peak: u64,
    /// Time on a processor since its start, in microseconds; 0 where the kernel doesn't say (version 1
    /// with `cpuacct` in a hierarchy of its own, and no version 2).
    pub cpu_micros: u64,
    /// Processes and threads now.
    pub pids: u32,
}

/// Reads the control groups of a node's instances.
#[derive(Debug)]
pub struct Reader {
    parent: Parent,
}

impl Reader {
    /// For the node with this id, as the keeper was given it.
    ///
    /// # Errors
    /// The machine's mounts can't be read.
    pub fn open(id: &str) -> io::Result<Self> {
        Ok(Self { parent: Parent::on(Hierarchies::find()?, id) })
    }

    /// What an instance uses now.
    ///
    /// # Errors
    /// Its control groups can't be read: `NotFound` where they are gone.
    pub fn usage(&self, instance: &InstanceId) -> io::Result<Usage> {
        let instance = instance.as_str();
        let unified = || self.parent.unified_group(instance).ok_or(io::ErrorKind::Unsupported);
        let (memory, memory_peak) = match self.parent.legacy_group("memory", instance) {
            Some(group) => (
                number(&group.join("memory.usage_in_bytes"))?
                    .saturating_sub(counter(&group.join("memory.stat"), "total_inactive_file")?),
                number(&group.join("memory.max_usage_in_bytes"))?,
            ),
            None => {
                let group = unified()?;
                let cache = counter(&group.join("memory.stat"), "inactive_file")?;
                let peak = or_zero(number(&group.join("memory.peak")))?;
                (number(&group.join("memory.current"))?.saturating_sub(cache), peak)
            }
        };
        let pids = match self.parent.legacy_group("pids", instance) {
            Some(group) => group,
            None => unified()?,
        };
        let pids = number(&pids.join("pids.current"))?;
        Ok(Usage {
            memory,
            memory_peak,
            cpu_micros: self.cpu_micros(instance)?,
            pids: u32::try_from(pids).unwrap_or(u32::MAX),
        })
    }

    /// Version 2 counts it in every group, whoever has the controller.
    fn cpu_micros(&self, instance: &str) -> io::Result<u64> {
        if let Some(group) = self.parent.unified_group(instance) {
            return or_zero(counter(&group.join("cpu.stat"), "usage_usec"));
        }
        let group = self.parent.legacy_group("cpu", instance).ok_or(io::ErrorKind::Unsupported)?;
        Ok(or_zero(number(&group.join("cpuacct.usage")))? / 1_000)
    }

    /// Every process that is in one of the instance's groups, ascending.
    ///
    /// # Errors
    /// As [`Reader::usage`].
    pub fn processes(&self, instance: &InstanceId) -> io::Result<Vec<u32>> {
        let mut processes = Vec::new();
        for group in self.parent.groups(instance.as_str()) {
            let text = fs::read_to_string(group.join("cgroup.procs"))?;
            // 0 stands for one that isn't in this process' own namespace.
            processes.extend(text.lines().filter_map(|line| line.parse().ok()).filter(|pid: &u32| *pid > 0));
        }
        processes.sort_unstable();
        processes.dedup();
        Ok(processes)
    }

    /// The first of its limits that isn't as it was set, in words.
    ///
    /// # Errors
    /// As [`Reader::usage`].
    pub fn changed_limit(&self, instance: &InstanceId, limits: &Limits) -> io::Result<Option<String>> {
        self.parent.changed_limit(instance.as_str(), limits)
    }

    /// Where its groups are, one in each hierarchy.
    #[must_use]
    pub fn directories(&self, instance: &InstanceId) -> Vec<PathBuf> {
        self.parent.groups(instance.as_str())
    }
}

/// A file that holds one number.
fn number(path: &Path) -> io::Result<u64> {
    fs::read_to_string(path)?.trim().parse().map_err(|_not_a_number| io::ErrorKind::InvalidData.into())
}

/// The number behind `key` in a file of `key number` lines.
fn counter(path: &Path, key: &str) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    Ok(lines.find(|(name, _)| *name == key).and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0))
}

/// A file that this machine hasn't says nothing.
fn or_zero(read: io::Result<u64>) -> io::Result<u64> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        read => read,
    }
}

#[cfg(test)]
mod tests;
