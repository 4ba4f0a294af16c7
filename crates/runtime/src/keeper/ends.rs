//! Ends that nobody has said to know: in memory for the next server, and on disk for the next keeper,
//! where a line is an end, or the id of an instance whose end is known by now.

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
        let mut ends = Self { list: VecDeque::new(), file };
        for line in text.split(|&byte| byte == b'\n') {
            if let Ok(held) = serde_json::from_slice::<Held>(line) {
                ends.list.push_back(held);
            } else if let Ok(known) = serde_json::from_slice::<InstanceId>(line) {
                ends.list.retain(|held| held.instance != known);
            }
        }
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
        let before = self.list.len();
        self.list.retain(|held| held.instance != *instance);
        if self.list.is_empty() {
            drop(self.file.set_len(0));
        } else if self.list.len() < before
            && let Ok(mut line) = serde_json::to_vec(instance)
        {
            line.push(b'\n');
            // What can't be written is told once more by the next keeper.
            drop(self.file.write_all(&line));
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::spec::{Ended, HeldState, Status};

    fn held(id: &str) -> Held {
        let instance: InstanceId = id.parse().unwrap();
        let ended = Ended { instance: instance.clone(), status: Status::Exit(1), oom: false, at_ms: 5 };
        Held {
            instance,
            pid: 7,
            start_time: 9,
            cgroup: String::new(),
            address: Ipv4Addr::LOCALHOST,
            id_range_start: 0,
            log: "/log".into(),
            tag: Vec::new(),
            state: HeldState::Ended(ended),
        }
    }

    #[test]
    fn the_next_keeper_tells_what_nobody_knew_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ended");
        let mut ends = Ends::open(&path).unwrap();
        for id in ["a1", "b2", "c3"] {
            ends.add(held(id));
        }
        ends.forget(&"b2".parse().unwrap());
        // Torn by the keeper's death.
        ends.file.write_all(b"{\"instance\":\"d4").unwrap();
        let mut ends = Ends::open(&path).unwrap();
        assert_eq!(ends.all().cloned().collect::<Vec<_>>(), [held("a1"), held("c3")]);
        ends.forget(&"a1".parse().unwrap());
        ends.forget(&"c3".parse().unwrap());
        assert_eq!(path.metadata().unwrap().len(), 0);
    }
}
