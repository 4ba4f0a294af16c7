//! The access log: a line for each request, written beside the requests' way and never in it.
//!
//! ```text
//! Line (a request's own) ─ dropped ─▶ Pen (a thread's buffer) ─ 64 KiB, or a second ─▶ Writer ─▶ file
//! ```
//!
//! Invariant: no request waits for the disk. Between a pen and the writer is a bounded channel; what
//! doesn't fit is dropped and counted.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::SyncSender,
    },
};

use minato_model::time::Moment;

mod common;
mod date;
mod entry;
mod json;
mod line;
mod pen;
mod text;
mod writer;

pub(crate) use line::{Line, flag};
pub(crate) use pen::Pen;
pub(crate) use writer::Writer;

/// Which requests are logged, how and where.
#[derive(Debug, Clone)]
pub struct AccessLog {
    /// How a line is written.
    pub format: Format,
    /// The file. The one before it has `.1` at its end.
    pub path: PathBuf,
    /// Which share of the requests that nothing is special about, from 0 to 1. Failures and the edge's own
    /// answers are always logged.
    pub sample: f64,
    /// How large the file may become, in bytes; with the one before it the log has twice that.
    pub max_bytes: u64,
    /// The time of day.
    pub clock: fn() -> Moment,
}

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// An object of JSON.
    Json,
    /// NCSA's combined format, with more at its end.
    Common,
}

/// Full buffers between the pens and the writer: four megabytes, more than a disk that works leaves
/// waiting.
const WAITING: usize = 64;

/// Lines on their way to the writer.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) text: Vec<u8>,
    pub(crate) lines: u32,
}

/// What pens and writer share.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    /// Lines that were not written: the disk was too slow, or full.
    pub(crate) dropped: AtomicU64,
    /// Empty buffers.
    spare: Mutex<Vec<Vec<u8>>>,
}

impl Desk {
    pub(crate) fn drop_lines(&self, lines: u32) {
        self.dropped.fetch_add(u64::from(lines), Relaxed);
    }

    fn take(&self) -> Vec<u8> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < WAITING {
            spare.push(buffer);
        }
    }
}

/// What each edge thread makes its pen of.
#[derive(Debug, Clone)]
pub(crate) struct Ink {
    pub(crate) format: Format,
    pub(crate) sample: f64,
    pub(crate) clock: fn() -> Moment,
    pub(crate) batches: SyncSender<Batch>,
    pub(crate) desk: Arc<Desk>,
}

/// The writer of a log, and what its pens are made of. The writer ends when all of those are gone.
pub(crate) fn open(log: AccessLog, desk: Arc<Desk>) -> (Writer, Ink) {
    let (batches, received) = std::sync::mpsc::sync_channel(WAITING);
    let AccessLog { format, path, sample, max_bytes, clock } = log;
    let writer = Writer::new(path, max_bytes, received, Arc::clone(&desk));
    (writer, Ink { format, sample, clock, batches, desk })
}
