//! What an instance writes goes from its pipes into two log files of bounded size. A full disk costs
//! lines, which are counted; it never blocks the program.

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

/// Whose line it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// The keeper's ends of an instance's pipes, and its log.
#[derive(Debug)]
pub(super) struct Output {
    stdout: Source,
    stderr: Source,
    log: Log,
}

#[derive(Debug)]
struct Source {
    pipe: OwnedFd,
    /// The beginning of a line whose end hasn't come yet, at most [`TEXT_MAX`] bytes.
    partial: Vec<u8>,
    /// The rest of this line is dropped.
    cut: bool,
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
        // A file holds some lines at least, whatever is asked for.
        let max = max.max(4 * TEXT_MAX as u64);
        let log = Log { path: path.to_owned(), max, file: None, size: 0, line: 0, last_ms: 0, dropped: 0 };
        Ok((Self { stdout, stderr, log }, [stdout_end, stderr_end]))
    }

    /// The pipe of a stream, to wait for.
    pub(super) fn pipe(&self, stream: Stream) -> BorrowedFd<'_> {
        match stream {
            Stream::Stdout => self.stdout.pipe.as_fd(),
            Stream::Stderr => self.stderr.pipe.as_fd(),
        }
    }

    /// Takes what is there, one turn's worth; `false`: there will be no more.
    pub(super) fn read(&mut self, stream: Stream, now_ms: i64) -> bool {
        let source = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let mut buffer = vec![0; TURN];
        match rustix::io::read(&source.pipe, &mut buffer) {
            Ok(0) => false,
            Ok(length) => {
                self.log.begin(now_ms);
                let mut records = Vec::with_capacity(length + length / 2);
                source.split(&buffer[..length], |text, cut| self.log.record(&mut records, stream, text, cut));
                self.log.write(&records);
                true
            }
            Err(error) => matches!(error, rustix::io::Errno::AGAIN | rustix::io::Errno::INTR),
        }
    }

    /// Takes the rest after every process of the instance has ended.
    pub(super) fn finish(&mut self, now_ms: i64) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            // A pipe holds at most a megabyte, and nobody can write to it any more.
            for _ in 0..32 {
                let before = self.log.line;
                if !self.read(stream, now_ms) || before == self.log.line {
                    break;
                }
            }
            let source = match stream {
                Stream::Stdout => &mut self.stdout,
                Stream::Stderr => &mut self.stderr,
            };
            let (text, cut) = (std::mem::take(&mut source.partial), source.cut);
            if !text.is_empty() {
                let mut records = Vec::new();
                self.log.record(&mut records, stream, &text, cut);
                self.log.write(&records);
            }
        }
    }
}

fn source(owner: u32) -> io::Result<(Source, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    // The program's end blocks, as programs expect; only this end doesn't.
    rustix::io::ioctl_fionbio(&read, true)?;
    fchown(&write, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))?;
    Ok((Source { pipe: read, partial: Vec::new(), cut: false }, write))
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
        to.extend_from_slice(format!("{} {} {letter} ", self.line, self.last_ms).as_bytes());
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
