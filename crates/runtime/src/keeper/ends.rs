//! Ends that nobody has said to know: in memory for the next server, and on disk for the next keeper.

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use minato_model::ids::InstanceId;

use crate::spec::Held;

/// The most ends that are kept: the oldest are forgotten first.
const ENDS_MAX: usize = 4096;
/// The size at which the file is written anew.
const FILE_MAX: u64 = 4 * 1024 * 1024;

/// The list, and its file.
#[derive(Debug)]
pub(super) struct Ends {
    list: VecDeque<Held>,
    file: File,
}

impl Ends {
    /// Opens the file and takes what a former keeper left. A record that was torn is left out.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
        let mut text = Vec::new();
        (&mut file).take(2 * FILE_MAX).read_to_end(&mut text)?;
        let list = text.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
        let mut ends = Self { list: list.collect(), file };
        ends.shorten();
        ends.write_anew()?;
        Ok(ends)
    }

    /// Adds an end.
    pub(super) fn add(&mut self, held: Held) {
        let line = serde_json::to_vec(&held).map(|mut line| {
            line.push(b'\n');
            line
        });
        self.list.push_back(held);
        self.shorten();
        // What can't be written is lost with the keeper only.
        if let Ok(line) = line {
            drop(self.file.write_all(&line));
        }
        if self.file.metadata().is_ok_and(|data| data.len() > FILE_MAX) {
            drop(self.write_anew());
        }
    }

    /// The tag of an instance whose end came first.
    pub(super) fn tag(&mut self, instance: &InstanceId, tag: Vec<u8>) {
        if let Some(held) = self.list.iter_mut().find(|held| held.instance == *instance) {
            held.tag = tag;
        }
    }

    /// Somebody knows this end.
    pub(super) fn forget(&mut self, instance: &InstanceId) {
        self.list.retain(|held| held.instance != *instance);
        // The file keeps what is known until nothing else is in it: an id means nothing to who knows
        // its end already.
        if self.list.is_empty() {
            drop(self.file.set_len(0));
        }
    }

    /// All of them, oldest first.
    pub(super) fn all(&self) -> impl Iterator<Item = &Held> {
        self.list.iter()
    }

    fn shorten(&mut self) {
        while self.list.len() > ENDS_MAX {
            self.list.pop_front();
        }
    }

    fn write_anew(&mut self) -> io::Result<()> {
        let mut bytes = Vec::new();
        for held in &self.list {
            serde_json::to_writer(&mut bytes, held)?;
            bytes.push(b'\n');
        }
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&bytes)
    }
}
