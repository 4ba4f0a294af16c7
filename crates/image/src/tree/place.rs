//! The directory that an image becomes, and every change to it.
//!
//! Names in an image mean places below this directory and nothing else: parents are opened by
//! `openat2` with `RESOLVE_IN_ROOT`, which takes the directory for `/` even where a link is absolute
//! or climbs, and what is made or removed is one name in an opened parent, never followed.

use std::{
    fs::File,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::FileExt,
    },
    rc::Rc,
};

use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
    },
    io::Errno,
};

use super::{
    archive::Entry,
    error::{Fault, Refusal, printable},
};

/// Directories deep that an image may go, links followed: removing a tree opens each on the way.
const DEPTH_MAX: usize = 256;
/// Links to what isn't there, one after another: as many as Linux follows.
const LINKS_MAX: usize = 40;

/// The tree while it is made.
pub(super) struct Place {
    root: OwnedFd,
    /// Where that is on the host, as the kernel names it.
    root_path: Vec<u8>,
    /// The parent that was opened last: archives list a directory's files one after another.
    last: Option<(Vec<u8>, Rc<Parent>)>,
}

/// An opened directory of the tree.
pub(super) struct Parent {
    fd: OwnedFd,
    /// Names it for as long as it is there.
    pub(super) inode: u64,
}

impl Place {
    pub(super) fn new(root: OwnedFd) -> Result<Self, Fault> {
        let root_path = path_of(&root)?;
        Ok(Self { root, root_path, last: None })
    }

    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// The directory that `path` (names joined by `/`; empty: the root) means; `None` if there is none.
    pub(super) fn open(&mut self, path: &[u8]) -> Result<Option<Rc<Parent>>, Fault> {
        if let Some((name, parent)) = &self.last
            && name == path
        {
            return Ok(Some(Rc::clone(parent)));
        }
        let fd = match self.open_below(path, OFlags::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(Fault::of("opening a directory", errno)),
        };
        if self.below_root(&fd)?.iter().filter(|&&byte| byte == b'/').count() > DEPTH_MAX {
            return Err(Refusal::TooLong.into());
        }
        let inode =
            rustix::fs::fstat(&fd).map_err(|errno| Fault::of("looking at a directory", errno))?.st_ino;
        let parent = Rc::new(Parent { fd, inode });
        self.last = Some((path.to_vec(), Rc::clone(&parent)));
        Ok(Some(parent))
    }

    /// The same; what is missing is made, and `made` is told each path that was, and in which directory.
    pub(super) fn open_or_make(
        &mut self,
        path: &[u8],
        made: &mut dyn FnMut(&[u8], u64),
    ) -> Result<Rc<Parent>, Fault> {
        self.follow_or_make(path, made, LINKS_MAX)
    }

    fn follow_or_make(
        &mut self,
        path: &[u8],
        made: &mut dyn FnMut(&[u8], u64),
        links: usize,
    ) -> Result<Rc<Parent>, Fault> {
        if let Some(parent) = self.open(path)? {
            return Ok(parent);
        }
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let mut parent = self.open(b"")?.ok_or(Refusal::NotADirectory)?;
        let mut start = 0;
        for end in ends.chain([path.len()]) {
            let name = &path[start..end];
            parent = match self.open(&path[..end])? {
                Some(next) => next,
                None => {
                    match rustix::fs::mkdirat(&parent.fd, name, Mode::from_raw_mode(0o755)) {
                        Ok(()) => made(&path[..end], parent.inode),
                        // A link to what isn't there yet, as `/var/run` to `/run`: it is made there.
                        Err(Errno::EXIST) => {
                            let links = links.checked_sub(1).ok_or(Refusal::DeadLink)?;
                            let target = self.link_target(&parent, name)?;
                            self.follow_or_make(&target, made, links)?;
                        }
                        Err(errno) => return Err(Fault::of("making a directory", errno)),
                    }
                    self.open(&path[..end])?.ok_or(Refusal::DeadLink)?
                }
            };
            start = end + 1;
        }
        Ok(parent)
    }

