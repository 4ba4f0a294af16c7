//! The thread that writes the log's file, and keeps it within its bounds.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{Batch, Desk};

/// How often it is looked whether the file is still the one at its path.
const LOOK: Duration = Duration::from_secs(1);

/// Writes what the pens hand over.
#[derive(Debug)]
pub(crate) struct Writer {
    path: PathBuf,
    max_bytes: u64,
    batches: Receiver<Batch>,
    desk: Arc<Desk>,
    file: Option<Open>,
    looked: Instant,
    /// Whether the last write ended within a line.
    torn: bool,
    /// Lines that were dropped since writing failed; `None`: it works.
    failing: Option<u64>,
}

#[derive(Debug)]
struct Open {
    file: File,
    inode: (u64, u64),
    size: u64,
    /// A pipe or a terminal has neither size nor successor.
    regular: bool,
}

impl Writer {
    pub(super) fn new(path: PathBuf, max_bytes: u64, batches: Receiver<Batch>, desk: Arc<Desk>) -> Self {
        let looked = Instant::now();
        Self { path, max_bytes, batches, desk, file: None, looked, torn: false, failing: None }
    }

    /// Writes until all pens are gone.
    pub(crate) fn run(mut self) {
        loop {
            match self.batches.recv_timeout(LOOK) {
                Ok(batch) => {
                    self.look();
                    self.write(&batch);
                    self.desk.give_back(batch.text);
                }
                Err(RecvTimeoutError::Timeout) => self.look(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Lets go of a file that was moved or removed, so that the next line makes another.
    fn look(&mut self) {
        if self.looked.elapsed() < LOOK {
            return;
        }
        self.looked = Instant::now();
        if self.file.as_ref().is_some_and(|open| open.regular && !open.is_at(&self.path)) {
            self.file = None;
            self.torn = false;
        }
    }

    fn write(&mut self, batch: &Batch) {
        match self.append(&batch.text) {
            Ok(()) => {
                if let Some(dropped) = self.failing.take() {
                    tracing::info!(path = %self.path.display(), dropped, "the access log is written again");
                }
            }
            Err(error) => {
                self.desk.drop_lines(batch.lines);
                if self.failing.is_none() {
                    let path = self.path.display();
                    tracing::warn!(%path, %error, "the access log can't be written: its lines are dropped");
                }
                self.failing = Some(self.failing.unwrap_or(0) + u64::from(batch.lines));
                // Another one may do: the directory may be there again, or another disk.
                self.file = None;
            }
        }
    }

    fn append(&mut self, mut text: &[u8]) -> io::Result<()> {
        let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
        let file = self.file.take();
        let mut open = file.map_or_else(|| Open::at(&self.path), Ok)?;
        if open.regular && open.size > 0 && open.size.saturating_add(length) > self.max_bytes {
            open = self.rotate(open)?;
        }
        if self.torn {
            open.file.write_all(b"\n")?;
            open.size += 1;
            self.torn = false;
        }
        while !text.is_empty() {
            match open.file.write(text) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    text = text.get(written..).unwrap_or_default();
                    open.size += u64::try_from(written).unwrap_or(0);
                    self.torn = !text.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.file = Some(open);
        Ok(())
    }

    /// Makes the file the one before, and begins another. A server that takes over writes to the same
    /// file for a while, and may have done so already.
    fn rotate(&mut self, open: Open) -> io::Result<Open> {
        if open.is_at(&self.path) {
            let mut before = self.path.clone().into_os_string();
            before.push(".1");
            std::fs::rename(&self.path, before)?;
        }
        self.torn = false;
        Open::at(&self.path)
    }
}

impl Open {
    fn at(path: &Path) -> io::Result<Self> {
        let open = || {
            // A pipe that nobody reads must not hold the thread, and with it the server's end.
            let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
            OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(flags).open(path)
        };
        let file = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
                open()?
            }
            opened => opened?,
        };
        let metadata = file.metadata()?;
        let inode = (metadata.dev(), metadata.ino());
        Ok(Self { inode, size: metadata.len(), regular: metadata.is_file(), file })
    }

    fn is_at(&self, path: &Path) -> bool {
        path.metadata().is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.inode)
    }
}

#[cfg(test)]
mod tests;
