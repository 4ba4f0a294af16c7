//! One layer, entry by entry: each is checked, then put in its place in the tree.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::BufRead,
    rc::Rc,
};

use rustix::fs::FileType;

use super::{
    archive::{Archive, Entry, Kind},
    error::{Fault, Refusal, printable},
    place::{self, Parent, Place},
};

/// Bytes of names that are kept while an image is unpacked: several times what a million files with
/// usual names need.
pub(super) const NAMES_MAX: usize = 128 << 20;

/// What has been unpacked of the whole image.
pub(super) struct Work {
    pub(super) place: Place,
    pub(super) files: u64,
    pub(super) files_max: u64,
    /// How many bytes of names may still be kept: paths can be long, and an archive of them small.
    pub(super) names_left: usize,
    /// When each directory was changed, set when all are filled.
    pub(super) times: BTreeMap<Vec<u8>, (i64, u32)>,
}

impl Work {
    fn count(&mut self) -> Result<(), Fault> {
        self.files += 1;
        if self.files > self.files_max { Err(Fault::Limit("files", self.files_max)) } else { Ok(()) }
    }

    fn keep(&mut self, name: &[u8]) -> Result<(), Fault> {
        let refuse = || Fault::Limit("bytes of names", NAMES_MAX as u64);
        self.names_left = self.names_left.checked_sub(name.len()).ok_or_else(refuse)?;
        Ok(())
    }

    fn set_time(&mut self, path: &[u8], time: (i64, u32)) -> Result<(), Fault> {
        if let Some(known) = self.times.get_mut(path) {
            *known = time;
            return Ok(());
        }
        self.keep(path)?;
        self.times.insert(path.to_vec(), time);
        Ok(())
    }
}

/// Goes through a layer.
pub(super) struct Application<'a> {
    work: &'a mut Work,
    /// The names that this layer made, by the inode of their directory: a whiteout takes away what
    /// lower layers have, never what its own has. `None` in the lowest layer, which has none below.
    made: Option<BTreeSet<(u64, Vec<u8>)>>,
    /// The entry in hand, for errors.
    path: Vec<u8>,
    bytes_left: u64,
}

impl<'a> Application<'a> {
    pub(super) fn new(work: &'a mut Work, lowest: bool, bytes_left: u64) -> Self {
        Self { work, made: (!lowest).then(BTreeSet::new), path: Vec::new(), bytes_left }
    }

    /// The last entry's path, as it is written.
    pub(super) fn path(&self) -> &[u8] {
        &self.path
    }

    pub(super) fn run<R: BufRead>(&mut self, archive: &mut Archive<R>) -> Result<(), Fault> {
        while let Some(entry) = archive.next()? {
            self.path.clone_from(&entry.path);
            self.work.count()?;
            self.apply(&entry, archive)?;
        }
        Ok(())
    }

