//! Drift: what of a running instance was changed by hand. Every five seconds all instances are looked
//! at in one go, and who differs from what was started is replaced; what each uses is noted by the
//! same look. Nothing is put back: an instance is never changed.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::Path,
    sync::Arc,
    time::Duration,
};

use minato_model::ids::{InstanceId, ReleaseKey};
use minato_runtime::{
    spec::Limits,
    usage::{Reader, Usage},
};
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior};

use crate::{
    adopt::{self, Tag},
    look,
    node::Node,
    start,
    table::{Phase, Record, Table},
};

/// How often all are looked at: drift is seen, and acted upon, within ten seconds.
const EVERY: Duration = Duration::from_secs(5);
/// No process has more ancestors than this.
const ANCESTORS_MAX: usize = 1_024;

/// Who is looked at.
#[derive(Debug)]
struct Subject {
    id: InstanceId,
    key: ReleaseKey,
    /// Its first process.
    pid: u32,
    /// What was set; `None`: its release isn't known any more.
    limits: Option<Limits>,
    mounts: Option<u64>,
}

/// What was found.
#[derive(Debug, Default)]
struct Finding {
    usage: Option<Usage>,
    mounts: Option<u64>,
    drifted: Option<String>,
}

/// Looks at all instances, again and again.
pub(crate) async fn run(node: Arc<Node>) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = node.over.cancelled() => return,
            _ = tick.tick() => {}
        }
        let subjects = subjects(&node.table());
        if subjects.is_empty() {
            continue;
        }
        let id = node.id.to_string();
        match tokio::task::spawn_blocking(move || examine_all(&id, subjects)).await {
            Ok(Ok(found)) => found.into_iter().for_each(|(subject, finding)| note(&node, &subject, finding)),
            Ok(Err(error)) => tracing::warn!(%error, "control groups not found"),
            Err(_panicked) => tracing::error!("the look for drift panicked"),
        }
    }
}

/// Remembers the mounts of an instance that has just become ready, or was adopted.
pub(crate) async fn remember(node: Arc<Node>, id: InstanceId) {
    let Some(pid) = node.table().instances.get(&id).and_then(|record| record.pid) else { return };
    if let Ok(Ok(mounts)) = tokio::task::spawn_blocking(move || mounts(pid)).await
        && let Some(record) = node.table().instances.get_mut(&id)
    {
        record.vitals.mounts.get_or_insert(mounts);
    }
}

fn runs(record: &Record) -> bool {
    matches!(record.phase, Phase::Ready { .. } | Phase::Unhealthy { .. })
        && record.orders.borrow().drain.is_none()
}

fn subjects(table: &Table) -> Vec<Subject> {
    let subject = |record: &Record| {
        let state = table.releases.get(&record.release);
        Some(Subject {
            id: record.id.clone(),
            key: record.release.clone(),
            pid: record.pid?,
            limits: state.map(|state| start::limits(&state.release.spec.resources)),
            mounts: record.vitals.mounts,
        })
    };
    let undrifted = |record: &&Record| runs(record) && record.vitals.drifted.is_none();
    table.instances.values().filter(undrifted).filter_map(subject).collect()
}

fn note(node: &Arc<Node>, subject: &Subject, finding: Finding) {
    let mut table = node.table();
    let Some(record) = table.instances.get_mut(&subject.id).filter(|record| runs(record)) else { return };
    let used = finding.usage.as_ref();
    let warm = used.is_some_and(|usage| record.vitals.used(usage, node.baseline_after, Instant::now()));
    record.vitals.mounts = record.vitals.mounts.or(finding.mounts);
    if warm {
        let tag = Tag::of(record);
        drop(table);
        adopt::keep(node, &subject.id, &tag);
        table = node.table();
    }
    let Some(what) = finding.drifted else { return };
    let Some(record) = table.instances.get_mut(&subject.id) else { return };
    record.vitals.drifted = Some(what.clone());
    record.findings.push(format!("it was changed by hand: {what}"));
    drop(table);
    node.record("instance_drifted", &subject.key, &subject.id, &what, json!({ "differs": what }));
    node.signals.look(&subject.key.service);
}

/// The part that blocks: some small files an instance.
fn examine_all(id: &str, subjects: Vec<Subject>) -> io::Result<Vec<(Subject, Finding)>> {
    let reader = Reader::open(id)?;
    Ok(subjects
        .into_iter()
        .map(|subject| {
            // One that has ended meanwhile has no figures, and no drift.
            let finding = examine(&reader, &subject).unwrap_or_default();
            (subject, finding)
        })
        .collect())
}

fn examine(reader: &Reader, subject: &Subject) -> io::Result<Finding> {
    let mounts = mounts(subject.pid)?;
    let usage = reader.usage(&subject.id)?;
    let limit = match &subject.limits {
        Some(limits) => reader.changed_limit(&subject.id, limits)?,
        None => None,
    };
    let drifted = if let Some(limit) = limit {
        Some(format!("its limit {limit}"))
    } else if subject.mounts.is_some_and(|known| known != mounts) {
        Some("its mounts are not those it was started with".to_owned())
    } else {
        foreign(reader, subject)?
    };
    // What belongs to a process that is gone by now says nothing.
    let drifted = drifted.filter(|_| look::lives(subject.pid) == Some(true));
    Ok(Finding { usage: Some(usage), mounts: Some(mounts), drifted })
}

