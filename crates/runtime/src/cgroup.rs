//! Control groups: limits, counting of ends by memory, and the killing of whole instances.
//!
//! ```text
//! <hierarchy>/minato-<id>/keeper        the keeper itself
//! <hierarchy>/minato-<id>/i-<instance>  an instance, in each hierarchy that is used
//! ```
//!
//! Where a controller is in version 2, everything is there. Else limits are version 1, and killing
//! and attaching are version 2 where that hierarchy is mounted too. The groups are at the roots of the
//! hierarchies, so that the next server finds them wherever it is started from.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    event::{Timespec, poll},
    fs::{CWD, Mode, OFlags, openat},
};

use crate::{init::monotonic, spec::Limits};

mod removal;
mod v1;
mod v2;

pub(crate) use removal::Leaving;

/// The controllers that limits need.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// How long a keeper waits for what a former one left, in nanoseconds, and how long a cleaning does.
const SWEEP_MAX: u64 = 2_000_000_000;
const CLEAN_MAX: u64 = 5_000_000_000;

/// The hierarchies of this machine.
#[derive(Debug, Clone)]
pub(crate) struct Hierarchies {
    /// Where version 2 is mounted.
    unified: Option<PathBuf>,
    /// Where each controller that is in version 1 is mounted.
    legacy: Vec<(&'static str, PathBuf)>,
}

/// The node's part of each hierarchy.
#[derive(Debug)]
pub(crate) struct Parent {
    hierarchies: Hierarchies,
    name: String,
    /// Where this process was in version 2 before it entered, below that hierarchy's root.
    origin: Option<PathBuf>,
}

/// An instance's control groups, one in each hierarchy.
#[derive(Debug)]
pub(crate) struct Group {
    directories: Vec<PathBuf>,
    unified: Option<PathBuf>,
    memory: PathBuf,
    memory_is_legacy: bool,
}

/// What a child needs to be in its group from its first moment, open until it is.
#[derive(Debug)]
pub(crate) struct Door {
    /// The version 2 group, for the clone.
    pub unified: Option<OwnedFd>,
    /// The `tasks` files of version 1, into which the child writes `0` itself: who moves itself need
    /// not wait for the machine's other processes to hold still.
    pub tasks: Vec<OwnedFd>,
}

/// What a control file holds for a limit.
#[derive(Debug)]
struct Setting {
    file: &'static str,
    value: String,
    /// Whether it is written at all, or only must not be anything else.
    written: bool,
    /// Whether the file may be missing.
    optional: bool,
}

impl Setting {
    fn written(file: &'static str, value: impl ToString) -> Self {
        Self { file, value: value.to_string(), written: true, optional: false }
    }

    fn if_there(file: &'static str, value: impl ToString) -> Self {
        Self { optional: true, ..Self::written(file, value) }
    }

    /// What the kernel has there by itself.
    fn untouched(file: &'static str, value: impl ToString) -> Self {
        Self { file, value: value.to_string(), written: false, optional: true }
    }

    fn set(&self, group: &Path) -> io::Result<()> {
        if self.written { self.write(group) } else { Ok(()) }
    }

    fn write(&self, group: &Path) -> io::Result<()> {
        let path = group.join(self.file);
        if self.optional && !path.exists() { Ok(()) } else { write(&path, &self.value) }
    }

    /// What the file holds instead, in words.
    fn changed(&self, group: &Path) -> io::Result<Option<String>> {
        let found = match fs::read_to_string(group.join(self.file)) {
            Err(error) if self.optional && error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found?,
        };
        let found = found.trim();
        let same = found == self.value || is_rounded(found, &self.value);
        Ok((!same).then(|| format!("{} is {found}, not {}", self.file, self.value)))
    }
}

/// Whether it is a number of bytes that the kernel rounded down to whole pages, of at most 64 KiB.
fn is_rounded(found: &str, value: &str) -> bool {
    const PAGE_MAX: u64 = 64 << 10;
    let (Ok(found), Ok(value)) = (found.parse::<u64>(), value.parse::<u64>()) else { return false };
    found > 0 && found % 4_096 == 0 && found < value && value - found < PAGE_MAX && value > PAGE_MAX
}

impl Hierarchies {
    /// Finds what is mounted.
    pub(crate) fn find() -> io::Result<Self> {
        Ok(Self::parse(&fs::read_to_string("/proc/self/mountinfo")?))
    }

