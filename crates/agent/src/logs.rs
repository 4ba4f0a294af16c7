//! What instances wrote: where it is kept, and how it is read across the instances of a service.
//!
//! `<data>/logs/<app>/<service>/<release>-<instance>.log`, written by the keeper, one file and the one
//! before it for each instance; the files of instances that ended are removed when there are many.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use minato_model::{
    ids::{InstanceId, ReleaseKey, ReleaseNumber, ServiceKey},
    node::{LogLine, LogPosition, LogQuery},
};
use minato_runtime::logs::{Begin, Record, read};

use crate::node::Node;

/// Logs of ended instances that are kept per service.
const KEPT: usize = 20;
/// And at most so many bytes of them; the last one always.
const KEPT_BYTES: u64 = 64 << 20;
/// Lines in one answer at most: with the longest lines it is a hundred megabytes and more.
const LINES_MAX: usize = 10_000;
/// Lines of an instance's story.
const LAST_LINES: usize = 20;
/// Each of those at most so long: a thousand stories are kept in memory.
const LAST_LINE_CHARS: usize = 500;

/// The log of one instance.
struct Log {
    release: ReleaseNumber,
    instance: InstanceId,
    path: PathBuf,
}

/// Where an instance's log is.
pub(crate) fn path(data: &Path, key: &ReleaseKey, id: &InstanceId) -> PathBuf {
    folder(data, &key.service).join(format!("{}-{id}.log", key.number))
}

fn folder(data: &Path, service: &ServiceKey) -> PathBuf {
    data.join("logs").join(service.app.as_str()).join(service.service.as_str())
}

/// The lines that a query asks for, oldest first. Blocks on the disk.
pub(crate) fn query(data: &Path, query: &LogQuery) -> io::Result<Vec<LogLine>> {
    let limit = query.limit.min(LINES_MAX);
    let mut lines: Vec<LogLine> = Vec::new();
    for log in logs(&folder(data, &query.service))? {
        let other = query.release.is_some_and(|release| release != log.release)
            || query.instance.as_ref().is_some_and(|instance| *instance != log.instance);
        if other {
            continue;
        }
        let records = read(&log.path, begin(query.after.as_ref(), &log.instance), limit)?;
        lines.extend(records.into_iter().map(|record| line(&log, record)));
        if let Some(after) = &query.after {
            lines.retain(|line| line.position > *after);
        }
        // Cut after each file, so that no more than two answers are ever in memory.
        lines.sort_by(|a, b| a.position.cmp(&b.position));
        if query.after.is_some() {
            lines.truncate(limit);
        } else {
            lines.drain(..lines.len().saturating_sub(limit));
        }
    }
    Ok(lines)
}

fn begin(after: Option<&LogPosition>, instance: &InstanceId) -> Begin {
    match after {
        None => Begin::Tail,
        Some(after) if after.instance == *instance => Begin::AfterLine(after.line),
        Some(after) => Begin::Since(after.at),
    }
}

fn line(log: &Log, record: Record) -> LogLine {
    LogLine {
        position: LogPosition { at: record.at, instance: log.instance.clone(), line: record.line },
        release: log.release,
        stream: record.stream,
        text: record.text,
    }
}

/// The logs in a folder, in no certain order; none if there is no folder.
fn logs(folder: &Path) -> io::Result<Vec<Log>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut logs = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let stem = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".log"));
        let Some((release, instance)) = stem.and_then(|stem| stem.split_once('-')) else { continue };
        if let (Ok(release), Ok(instance)) = (release.parse(), instance.parse()) {
            logs.push(Log { release, instance, path });
        }
    }
    Ok(logs)
}

/// The last lines of a log, shortened. A log that can't be read has none.
pub(crate) async fn last_lines(log: PathBuf) -> Vec<String> {
    let records = tokio::task::spawn_blocking(move || read(&log, Begin::Tail, LAST_LINES)).await;
    match records {
        Ok(Ok(records)) => {
            records.into_iter().map(|record| record.text.chars().take(LAST_LINE_CHARS).collect()).collect()
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "log not readable");
            Vec::new()
        }
        Err(_panicked) => Vec::new(),
    }
}

/// Removes the logs of a service's ended instances above [`KEPT`], in the background.
pub(crate) fn sweep(node: &Arc<Node>, key: &ReleaseKey) {
    let folder = folder(&node.data, &key.service);
    let running: BTreeSet<InstanceId> = node.table().instances.keys().cloned().collect();
    node.tasks.spawn_blocking(move || {
        if let Err(error) = remove_oldest(&folder, &running) {
            tracing::warn!(%error, folder = %folder.display(), "old logs not removed");
        }
    });
}

fn remove_oldest(folder: &Path, running: &BTreeSet<InstanceId>) -> io::Result<()> {
    let mut ended = Vec::new();
    for log in logs(folder)? {
        if !running.contains(&log.instance) {
            let older = log.path.with_extension("log.1");
            let file = match fs::metadata(&log.path) {
                // Another sweep was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file?,
            };
            let before = fs::metadata(&older).map_or(0, |file| file.len());
            ended.push((file.modified()?, file.len() + before, log.path, older));
        }
    }
    ended.sort_unstable_by(|a, b| b.cmp(a));
    let mut kept = 0;
    for (index, (_, bytes, path, older)) in ended.iter().enumerate() {
        kept += bytes;
        if index >= KEPT || (index > 0 && kept > KEPT_BYTES) {
            remove(path)?;
            remove(older)?;
        }
    }
    Ok(())
}

/// Removes a file that somebody else may have removed before.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests;