    /// Where a link leads, from the root. Nothing is decided by it but what directory to make.
    fn link_target(&self, parent: &Parent, name: &[u8]) -> Result<Vec<u8>, Fault> {
        let target = rustix::fs::readlinkat(&parent.fd, name, Vec::new()).map_err(|_| Refusal::DeadLink)?;
        let target = target.as_bytes();
        let base = if target.starts_with(b"/") { Vec::new() } else { self.below_root(&parent.fd)? };
        let mut parts: Vec<&[u8]> = Vec::new();
        for part in base.split(|&byte| byte == b'/').chain(target.split(|&byte| byte == b'/')) {
            match part {
                b"" | b"." => {}
                b".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        Ok(parts.join(&b'/'))
    }

    /// Where an open directory really is, from the root.
    fn below_root(&self, directory: &OwnedFd) -> Result<Vec<u8>, Fault> {
        let path = path_of(directory)?;
        Ok(path.strip_prefix(self.root_path.as_slice()).ok_or(Refusal::DeadLink)?.to_vec())
    }

    fn open_below(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = flags | OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve)
    }

    /// Sets a directory's time, if it is one still.
    pub(super) fn set_directory_time(&self, path: &[u8], time: (i64, u32)) -> Result<(), Fault> {
        match self.open_below(path, OFlags::NOFOLLOW) {
            Ok(fd) => rustix::fs::futimens(&fd, &timestamps(time))
                .map_err(|errno| Fault::of("setting a directory's time", errno)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(errno) => Err(Fault::of("opening a directory", errno)),
        }
    }

    /// Makes room for something new at a name: whatever else was there is gone afterwards.
    pub(super) fn vacate(&mut self, parent: &Parent, name: &[u8]) -> Result<(), Fault> {
        match kind(parent, name)? {
            None => Ok(()),
            Some(FileType::Directory) => {
                self.clear(parent, name, &mut |_, _| false)?;
                self.remove(parent, name, AtFlags::REMOVEDIR)
            }
            Some(_) => self.remove(parent, name, AtFlags::empty()),
        }
    }

    fn remove(&mut self, parent: &Parent, name: &[u8], flags: AtFlags) -> Result<(), Fault> {
        // A remembered parent may have been found through what goes now.
        self.last = None;
        rustix::fs::unlinkat(&parent.fd, name, flags).map_err(|errno| Fault::of("removing a file", errno))
    }

    /// Removes what `name` is, but for what `keep` (told the directory's inode and the name) wants kept.
    pub(super) fn white_out(
        &mut self,
        parent: &Parent,
        name: &[u8],
        keep: &mut dyn FnMut(u64, &[u8]) -> bool,
    ) -> Result<(), Fault> {
        let kept = keep(parent.inode, name);
        match kind(parent, name)? {
            None => Ok(()),
            Some(FileType::Directory) => {
                let empty = self.clear(parent, name, keep)?;
                if kept || !empty { Ok(()) } else { self.remove(parent, name, AtFlags::REMOVEDIR) }
            }
            Some(_) if kept => Ok(()),
            Some(_) => self.remove(parent, name, AtFlags::empty()),
        }
    }

    /// Whites out all that the directory `name` holds; whether it is empty then.
    pub(super) fn clear(
        &mut self,
        parent: &Parent,
        name: &[u8],
        keep: &mut dyn FnMut(u64, &[u8]) -> bool,
    ) -> Result<bool, Fault> {
        let directory = open_directory(parent, name)?;
        let names = names(&directory)?;
        for name in &names {
            self.white_out(&directory, name, keep)?;
        }
        is_empty(&directory)
    }
}

impl Parent {
    /// Makes the directory `name`, or takes the one that is there.
    pub(super) fn directory(&self, name: &[u8]) -> Result<Rc<Self>, Fault> {
        match rustix::fs::mkdirat(&self.fd, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => open_directory(self, name).map(Rc::new),
            Err(errno) => Err(Fault::of("making a directory", errno)),
        }
    }

    /// Makes the empty file `name`, which isn't there.
    pub(super) fn file(&self, name: &[u8]) -> Result<File, Fault> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR)
            .map(File::from)
            .map_err(|errno| Fault::of("making a file", errno))
    }

    pub(super) fn fifo(&self, name: &[u8], entry: &Entry) -> Result<(), Fault> {
        let failed = |errno| Fault::of("making a fifo", errno);
        let mode = mode(entry);
        rustix::fs::mknodat(&self.fd, name, FileType::Fifo, Mode::RUSR, 0).map_err(failed)?;
        self.own(name, entry)?;
        // The name is a fifo that was made just now, in a directory that nobody else enters.
        rustix::fs::chmodat(&self.fd, name, mode, AtFlags::empty()).map_err(failed)
    }

    pub(super) fn symbolic_link(&self, name: &[u8], entry: &Entry) -> Result<(), Fault> {
        if entry.link.is_empty() || entry.link.len() > 4095 {
            return Err(Refusal::SymbolicLink(entry.link.len()).into());
        }
        rustix::fs::symlinkat(entry.link.as_slice(), &self.fd, name)
            .map_err(|errno| Fault::of("making a symbolic link", errno))?;
        self.own(name, entry)
    }

