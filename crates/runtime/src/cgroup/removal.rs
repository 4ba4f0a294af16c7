//! Taking groups away: what is in them is killed, and they go when the last process has left.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::write;

/// Between two tries at first, in nanoseconds: what was killed is soon gone.
const FIRST: u64 = 5_000_000;
/// And later: a process that hangs in the kernel may do so for ever.
const LAST: u64 = 1_000_000_000;
/// How often a group's processes are listed for one kill: those that were forked meanwhile are new.
const LISTS_MAX: usize = 64;

/// The groups of one instance that something is still leaving.
#[derive(Debug)]
pub(crate) struct Leaving {
    directories: Vec<PathBuf>,
    /// The monotonic time of the next try, in nanoseconds.
    due: u64,
    /// The time from that to the one after.
    wait: u64,
}

impl Leaving {
    pub(super) fn new(directories: Vec<PathBuf>) -> Self {
        Self { directories, due: 0, wait: FIRST }
    }

    /// When it is worth while to try again, by the monotonic clock in nanoseconds.
    pub(crate) fn due(&self) -> u64 {
        self.due
    }

    /// Removes the groups if that is due, else kills what is in them; `false`: try again. What wasn't
    /// started by the keeper, or was forked while the others were killed, is found here.
    pub(crate) fn take_away(&mut self, now: u64) -> bool {
        if now < self.due {
            return false;
        }
        if remove(&self.directories) {
            return true;
        }
        self.kill();
        self.due = now + self.wait;
        self.wait = (2 * self.wait).min(LAST);
        false
    }

    pub(super) fn kill(&self) {
        self.directories.iter().for_each(|directory| kill(directory));
    }
}

/// Which groups, and what is in them.
impl std::fmt::Display for Leaving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let there = self.directories.iter().filter(|directory| directory.exists());
        for (number, directory) in there.enumerate() {
            let processes = processes(directory).iter().map(i32::to_string).collect::<Vec<_>>().join(", ");
            let comma = if number > 0 { ", " } else { "" };
            write!(f, "{comma}{} (processes: {processes})", directory.display())?;
        }
        Ok(())
    }
}

/// Removes the groups; `false`: something in them is still on its way out.
pub(super) fn remove(directories: &[PathBuf]) -> bool {
    let gone = directories.iter().filter(|path| match fs::remove_dir(path) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    });
    gone.count() == directories.len()
}

/// Kills every process of a group at once, where the kernel can.
pub(super) fn kill_at_once(directory: &Path) -> bool {
    write(&directory.join("cgroup.kill"), "1").is_ok()
}

/// Kills every process of a group, and those that they fork meanwhile.
pub(super) fn kill(directory: &Path) {
    if kill_at_once(directory) {
        return;
    }
    let mut killed = BTreeSet::new();
    for _ in 0..LISTS_MAX {
        let new: Vec<i32> =
            processes(directory).into_iter().filter(|&pid| pid > 1 && killed.insert(pid)).collect();
        if new.is_empty() {
            return;
        }
        new.into_iter().for_each(|pid| crate::sys::kill(pid, libc::SIGKILL));
    }
}

fn processes(directory: &Path) -> Vec<i32> {
    let list = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    list.lines().filter_map(|line| line.parse().ok()).collect()
}
