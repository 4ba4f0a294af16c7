//! What an instance writes goes from its pipes into two log files of bounded size. A full disk costs
//! lines, which are counted; it never blocks the program. One that writes faster than it is allowed
//! to waits at its full pipe, so that it costs neither a core nor the others' time.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Gid, Uid, fchown},
    pipe::{PipeFlags, pipe_with},
};

use crate::logs::TEXT_MAX;

/// How much of one pipe is read before others have their turn: what a pipe holds.
const TURN: usize = 64 * 1024;
/// The turns that empty any pipe: a program can make it hold a megabyte.
const TURNS_MAX: usize = (1 << 20) / TURN + 1;
/// What an instance may log in a second, and at once, in bytes: its files are full in seconds even so.
const RATE: u32 = 8 << 20;
const BURST: u32 = 4 << 20;

/// Whose line it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

pub(super) const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

/// What a look at a pipe came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    Something,
    /// Nothing is there now.
    Nothing,
    /// There will be no more.
    End,
}

/// The keeper's ends of an instance's pipes, and its log.
#[derive(Debug)]
pub(super) struct Output {
    stdout: Source,
    stderr: Source,
    log: Log,
    allowance: Allowance,
}

/// What an instance may still log; below zero is what it has to wait for.
#[derive(Debug)]
struct Allowance {
    left: i64,
    /// The monotonic time of this, in nanoseconds.
    at: u64,
}

#[derive(Debug)]
struct Source {
    pipe: OwnedFd,
    /// The beginning of a line whose end hasn't come yet, at most [`TEXT_MAX`] bytes.
    partial: Vec<u8>,
    /// The rest of this line is dropped.
    cut: bool,
    /// There will be no more.
    ended: bool,
}

#[derive(Debug)]
struct Log {
    path: PathBuf,
    max: u64,
    file: Option<File>,
    size: u64,
    line: u64,
    last_ms: i64,
    dropped: u64,
}

impl Output {
    /// Pipes for an instance whose ids begin at `owner`, and the ends that it is given.
    pub(super) fn new(path: &Path, max: u64, owner: u32) -> io::Result<(Self, [OwnedFd; 2])> {
        let (stdout, stdout_end) = source(owner)?;
        let (stderr, stderr_end) = source(owner)?;
        let log = Log {
            path: path.to_owned(),
            max: bounded(max),
            file: None,
            size: 0,
            line: 0,
            last_ms: 0,
            dropped: 0,
        };
        let allowance = Allowance { left: i64::from(BURST), at: 0 };
        Ok((Self { stdout, stderr, log, allowance }, [stdout_end, stderr_end]))
    }

    /// Says where it all goes, before anything was read.
    pub(super) fn bind(&mut self, path: PathBuf, max: u64) {
        self.log.path = path;
        self.log.max = bounded(max);
    }

    /// The pipe of a stream, to wait for; `None`: there will be no more.
    pub(super) fn pipe(&self, stream: Stream) -> Option<BorrowedFd<'_>> {
        let source = match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        };
        (!source.ended).then(|| source.pipe.as_fd())
    }

    fn source(&mut self, stream: Stream) -> &mut Source {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// Takes what is there, one turn's worth.
    pub(super) fn read(&mut self, stream: Stream, now_ms: i64) -> Taken {
        let mut buffer = [0; TURN];
        let length = match rustix::io::read(&self.source(stream).pipe, &mut buffer) {
            Ok(0) => return Taken::End,
            Ok(length) => length,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Taken::Nothing,
            Err(_) => return Taken::End,
        };
        self.log.begin(now_ms);
        let mut records = Vec::with_capacity(length + length / 2);
        let (source, log) = match stream {
            Stream::Stdout => (&mut self.stdout, &mut self.log),
            Stream::Stderr => (&mut self.stderr, &mut self.log),
        };
        source.split(&buffer[..length], |text, cut| log.record(&mut records, stream, text, cut));
        log.write(&records);
        // Short lines cost more than their bytes, and a line that is cut no less than its own.
        self.allowance.spend(records.len().max(length));
        Taken::Something
    }

    /// There will be no more of this stream.
    pub(super) fn end(&mut self, stream: Stream) {
        self.source(stream).ended = true;
    }

    /// How long, in nanoseconds, nothing is to be read because too much was; `now` is monotonic.
    pub(super) fn rest(&mut self, now: u64) -> Option<u64> {
        self.allowance.rest(now)
    }

    /// Takes the rest after every process of the instance has ended.
    pub(super) fn finish(&mut self, now_ms: i64) {
        for stream in STREAMS {
            // Nobody can write to it any more.
            for _ in 0..TURNS_MAX {
                if self.read(stream, now_ms) != Taken::Something {
                    break;
                }
            }
            let source = self.source(stream);
            let (text, cut) = (std::mem::take(&mut source.partial), source.cut);
            if !text.is_empty() {
                let mut records = Vec::new();
                self.log.record(&mut records, stream, &text, cut);
                self.log.write(&records);
            }
        }
    }
}

