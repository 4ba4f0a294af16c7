//! Writable paths: memory file systems with the content, owners and modes that the image has there.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, chownat, fchmod, fchown, mkdirat, mknodat,
        openat, readlinkat, statat, symlinkat,
    },
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_string,
        fsmount, fsopen, move_mount,
    },
};

use super::{Broken, During};

/// How deep directories may lie: more is an attack on the stack.
const DEPTH_MAX: usize = 64;

/// Puts a memory file system of `size` bytes over `path`, filled with what is there.
pub(super) fn writable(path: &str, size: u64) -> Result<(), Broken> {
    if path == "/tmp" {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let from = openat(CWD, path, flags, Mode::empty()).during("open a writable path")?;
    let system = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).during("make a memory file system")?;
    fsconfig_set_string(&system, "size", size.to_string()).during("make a memory file system")?;
    fsconfig_create(&system).during("make a memory file system")?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let mount =
        fsmount(&system, FsMountFlags::FSMOUNT_CLOEXEC, attributes).during("make a memory file system")?;
    let to = openat(&mount, ".", flags, Mode::empty()).during("make a memory file system")?;
    copy_directory(from.as_fd(), to.as_fd(), DEPTH_MAX).during("fill a writable path from the image")?;
    // The path may be a link, which was followed to what is in there.
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    move_mount(&mount, "", CWD, path, flags).during("attach a writable path")
}

/// Copies content, owner and mode of one open directory to another.
fn copy_directory(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
    if depth == 0 {
        return Err(Errno::LOOP.into());
    }
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                mkdirat(to, name, Mode::RWXU)?;
                let (from, to) =
                    (openat(from, name, flags, Mode::empty())?, openat(to, name, flags, Mode::empty())?);
                copy_directory(from.as_fd(), to.as_fd(), depth - 1)?;
            }
            FileType::RegularFile => {
                let source =
                    openat(from, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let target = openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
                copy_file(source, &target)?;
                own(&target, &stat)?;
            }
            FileType::Symlink => {
                symlinkat(readlinkat(from, name, Vec::new())?.as_c_str(), to, name)?;
                chownat(to, name, Some(owner(&stat)), Some(group(&stat)), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            FileType::Fifo => {
                mknodat(to, name, FileType::Fifo, Mode::from_raw_mode(stat.st_mode & 0o777), 0)?;
                chownat(to, name, Some(owner(&stat)), Some(group(&stat)), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            // Sockets of nobody, and devices, which no unpacked tree holds.
            FileType::Socket | FileType::CharacterDevice | FileType::BlockDevice | FileType::Unknown => {}
        }
    }
    own(&to, &statat(from, c"", AtFlags::EMPTY_PATH)?)
}

fn copy_file(source: OwnedFd, target: &OwnedFd) -> io::Result<()> {
    let mut target = std::fs::File::from(target.try_clone()?);
    io::copy(&mut std::fs::File::from(source), &mut target).map(drop)
}

fn own(target: &impl AsFd, stat: &Stat) -> io::Result<()> {
    fchown(target, Some(owner(stat)), Some(group(stat)))?;
    Ok(fchmod(target, Mode::from_raw_mode(stat.st_mode & 0o1777))?)
}

fn owner(stat: &Stat) -> Uid {
    Uid::from_raw(stat.st_uid)
}

fn group(stat: &Stat) -> Gid {
    Gid::from_raw(stat.st_gid)
}