    fn apply<R: BufRead>(&mut self, entry: &Entry, archive: &mut Archive<R>) -> Result<(), Fault> {
        let path = normalised(&entry.path)?;
        let Some((parent, name)) = split(&path) else {
            return self.root(entry);
        };
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            return self.whiteout(parent, hidden);
        }
        // Union file systems' own records, below `.wh..wh.plnk` and the like, are no content.
        if path.split(|&byte| byte == b'/').any(|part| part.starts_with(b".wh..wh.")) {
            return Ok(());
        }
        match entry.kind {
            Kind::Device => return Err(Refusal::Device.into()),
            Kind::Other(kind) => return Err(Refusal::Kind(kind).into()),
            Kind::File | Kind::Directory | Kind::SymbolicLink | Kind::HardLink | Kind::Fifo => {}
        }
        let parent = self.parent(parent)?;
        self.note(parent.inode, name)?;
        // What a directory or a hard link replaces isn't always to go.
        if !matches!(entry.kind, Kind::Directory | Kind::HardLink) {
            self.work.place.vacate(&parent, name)?;
        }
        match entry.kind {
            Kind::Directory => self.directory(&parent, name, &path, entry),
            Kind::HardLink => self.hard_link(&parent, name, entry),
            Kind::SymbolicLink => parent.symbolic_link(name, entry),
            Kind::Fifo => parent.fifo(name, entry),
            Kind::File | Kind::Device | Kind::Other(_) => self.file(&parent, name, entry, archive),
        }
    }

    fn directory(&mut self, parent: &Parent, name: &[u8], path: &[u8], entry: &Entry) -> Result<(), Fault> {
        if parent.kind(name)? != Some(FileType::Directory) {
            self.work.place.vacate(parent, name)?;
        }
        self.work.set_time(path, entry.mtime)?;
        parent.directory(name)?.describe(entry)
    }

    fn root(&mut self, entry: &Entry) -> Result<(), Fault> {
        if entry.kind != Kind::Directory {
            return Err(Refusal::Root.into());
        }
        self.work.set_time(b"", entry.mtime)?;
        self.parent(b"")?.describe(entry)
    }

    fn parent(&mut self, path: &[u8]) -> Result<Rc<Parent>, Fault> {
        let mut implied = Vec::new();
        let parent = self.work.place.open_or_make(path, &mut |path, inode| {
            implied.push((path.to_vec(), inode));
        });
        for (path, inode) in implied {
            self.work.count()?;
            if let Some((_, name)) = split(&path) {
                self.note(inode, name)?;
            }
            // Directories that no layer describes are the same on every node.
            self.work.set_time(&path, (0, 0))?;
        }
        parent
    }

    /// Remembers that this layer made a name.
    fn note(&mut self, directory: u64, name: &[u8]) -> Result<(), Fault> {
        let Some(made) = &mut self.made else { return Ok(()) };
        self.work.keep(name)?;
        made.insert((directory, name.to_vec()));
        Ok(())
    }

    fn hard_link(&mut self, parent: &Parent, name: &[u8], entry: &Entry) -> Result<(), Fault> {
        let refuse = || Refusal::LinkTarget(printable(&entry.link));
        let target = normalised(&entry.link)?;
        let (directory, target) = split(&target).ok_or_else(refuse)?;
        let from = self.work.place.open(directory)?.ok_or_else(refuse)?;
        match from.kind(target)? {
            None | Some(FileType::Directory) => return Err(refuse().into()),
            Some(_) => {}
        }
        if from.inode == parent.inode && target == name {
            return Ok(());
        }
        self.work.place.vacate(parent, name)?;
        // What was vacated may have led to the target.
        if from.kind(target)?.is_none() {
            return Err(refuse().into());
        }
        parent.hard_link(name, &from, target)
    }

    fn whiteout(&mut self, directory: &[u8], hidden: &[u8]) -> Result<(), Fault> {
        let opaque = hidden == b".wh..opq";
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Refusal::Whiteout.into());
        }
        let Some(made) = &self.made else { return Ok(()) };
        if !opaque && hidden.starts_with(b".wh.") {
            return Ok(());
        }
        let mut keep = |inode: u64, name: &[u8]| made.contains(&(inode, name.to_vec()));
        let place = &mut self.work.place;
        let Some(parent) = place.open(directory)? else { return Ok(()) };
        if opaque {
            place.clear(&parent, b".", &mut keep).map(drop)
        } else {
            place.white_out(&parent, hidden, &mut keep)
        }
    }

    fn file<R: BufRead>(
        &mut self,
        parent: &Parent,
        name: &[u8],
        entry: &Entry,
        archive: &mut Archive<R>,
    ) -> Result<(), Fault> {
        // What a header claims is refused before a byte of it is written.
        let whole = [(0, entry.size)];
        let parts = entry.parts.as_deref().unwrap_or(&whole);
        let claimed: u64 = parts.iter().map(|(_, length)| length).sum();
        if claimed > self.bytes_left {
            return Err(Fault::Limit("bytes", self.bytes_left));
        }
        let file = parent.file(name)?;
        for &(mut offset, length) in parts {
            let end = offset + length;
            while offset < end {
                let piece = archive.data()?;
                let count = piece.len().min(usize::try_from(end - offset).unwrap_or(usize::MAX));
                if count == 0 {
                    return Err(Fault::Malformed("a sparse file has too few data".to_owned()));
                }
                place::write(&file, &piece[..count], offset)?;
                archive.consume(count);
                offset += count as u64;
            }
        }
        if entry.parts.is_some() {
            file.set_len(entry.size).map_err(|error| Fault::Io("setting a file's length", error))?;
        }
        place::describe_file(&file, entry)
    }
}

/// Names joined by `/`, without empty ones and `.`: what an archive's path means from the image's root.
fn normalised(path: &[u8]) -> Result<Vec<u8>, Refusal> {
    if path.contains(&0) {
        return Err(Refusal::ZeroByte);
    }
    let mut parts = Vec::new();
    for part in path.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(Refusal::Upwards),
            part => parts.push(part),
        }
    }
    let path = parts.join(&b'/');
    if path.len() > 4095 || parts.len() > 256 { Err(Refusal::TooLong) } else { Ok(path) }
}

/// The directory's path and the last name; `None`: the root.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() {
        return None;
    }
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => Some((&path[..slash], &path[slash + 1..])),
        None => Some((b"", path)),
    }
}
