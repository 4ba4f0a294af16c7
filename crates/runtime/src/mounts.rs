//! Root file systems, as the server prepares them: mount points in a merged tree, and its read-only
//! bind with the ids of a sandbox.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{
        AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, chmodat, chownat, fchmod, fchown,
        fstat, mkdirat, open, openat, openat2, statat, unlinkat,
    },
    io::Errno,
    mount::{OpenTreeFlags, open_tree},
};

use crate::{
    protection::{Protection, Without},
    sys::{self, MountAttributes},
};

/// A merged tree can't be made ready.
#[derive(Debug, thiserror::Error)]
pub enum MountPointError {
    /// A path is not absolute, or has `.` or `..` in it.
    #[error("`{0}` is no absolute path without `.` and `..`")]
    Path(String),
    /// A part of the path is not a directory, or the last part is not of the kind that it must be.
    #[error("`{path}` can't be a mount point: something else is there")]
    Occupied {
        /// Where, inside the tree.
        path: String,
    },
    /// The tree can't be changed.
    #[error("cannot make the mount point `{path}`")]
    Io {
        /// Where, inside the tree.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// Where an instance finds its identity.
pub(crate) const IDENTITY: &str = "/run/minato/identity";

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// Makes, once per tree after it was unpacked, what a read-only root needs to be started:
/// `/proc /dev /sys /tmp /run`, `/etc/{hosts,resolv.conf,hostname}`, `/run/minato/identity` and each of
/// `directories` (what is writable, and the working directory). What is made is root's, 0755. Links inside
/// the tree are followed within it; a link in the place of one of the files is replaced, and whatever is in
/// the place of `/run/minato` and no directory.
///
/// # Errors
/// See [`MountPointError`].
pub fn mount_points(tree: &Path, directories: &[String]) -> Result<(), MountPointError> {
    let at = |path: &str| {
        let path = path.to_owned();
        move |errno: Errno| match errno {
            Errno::NOTDIR | Errno::EXIST | Errno::LOOP => MountPointError::Occupied { path },
            errno => MountPointError::Io { path, source: errno.into() },
        }
    };
    let root = open(tree, FOLDER, Mode::empty()).map_err(at("/"))?;
    unlink_run(&root).map_err(at("/run"))?;
    let own = ["/proc", "/dev", "/sys", "/tmp", "/run", "/etc"].map(str::to_owned);
    for path in own.iter().chain(directories) {
        let inside = path.strip_prefix('/').ok_or_else(|| MountPointError::Path(path.clone()))?;
        if inside.split('/').any(|part| part == "." || part == "..") {
            return Err(MountPointError::Path(path.clone()));
        }
        directory(&root, inside).map_err(at(path))?;
    }
    identity(&root).map_err(at(IDENTITY))?;
    let etc = resolve(&root, "etc", FOLDER).map_err(at("/etc"))?;
    for name in FILES {
        file(&etc, name).map_err(at(&format!("/etc/{name}")))?;
    }
    Ok(())
}

/// Takes `/run` away if it is a link to nowhere, or to what isn't the image's when it runs.
fn unlink_run(root: &OwnedFd) -> Result<(), Errno> {
    let linked = match statat(root, "run", AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => false,
        stat => FileType::from_raw_mode(stat?.st_mode) == FileType::Symlink,
    };
    if linked && !resolve(root, "run", FOLDER).is_ok_and(|run| stays(root, &run)) {
        unlinkat(root, "run", AtFlags::empty())?;
    }
    Ok(())
}

/// Makes the folder of the identity, which every user can reach.
fn identity(root: &OwnedFd) -> Result<(), Errno> {
    let run = resolve(root, "run", FOLDER)?;
    let mode = fstat(&run)?.st_mode;
    if mode & 0o111 != 0o111 {
        fchmod(&run, Mode::from_raw_mode(mode & 0o7777 | 0o111))?;
    }
    let minato = own_directory(&run, "minato")?;
    own_directory(&minato, "identity").map(drop)
}

/// Whether a directory of the tree is there still when `/proc`, `/dev` and `/tmp` have been put over it.
fn stays(root: &OwnedFd, directory: &OwnedFd) -> bool {
    let path = |of: &OwnedFd| std::fs::read_link(format!("/proc/self/fd/{}", of.as_raw_fd()));
    let (Ok(root), Ok(directory)) = (path(root), path(directory)) else { return false };
    let inside = directory.strip_prefix(root).ok().and_then(|inside| inside.components().next());
    inside.is_some_and(|first| !["proc", "dev", "tmp", "sys"].iter().any(|name| first.as_os_str() == *name))
}

/// A directory that is root's and that everybody may enter, in the place of whatever has the name.
fn own_directory(parent: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    let flags = FOLDER | OFlags::NOFOLLOW;
    match mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => {}
        made => made?,
    }
    let opened = match openat(parent, name, flags, Mode::empty()) {
        Err(Errno::NOTDIR | Errno::LOOP) => {
            unlinkat(parent, name, AtFlags::empty())?;
            mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
            openat(parent, name, flags, Mode::empty())?
        }
        opened => opened?,
    };
    let stat = fstat(&opened)?;
    // What is right stays as it is: instances may be looking.
    if (stat.st_uid, stat.st_gid) != (0, 0) {
        fchown(&opened, Some(Uid::ROOT), Some(Gid::ROOT))?;
    }
    if stat.st_mode & 0o7777 != 0o755 {
        fchmod(&opened, Mode::from_raw_mode(0o755))?;
    }
    Ok(opened)
}

/// Opens a path as a process would whose root the tree is.
fn resolve(root: &OwnedFd, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { "." } else { path };
    openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

/// Makes every directory of the path that isn't there.
fn directory(root: &OwnedFd, path: &str) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut done = String::new();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        let parent = resolve(root, &done, flags)?;
        if !done.is_empty() {
            done.push('/');
        }
        done.push_str(name);
        match resolve(root, &done, flags) {
            Err(Errno::NOENT) => {
                mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
                chmodat(&parent, name, Mode::from_raw_mode(0o755), AtFlags::empty())?;
            }
            result => drop(result?),
        }
    }
    Ok(())
}

