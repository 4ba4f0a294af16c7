//! The node's journal: its last events in memory, and in files that survive a restart.
//!
//! Recording never waits for the disk: a thread of its own writes, and what it can't take in time
//! is missing in the file only. Numbers rise by one and continue after a restart.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use minato_model::{
    BoxFuture,
    event::{Event, Journal},
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// How many bytes of events are kept in memory: those of some hundreds of lives. What is older is read from
/// the files, which is seldom asked for.
const KEPT: usize = 1 << 20;
/// A file of this size is set aside; the one set aside before it is removed.
const FILE_MAX: u64 = 8 << 20;
/// Events on their way to the file: some seconds of a node in trouble.
const UNWRITTEN: usize = 4_096;

/// Why the journal can't be had.
#[derive(Debug, thiserror::Error)]
#[error("the journal {path} can't be opened")]
pub struct OpenError {
    /// Which file or folder.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// A journal in files: `events.ndjson`, and `events.ndjson.1` with what was before it.
#[derive(Debug)]
pub struct FileJournal {
    path: PathBuf,
    ring: Mutex<Ring>,
    last: watch::Sender<u64>,
    lines: Option<SyncSender<Arc<str>>>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Ring {
    /// As lines of the file: a fraction of what they take as data, and one allocation each.
    events: VecDeque<(u64, Arc<str>)>,
    /// Of their lines.
    bytes: usize,
    last: u64,
    keeps: Keeps,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line<E> {
    seq: u64,
    #[serde(flatten)]
    event: E,
}

impl FileJournal {
    /// Opens the journal in a folder, which is made if it isn't there, and reads what is kept.
    /// A line that was torn by a crash is left out.
    ///
    /// # Errors
    /// The folder or a file can't be opened or read.
    pub fn open(folder: &Path) -> Result<Arc<Self>, OpenError> {
        let path = folder.join("events.ndjson");
        let failed = |source| OpenError { path: path.clone(), source };
        fs::create_dir_all(folder).map_err(failed)?;
        let mut ring = Ring::default();
        ring.read(&before(&path)).map_err(failed)?;
        let torn = ring.read(&path).map_err(failed)?;
        let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
        if torn {
            file.write_all(b"\n").map_err(failed)?;
        }
        let (lines, receiver) = sync_channel(UNWRITTEN);
        let writer = Writer { size: file.metadata().map_err(failed)?.len(), file, path: path.clone() };
        let writer = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run(&receiver))
            .map_err(failed)?;
        let last = watch::Sender::new(ring.last);
        Ok(Arc::new(Self { path, ring: Mutex::new(ring), last, lines: Some(lines), writer: Some(writer) }))
    }

    /// What the files hold, and after that what may be on its way to them.
    fn read_files(&self, after: Option<u64>, limit: usize) -> Vec<(u64, Event)> {
        let mut found = Ring { keeps: Keeps::Count(limit, after), ..Ring::default() };
        for path in [before(&self.path), self.path.clone()] {
            if let Err(error) = found.read(&path) {
                tracing::warn!(%error, path = %path.display(), "journal not readable");
            }
        }
        for (seq, line) in &self.ring().events {
            if *seq > found.last {
                found.push(*seq, Arc::clone(line));
            }
        }
        found.events.into_iter().filter_map(parse).collect()
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FileJournal {
    fn drop(&mut self) {
        drop(self.lines.take());
        if self.writer.take().is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the journal's writer panicked");
        }
    }
}

impl Journal for FileJournal {
    fn record(&self, event: Event) {
        let mut ring = self.ring();
        let seq = ring.last + 1;
        let line: Arc<str> = match serde_json::to_string(&Line { seq, event: &event }) {
            Ok(line) => format!("{line}\n").into(),
            Err(error) => return tracing::error!(%error, seq, "event can't be written as JSON"),
        };
        // Sent under the lock, so that the file has the ring's order.
        if self.lines.as_ref().is_some_and(|lines| lines.try_send(Arc::clone(&line)).is_err()) {
            tracing::warn!(seq, "event not written to the journal's file");
        }
        ring.push(seq, line);
        drop(ring);
        self.last.send_replace(seq);
    }

    fn read(&self, after: Option<u64>, limit: usize) -> Vec<(u64, Event)> {
        let ring = self.ring();
        let (first, kept) = (ring.events.front().map_or(ring.last, |(seq, _)| *seq), ring.events.len());
        let older = match after {
            Some(after) => after + 1 < first,
            None => first > 1 && kept < limit,
        };
        if older {
            drop(ring);
            return self.read_files(after, limit);
        }
        let from = match after {
            Some(after) => ring.events.partition_point(|(seq, _)| *seq <= after),
            None => kept.saturating_sub(limit),
        };
        let lines: Vec<_> = ring.events.iter().skip(from).take(limit).cloned().collect();
        drop(ring);
        lines.into_iter().filter_map(parse).collect()
    }

    fn grown(&self, above: u64) -> BoxFuture<'_, ()> {
        let mut last = self.last.subscribe();
        Box::pin(async move {
            if last.wait_for(|last| *last > above).await.is_err() {
                // The journal is gone, which its borrower rules out: nothing can grow any more.
                std::future::pending::<()>().await;
            }
        })
    }
}

/// Which events a ring is for.
#[derive(Debug, Default, Clone, Copy)]
enum Keeps {
    /// The last [`KEPT`] bytes.
    #[default]
    Memory,
    /// So many: the last ones, or the first ones after a number.
    Count(usize, Option<u64>),
}

impl Keeps {
    fn wants(self, seq: u64, held: usize) -> bool {
        match self {
            Self::Count(limit, Some(after)) => seq > after && held < limit,
            Self::Count(_, None) | Self::Memory => true,
        }
    }