    pub(crate) fn parse(mounts: &str) -> Self {
        let mut found = Self { unified: None, legacy: Vec::new() };
        for line in mounts.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(point) = left.split(' ').nth(4) else { continue };
            let mut right = right.split(' ');
            let (kind, options) = (right.next(), right.nth(1).unwrap_or_default());
            match kind {
                Some("cgroup2") if found.unified.is_none() => found.unified = Some(point.into()),
                Some("cgroup") => {
                    let has = |name: &&str| options.split(',').any(|option| option == *name);
                    let new = CONTROLLERS.into_iter().filter(has).map(|name| (name, PathBuf::from(point)));
                    found.legacy.extend(new);
                }
                _ => {}
            }
        }
        found
    }

    /// A controller that is in neither version.
    pub(crate) fn lacks(&self) -> Option<&'static str> {
        let unified = self.unified.as_deref().map(v2::controllers).unwrap_or_default();
        CONTROLLERS
            .into_iter()
            .find(|name| self.legacy_of(name).is_none() && !unified.split_whitespace().any(|c| c == *name))
    }

    /// Makes and removes a group in each hierarchy.
    pub(crate) fn try_root(&self) -> Result<(), (PathBuf, io::Error)> {
        for root in self.roots() {
            let path = root.join(format!("minato-try-{}", std::process::id()));
            fs::create_dir(&path).and_then(|()| fs::remove_dir(&path)).map_err(|error| (path, error))?;
        }
        Ok(())
    }

    fn legacy_of(&self, controller: &str) -> Option<&Path> {
        self.legacy.iter().find(|(name, _)| *name == controller).map(|(_, path)| path.as_path())
    }

    /// Every mount point, each once.
    fn roots(&self) -> Vec<&Path> {
        let mut roots: Vec<&Path> = self.unified.iter().map(PathBuf::as_path).collect();
        for (_, path) in &self.legacy {
            if !roots.contains(&path.as_path()) {
                roots.push(path);
            }
        }
        roots
    }
}

impl Parent {
    /// The part of the node with this id.
    pub(crate) fn new(id: &str) -> io::Result<Self> {
        Ok(Self::on(Hierarchies::find()?, id))
    }

    /// The part of the node with this id of these hierarchies.
    pub(crate) fn on(hierarchies: Hierarchies, id: &str) -> Self {
        Self { hierarchies, name: format!("minato-{id}"), origin: None }
    }

    /// Makes the directories, and moves this process into the keeper's.
    pub(crate) fn enter(&mut self) -> io::Result<()> {
        self.origin = v2::place(&fs::read_to_string("/proc/self/cgroup")?);
        for root in self.hierarchies.roots() {
            let parent = root.join(&self.name);
            make_directory(&parent)?;
            let unified = self.hierarchies.unified.as_deref() == Some(root);
            if unified {
                v2::enable(root, &parent, &self.unified_controllers())?;
            }
            let keeper = parent.join("keeper");
            make_directory(&keeper)?;
            write(&keeper.join(if unified { "cgroup.procs" } else { "tasks" }), "0")?;
        }
        Ok(())
    }