/// Makes an empty file where there is none, and in the place of a link.
fn file(etc: &OwnedFd, name: &str) -> Result<(), Errno> {
    match statat(etc, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => {
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind == FileType::RegularFile {
                return Ok(());
            }
            if kind != FileType::Symlink {
                return Err(Errno::EXIST);
            }
            unlinkat(etc, name, AtFlags::empty())?;
        }
        Err(Errno::NOENT) => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    drop(openat(etc, name, flags, Mode::from_raw_mode(0o644))?);
    chownat(etc, name, Some(Uid::ROOT), Some(Gid::ROOT), AtFlags::SYMLINK_NOFOLLOW)
}

/// A detached read-only bind of `tree` whose ids are those of `user_namespace`.
///
/// # Errors
/// The file system can't map ids (`EINVAL`), or the tree isn't there.
pub fn prepare_root(tree: &Path, user_namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    prepare_root_without(tree, user_namespace, &Without::default())
}

/// [`prepare_root`] with something left out.
pub(crate) fn prepare_root_without(
    tree: &Path,
    user_namespace: BorrowedFd<'_>,
    without: &Without,
) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(CWD, tree, flags)?;
    let set = [
        (Protection::ReadOnlyRoot, libc::MOUNT_ATTR_RDONLY),
        (Protection::NoSetuid, libc::MOUNT_ATTR_NOSUID),
        (Protection::NoDevices, libc::MOUNT_ATTR_NODEV),
    ]
    .into_iter()
    .filter(|(protection, _)| !without.leaves_out(*protection))
    .fold(0, |set, (_, attribute)| set | attribute);
    let user_namespace = (!without.leaves_out(Protection::UserNamespace)).then_some(user_namespace);
    sys::set_mount(mount.as_fd(), MountAttributes { set, user_namespace })?;
    Ok(mount)
}

#[cfg(test)]
mod tests;