    /// Gives the file `target` of another directory the name `name` too.
    pub(super) fn hard_link(&self, name: &[u8], from: &Self, target: &[u8]) -> Result<(), Fault> {
        rustix::fs::linkat(&from.fd, target, &self.fd, name, AtFlags::empty())
            .map_err(|errno| Fault::of("making a hard link", errno))
    }

    /// What `name` is, not followed.
    pub(super) fn kind(&self, name: &[u8]) -> Result<Option<FileType>, Fault> {
        kind(self, name)
    }

    fn own(&self, name: &[u8], entry: &Entry) -> Result<(), Fault> {
        let (uid, gid) = owner(entry)?;
        rustix::fs::chownat(&self.fd, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| Fault::of("setting an owner", errno))?;
        rustix::fs::utimensat(&self.fd, name, &timestamps(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| Fault::of("setting a time", errno))
    }

    /// Gives a directory its entry's owner, mode and attributes; its time comes when it is filled.
    pub(super) fn describe(&self, entry: &Entry) -> Result<(), Fault> {
        describe(&self.fd, entry)
    }
}

/// Gives a file its entry's owner, mode, attributes and time.
pub(super) fn describe_file(file: &File, entry: &Entry) -> Result<(), Fault> {
    describe(file, entry)?;
    rustix::fs::futimens(file, &timestamps(entry.mtime)).map_err(|errno| Fault::of("setting a time", errno))
}

/// Writes at an offset.
pub(super) fn write(file: &File, bytes: &[u8], offset: u64) -> Result<(), Fault> {
    file.write_all_at(bytes, offset).map_err(|error| Fault::Io("writing a file", error))
}

fn describe(fd: impl std::os::fd::AsFd, entry: &Entry) -> Result<(), Fault> {
    let (uid, gid) = owner(entry)?;
    rustix::fs::fchown(&fd, Some(uid), Some(gid)).map_err(|errno| Fault::of("setting an owner", errno))?;
    rustix::fs::fchmod(&fd, mode(entry)).map_err(|errno| Fault::of("setting a mode", errno))?;
    // `security.*` gives rights (file capabilities), `trusted.*` and `system.*` are the host's to set.
    for (name, value) in entry.attributes.iter().filter(|(name, _)| name.starts_with(b"user.")) {
        match rustix::fs::fsetxattr(&fd, name.as_slice(), value, XattrFlags::empty()) {
            // A file system without attributes: no image can rely on what containers often lack.
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(Errno::RANGE | Errno::TOOBIG | Errno::INVAL) => {
                return Err(Refusal::Attribute(printable(name)).into());
            }
            Err(errno) => return Err(Fault::of("setting an attribute", errno)),
        }
    }
    Ok(())
}

/// setuid and setgid are left out: a process in an instance gains no rights by executing a file.
fn mode(entry: &Entry) -> Mode {
    Mode::from_raw_mode(entry.mode & 0o1777)
}

/// An instance's id range has 65,536 ids.
fn owner(entry: &Entry) -> Result<(Uid, Gid), Fault> {
    let id = |id: u64| u16::try_from(id).map(u32::from);
    match (id(entry.uid), id(entry.gid)) {
        (Ok(uid), Ok(gid)) => Ok((Uid::from_raw(uid), Gid::from_raw(gid))),
        _ => Err(Refusal::Owner { uid: entry.uid, gid: entry.gid }.into()),
    }
}

fn timestamps((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn kind(parent: &Parent, name: &[u8]) -> Result<Option<FileType>, Fault> {
    match rustix::fs::statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(Fault::of("looking at a file", errno)),
    }
}

fn open_directory(parent: &Parent, name: &[u8]) -> Result<Parent, Fault> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let failed = |errno| Fault::of("opening a directory", errno);
    let fd = rustix::fs::openat(&parent.fd, name, flags, Mode::empty()).map_err(failed)?;
    let inode = rustix::fs::fstat(&fd).map_err(failed)?.st_ino;
    Ok(Parent { fd, inode })
}

fn names(directory: &Parent) -> Result<Vec<Vec<u8>>, Fault> {
    let failed = |errno| Fault::of("reading a directory", errno);
    let mut names = Vec::new();
    for entry in Dir::read_from(&directory.fd).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}

fn is_empty(directory: &Parent) -> Result<bool, Fault> {
    Ok(names(directory)?.is_empty())
}

/// The path of an open directory on the host.
fn path_of(directory: &OwnedFd) -> Result<Vec<u8>, Fault> {
    let link = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let path = rustix::fs::readlinkat(CWD, link, Vec::new())
        .map_err(|errno| Fault::of("looking at a directory's place", errno))?;
    Ok(path.into_bytes())
}