    fn unified_controllers(&self) -> Vec<&'static str> {
        CONTROLLERS.into_iter().filter(|name| self.hierarchies.legacy_of(name).is_none()).collect()
    }

    /// Makes the groups of an instance, with its limits.
    pub(crate) fn create(&self, instance: &str, limits: &Limits) -> io::Result<(Group, Door)> {
        let relative = self.relative(instance);
        let mut group = Group {
            directories: self.hierarchies.roots().iter().map(|root| root.join(&relative)).collect(),
            unified: self.hierarchies.unified.as_ref().map(|root| root.join(&relative)),
            memory: PathBuf::new(),
            memory_is_legacy: false,
        };
        let made = group.directories.iter().try_for_each(fs::create_dir);
        match made.and_then(|()| self.fill(&mut group, &relative, limits)) {
            Ok(door) => Ok((group, door)),
            Err(error) => {
                // Nothing was ever in it.
                drop(group.remove());
                Err(error)
            }
        }
    }

    /// Gives an instance that was made with `before` the limits `now`: what is different is written.
    pub(crate) fn change(&self, instance: &str, before: &Limits, now: &Limits) -> io::Result<()> {
        let relative = self.relative(instance);
        for controller in CONTROLLERS {
            let (_, old) = self.limited(controller, &relative, before)?;
            let (directory, mut new) = self.limited(controller, &relative, now)?;
            if controller == "memory" && now.memory > before.memory {
                // Version 1 never allows memory alone more than memory with swap.
                new.reverse();
            }
            new.retain(|setting| !old.iter().any(|o| (o.file, &o.value) == (setting.file, &setting.value)));
            new.iter().try_for_each(|setting| setting.write(&directory))?;
        }
        Ok(())
    }

    fn fill(&self, group: &mut Group, relative: &str, limits: &Limits) -> io::Result<Door> {
        let mut tasks = Vec::new();
        for directory in &group.directories {
            if group.unified.as_ref() != Some(directory) {
                tasks.push(openat(
                    CWD,
                    directory.join("tasks"),
                    OFlags::WRONLY | OFlags::CLOEXEC,
                    Mode::empty(),
                )?);
            }
        }
        for controller in CONTROLLERS {
            let (directory, settings) = self.limited(controller, relative, limits)?;
            settings.iter().try_for_each(|setting| setting.set(&directory))?;
        }
        match (self.hierarchies.legacy_of("memory"), &group.unified) {
            (Some(root), _) => {
                group.memory = root.join(relative);
                group.memory_is_legacy = true;
            }
            (None, Some(unified)) => group.memory.clone_from(unified),
            (None, None) => return Err(io::ErrorKind::Unsupported.into()),
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let unified =
            group.unified.as_ref().map(|path| openat(CWD, path, flags, Mode::empty())).transpose()?;
        Ok(Door { unified, tasks })
    }

    /// Where a controller limits the group at this path, and what it is given there.
    fn limited(
        &self,
        controller: &str,
        relative: &str,
        limits: &Limits,
    ) -> io::Result<(PathBuf, Vec<Setting>)> {
        match (self.hierarchies.legacy_of(controller), &self.hierarchies.unified) {
            (Some(root), _) => Ok((root.join(relative), v1::settings(controller, limits))),
            (None, Some(root)) => Ok((root.join(relative), v2::settings(controller, limits))),
            (None, None) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// The first limit of an instance that isn't as it was set, as `file is …, not …`.
    pub(crate) fn changed_limit(&self, instance: &str, limits: &Limits) -> io::Result<Option<String>> {
        let relative = self.relative(instance);
        for controller in CONTROLLERS {
            let (directory, settings) = self.limited(controller, &relative, limits)?;
            for setting in settings {
                if let Some(changed) = setting.changed(&directory)? {
                    return Ok(Some(changed));
                }
            }
        }
        Ok(None)
    }

    /// An instance's groups, one in each hierarchy.
    pub(crate) fn groups(&self, instance: &str) -> Vec<PathBuf> {
        let relative = self.relative(instance);
        self.hierarchies.roots().iter().map(|root| root.join(&relative)).collect()
    }

    /// An instance's group for a controller, if that is in version 1.
    pub(crate) fn legacy_group(&self, controller: &str, instance: &str) -> Option<PathBuf> {
        self.hierarchies.legacy_of(controller).map(|root| root.join(self.relative(instance)))
    }

    /// An instance's group in version 2.
    pub(crate) fn unified_group(&self, instance: &str) -> Option<PathBuf> {
        self.hierarchies.unified.as_ref().map(|root| root.join(self.relative(instance)))
    }

    /// The path of an instance's group below each hierarchy's root.
    pub(crate) fn relative(&self, instance: &str) -> String {
        format!("{}/i-{instance}", self.name)
    }

    /// Kills and removes every instance's group that a former keeper left; what can't be removed yet: a
    /// process that hangs in the kernel goes when that lets it.
    pub(crate) fn sweep(&self) -> io::Result<Vec<Leaving>> {
        self.sweep_where(|name| name != "keeper", SWEEP_MAX)
    }

    /// Kills and removes everything of this node, its keeper too.
    pub(crate) fn clean(&self) -> io::Result<()> {
        if let Some(left) = self.sweep_where(|_| true, CLEAN_MAX)?.first() {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, format!("{left} can't be removed")));
        }
        for root in self.hierarchies.roots() {
            remove_directory(&root.join(&self.name))?;
        }
        Ok(())
    }

    /// Removes what is left when no instance is: the keeper's own groups, after it left them.
    pub(crate) fn leave(&self) {
        for root in self.hierarchies.roots() {
            // To the roots, where every process may be, but in a container's part of version 2: there it goes
            // back. What fails is taken away by the next start.
            let unified = self.hierarchies.unified.as_deref() == Some(root);
            let origin = self.origin.as_ref().filter(|_| unified).map(|origin| root.join(origin));
            for place in [Some(root.to_owned()), origin].into_iter().flatten() {
                if write(&place.join("cgroup.procs"), "0").is_ok() {
                    break;
                }
            }
            drop(fs::remove_dir(root.join(&self.name).join("keeper")));
            drop(fs::remove_dir(root.join(&self.name)));
        }
    }

    fn sweep_where(&self, wanted: impl Fn(&str) -> bool, limit: u64) -> io::Result<Vec<Leaving>> {
        let mut found: BTreeMap<OsString, Vec<PathBuf>> = BTreeMap::new();
        for root in self.hierarchies.roots() {
            let entries = match fs::read_dir(root.join(&self.name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                if entry.file_type()?.is_dir() && entry.file_name().to_str().is_some_and(&wanted) {
                    found.entry(entry.file_name()).or_default().push(entry.path());
                }
            }
        }
        let mut left: Vec<Leaving> = found.into_values().map(Leaving::new).collect();
        // All first: their ends take as long as one's.
        left.iter().for_each(Leaving::kill);
        let end = monotonic() + limit;
        loop {
            let now = monotonic();
            left.retain_mut(|group| !group.take_away(now));
            if left.is_empty() || now > end {
                return Ok(left);
            }
            let due = left.iter().map(Leaving::due).min().unwrap_or(now);
            pause(Duration::from_nanos(due.min(end + 1).saturating_sub(now)));
        }
    }
}

impl Group {
    /// Kills every process of the instance; `false`: one that isn't in its groups yet isn't killed.
    pub(crate) fn kill(&self) -> bool {
        let at_once = self.unified.as_deref().is_some_and(removal::kill_at_once);
        if !at_once {
            self.directories.iter().for_each(|directory| removal::kill(directory));
        }
        at_once
    }

    /// How often the kernel killed something in it for want of memory, since it was made.
    pub(crate) fn out_of_memory_kills(&self) -> u64 {
        if self.memory_is_legacy {
            v1::out_of_memory_kills(&self.memory)
        } else {
            v2::out_of_memory_kills(&self.memory)
        }
    }

    /// Removes the groups, or says that something is still leaving them.
    pub(crate) fn remove(self) -> Result<(), Leaving> {
        if removal::remove(&self.directories) { Ok(()) } else { Err(Leaving::new(self.directories)) }
    }
}

/// The calling process enters the groups whose `tasks` files these are.
pub(crate) fn enter(tasks: &[BorrowedFd<'_>]) -> io::Result<()> {
    for file in tasks {
        rustix::io::write(file.as_fd(), b"0")?;
    }
    Ok(())
}

/// Waits, in a process whose only thread has nothing else to do.
pub(crate) fn pause(duration: Duration) {
    if let Ok(time) = Timespec::try_from(duration) {
        poll(&mut [], Some(&time)).ok();
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn remove_directory(path: &Path) -> io::Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Writes a control file; it is never made, and never cut.
fn write(path: &Path, text: &str) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}

/// The number behind `key` in a file of `key number` lines; 0 if it isn't there.
fn counter(path: &Path, key: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == key)
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests;