impl Allowance {
    fn spend(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Adds what time has given, and says how long to wait until there is enough for a turn.
    fn rest(&mut self, now: u64) -> Option<u64> {
        let gained = u128::from(now.saturating_sub(self.at)) * u128::from(RATE) / 1_000_000_000;
        self.left = self.left.saturating_add(i64::try_from(gained).unwrap_or(i64::MAX)).min(i64::from(BURST));
        self.at = now;
        let lacking = TURN as u64 + self.left.unsigned_abs();
        (self.left < 0).then(|| lacking.saturating_mul(1_000_000_000) / u64::from(RATE))
    }
}

/// A file holds some lines at least, whatever is asked for.
fn bounded(max: u64) -> u64 {
    max.max(4 * TEXT_MAX as u64)
}

fn source(owner: u32) -> io::Result<(Source, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    // The program's end blocks, as programs expect; only this end doesn't.
    rustix::io::ioctl_fionbio(&read, true)?;
    fchown(&write, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))?;
    Ok((Source { pipe: read, partial: Vec::new(), cut: false, ended: false }, write))
}

impl Source {
    /// Gives every line that ends in `bytes` to `line`, and keeps the rest.
    fn split(&mut self, bytes: &[u8], mut line: impl FnMut(&[u8], bool)) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (text, ended) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            let room = TEXT_MAX - self.partial.len();
            self.cut |= text.len() > room;
            self.partial.extend_from_slice(&text[..text.len().min(room)]);
            if ended {
                line(&self.partial, self.cut);
                self.partial.clear();
                self.cut = false;
            }
        }
    }
}

impl Log {
    /// Times never go back in a log, whatever the clock does.
    fn begin(&mut self, now_ms: i64) {
        self.last_ms = self.last_ms.max(now_ms);
    }

    fn record(&mut self, to: &mut Vec<u8>, stream: Stream, text: &[u8], cut: bool) {
        let letter = match stream {
            Stream::Stdout => 'o',
            Stream::Stderr => 'e',
        };
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        // Writing to memory can't fail.
        write!(to, "{} {} {letter} ", self.line, self.last_ms).ok();
        if cut {
            to.extend_from_slice(&text[..text.len().min(TEXT_MAX - "…".len())]);
            to.extend_from_slice("…".as_bytes());
        } else {
            to.extend_from_slice(text);
        }
        to.push(b'\n');
        self.line += 1;
    }

    /// Appends whole records or none.
    fn write(&mut self, records: &[u8]) {
        if records.is_empty() {
            return;
        }
        let mut bytes = Vec::new();
        let lines = records.iter().filter(|&&byte| byte == b'\n').count() as u64;
        if self.dropped > 0 {
            let note = format!("[{} lines were dropped: the log could not be written]", self.dropped);
            let first = self.line - lines;
            // It takes the number of the last line that was dropped.
            bytes.extend_from_slice(
                format!("{} {} e {note}\n", first.saturating_sub(1), self.last_ms).as_bytes(),
            );
        }
        bytes.extend_from_slice(records);
        match self.append(&bytes) {
            Ok(()) => self.dropped = 0,
            Err(_) => self.dropped += lines,
        }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = bytes.len() as u64;
        if self.file.is_some() && self.size + length > self.max {
            self.file = None;
            let mut former = self.path.clone().into_os_string();
            former.push(".1");
            fs::rename(&self.path, former)?;
        }
        let size = self.size;
        let file = match &mut self.file {
            Some(file) => file,
            empty => {
                if let Some(folder) = self.path.parent() {
                    fs::create_dir_all(folder)?;
                }
                let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
                self.size = file.metadata()?.len();
                empty.insert(file)
            }
        };
        let result = file.write_all(bytes);
        if result.is_ok() {
            self.size += length;
        } else {
            // No torn record stays.
            file.set_len(if size == 0 { self.size } else { size })?;
        }
        result
    }
}

#[cfg(test)]
mod tests;