    fn is_over(self, bytes: usize, held: usize) -> bool {
        match self {
            Self::Memory => bytes > KEPT,
            Self::Count(limit, _) => held > limit,
        }
    }
}

fn parse((seq, line): (u64, Arc<str>)) -> Option<(u64, Event)> {
    Some((seq, serde_json::from_str::<Line<Event>>(&line).ok()?.event))
}

impl Ring {
    fn push(&mut self, seq: u64, line: Arc<str>) {
        self.last = seq;
        if !self.keeps.wants(seq, self.events.len()) {
            return;
        }
        self.bytes += line.len();
        self.events.push_back((seq, line));
        while self.keeps.is_over(self.bytes, self.events.len()) {
            let Some((_, line)) = self.events.pop_front() else { return };
            self.bytes -= line.len();
        }
    }

    /// Adds what a file holds; whether its last line was torn.
    fn read(&mut self, path: &Path) -> io::Result<bool> {
        let mut reader = match File::open(path) {
            Ok(file) => BufReader::new(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            if reader.read_until(b'\n', &mut bytes)? == 0 {
                return Ok(false);
            }
            if !bytes.ends_with(b"\n") {
                return Ok(true);
            }
            let line = String::from_utf8_lossy(&bytes);
            match serde_json::from_str::<Line<Event>>(&line) {
                Ok(Line { seq, .. }) if seq > self.last => self.push(seq, line.into()),
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, path = %path.display(), "journal line not readable"),
            }
        }
    }
}

/// What the thread owns.
struct Writer {
    path: PathBuf,
    file: File,
    size: u64,
}

impl Writer {
    fn run(mut self, lines: &Receiver<Arc<str>>) {
        while let Ok(line) = lines.recv() {
            if let Err(error) = self.write(&line) {
                tracing::warn!(%error, path = %self.path.display(), "journal not written");
            }
        }
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        if self.size >= FILE_MAX {
            fs::rename(&self.path, before(&self.path))?;
            self.file = OpenOptions::new().create(true).append(true).open(&self.path)?;
            self.size = 0;
        }
        self.file.write_all(line.as_bytes())?;
        self.size += line.len() as u64;
        Ok(())
    }
}

fn before(path: &Path) -> PathBuf {
    path.with_extension("ndjson.1")
}

#[cfg(test)]
mod tests;