/// A process in its control groups that its first process didn't start. Families change while they are
/// looked at: only who is found twice counts.
fn foreign(reader: &Reader, subject: &Subject) -> io::Result<Option<String>> {
    let look = || -> io::Result<Vec<u32>> {
        let processes = reader.processes(&subject.id)?;
        Ok(processes.into_iter().filter(|pid| !descends(Path::new("/proc"), *pid, subject.pid)).collect())
    };
    let first = look()?;
    if first.is_empty() {
        return Ok(None);
    }
    let found = look()?.into_iter().find(|pid| first.contains(pid));
    Ok(found.map(|pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let name: String = name.trim().chars().flat_map(char::escape_debug).collect();
        format!("the process {pid} (`{name}`) is in its control group, and its first process didn't start it")
    }))
}

/// Whether a process is another one's descendant, in the same namespace of processes. Who is gone is.
fn descends(proc: &Path, pid: u32, ancestor: u32) -> bool {
    if pid == ancestor {
        return true;
    }
    let namespace = |pid: u32| fs::read_link(proc.join(format!("{pid}/ns/pid")));
    // One that has ended, but wasn't reaped, is in no namespace any more.
    if let (Ok(own), Ok(wanted)) = (namespace(pid), namespace(ancestor))
        && own != wanted
    {
        return false;
    }
    let mut current = pid;
    for _ in 0..ANCESTORS_MAX {
        match parent(proc, current) {
            None => return true,
            Some(parent) if parent == ancestor => return true,
            Some(0 | 1) => return false,
            Some(parent) => current = parent,
        }
    }
    false
}

fn parent(proc: &Path, pid: u32) -> Option<u32> {
    // `pid (name) state parent …`, where the name may hold anything.
    let stat = fs::read_to_string(proc.join(format!("{pid}/stat"))).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// A process' mounts, shortened to a number.
fn mounts(pid: u32) -> io::Result<u64> {
    Ok(shortened(&fs::read_to_string(format!("/proc/{pid}/mountinfo"))?))
}

/// Of each mount what only its own namespace can change: the number, where and how it is mounted, and of
/// a memory file system its size. A host may mount its file systems anew and move folders.
fn shortened(mountinfo: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut left = left.split(' ');
        // Number and parent, then device and root, then place and options.
        (left.next(), left.next()).hash(&mut hasher);
        (left.nth(2), left.next()).hash(&mut hasher);
        let mut right = right.split(' ');
        let kind = right.next();
        kind.hash(&mut hasher);
        if kind == Some("tmpfs") {
            right.nth(1).hash(&mut hasher);
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_differ_by_what_the_instance_sees_of_them() {
        let mounts = "40 39 8:1 /trees/a / ro,nosuid,nodev - ext4 /dev/sda1 rw\n\
                      41 40 0:50 / /tmp rw,nosuid - tmpfs tmpfs rw,size=4096k\n";
        let changed = |from: &str, to: &str| {
            assert!(mounts.contains(from));
            shortened(&mounts.replace(from, to)) != shortened(mounts)
        };
        assert!(changed("ro,nosuid,nodev", "rw,nosuid,nodev"));
        assert!(changed("size=4096k", "size=9999k"));
        assert!(changed("41 40", "41 40 0:1 / /x rw - tmpfs x rw\n41 40"));
        assert!(changed("/tmp", "/etc"));
        assert!(!changed("ext4 /dev/sda1 rw", "ext4 /dev/sda1 ro"), "the host's own");
        assert!(!changed("/trees/a", "/trees/a//deleted"), "the host's own");
    }

    /// A `/proc` with these processes and parents, all in one namespace but for `other`.
    fn family(parents: &[(u32, u32)], other: Option<u32>) -> tempfile::TempDir {
        let proc = tempfile::tempdir().unwrap();
        for (pid, parent) in parents {
            let folder = proc.path().join(pid.to_string());
            fs::create_dir_all(folder.join("ns")).unwrap();
            fs::write(folder.join("stat"), format!("{pid} (a) b) S {parent} 1 1")).unwrap();
            let namespace = if other == Some(*pid) { "pid:[2]" } else { "pid:[1]" };
            std::os::unix::fs::symlink(namespace, folder.join("ns/pid")).unwrap();
        }
        proc
    }

    #[test]
    fn who_was_started_from_outside_is_found() {
        let proc = family(&[(10, 5), (11, 10), (12, 11), (20, 5), (5, 1), (21, 0)], None);
        let descends = |pid| super::descends(proc.path(), pid, 10);
        assert!(descends(10) && descends(11) && descends(12));
        assert!(descends(99), "gone meanwhile");
        assert!(!descends(20) && !descends(21));
        let proc = family(&[(10, 5), (11, 10)], Some(11));
        assert!(!super::descends(proc.path(), 11, 10));
    }
}
