//! The surroundings that don't depend on an image: `/proc`, `/dev`, `/tmp` and three files of `/etc`,
//! on a small memory file system that the host's tree is left for.

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{CWD, Mode, mkdir, symlink},
    io::Errno,
    mount::{
        FsPickFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
        fsconfig_reconfigure, fsconfig_set_string, fspick, mount, mount_change, move_mount, open_tree,
        unmount,
    },
    process::{chdir, pivot_root},
};

use super::{Broken, During, Inside, identity};
use crate::{
    protection::{Protection, Without},
    sys::{self, MountAttributes},
};

/// Mounts that are moved over a root file system when there is one.
#[derive(Debug)]
pub(crate) struct Parts {
    /// Whole trees, and where each goes.
    pub trees: Vec<(&'static str, OwnedFd)>,
    /// Single files, detached, and where each goes.
    pub files: Vec<(&'static str, OwnedFd)>,
    /// The folder of its identity, read-only: what is in it is written elsewhere.
    pub identity: OwnedFd,
}

/// Where the root file system will be attached.
pub(super) const ROOT: &str = "/root";

/// Where the skeleton is built: a directory that every host has, in this namespace only.
const BASE: &str = "/sys";

const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// What tells of the host, or acts on it: empty inside.
const MASKED: [&str; 6] = ["kcore", "keys", "timer_list", "sched_debug", "latency_stats", "sysrq-trigger"];
const MASKED_DIRECTORIES: [&str; 3] = ["acpi", "scsi", "asound"];
/// Readable inside, never written.
const READ_ONLY: [&str; 4] = ["bus", "fs", "irq", "sys"];

const CALM: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// Builds it and leaves the host's tree.
pub(super) fn build(inside: &Inside<'_>, without: &Without) -> Result<Parts, Broken> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .during("part from the host's mounts")?;
    let host = without.leaves_out(Protection::OwnTree).then(|| whole("/")).transpose();
    let host = host.during("keep the host's tree")?;
    let devices = DEVICES.map(|name| clone_of(&format!("/dev/{name}")));
    memory(BASE, "size=128k,nr_inodes=64,mode=755", MountFlags::NOSUID).during("mount the skeleton")?;
    for name in ["proc", "dev", "tmp", "etc", "root"] {
        directory(&format!("{BASE}/{name}")).during("make the skeleton")?;
    }
    proc(&format!("{BASE}/proc"), without).during("mount /proc")?;
    let scratch = inside.scratch;
    dev(&format!("{BASE}/dev"), devices, scratch).during("mount /dev")?;
    memory(
        &format!("{BASE}/tmp"),
        &format!("size={scratch},mode=1777"),
        if without.leaves_out(Protection::NoDevices) {
            MountFlags::NOSUID
        } else {
            MountFlags::NOSUID | MountFlags::NODEV
        },
    )
    .during("mount /tmp")?;
    if !without.leaves_out(Protection::MaskedProc) && !without.leaves_out(Protection::PidNamespace) {
        mask(&format!("{BASE}/proc"), &format!("{BASE}/dev/null")).during("mask /proc")?;
    }
    write_files(Path::new(BASE), inside).during("write /etc")?;
    identity::make_ready(Path::new(BASE)).during("make room for its identity")?;
    chdir(BASE).during("enter the skeleton")?;
    enter_here().during("leave the host's tree")?;
    let mut parts = parts().during("take the skeleton's parts")?;
    parts.trees.extend(host.map(|tree| ("/host", tree)));
    Ok(parts)
}

/// Makes the current directory the root, and lets go of everything that was mounted before.
pub(super) fn enter_here() -> io::Result<()> {
    pivot_root(".", ".")?;
    // The old root lies over the new one now.
    unmount(".", UnmountFlags::DETACH)?;
    Ok(chdir("/")?)
}

fn memory(target: &str, options: &str, flags: MountFlags) -> io::Result<()> {
    let options = CString::new(options)?;
    Ok(mount("tmpfs", target, "tmpfs", flags, Some(options.as_c_str()))?)
}

fn directory(path: &str) -> io::Result<()> {
    Ok(mkdir(path, Mode::from_raw_mode(0o755))?)
}

fn clone_of(path: &str) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(open_tree(CWD, path, flags)?)
}

/// With everything that is mounted below.
fn whole(path: &str) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_RECURSIVE;
    Ok(open_tree(CWD, path, flags | OpenTreeFlags::OPEN_TREE_CLOEXEC)?)
}

fn attach(mount: &OwnedFd, target: &str) -> io::Result<()> {
    Ok(move_mount(mount, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

fn proc(target: &str, without: &Without) -> io::Result<()> {
    if without.leaves_out(Protection::PidNamespace) {
        attach(&whole("/proc")?, target)?;
    } else {
        mount("proc", target, "proc", CALM, None)?;
    }
    if without.leaves_out(Protection::NetworkNamespace) {
        return Ok(());
    }
    // Every user inside may listen on every port of the namespace, which is the instance's own.
    match std::fs::write(format!("{target}/sys/net/ipv4/ip_unprivileged_port_start"), "0") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn mask(target: &str, null: &str) -> io::Result<()> {
    for name in MASKED {
        let path = format!("{target}/{name}");
        match attach(&clone_of(null)?, &path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    for name in MASKED_DIRECTORIES {
        match memory(&format!("{target}/{name}"), "size=0k,nr_inodes=2,mode=555", CALM | MountFlags::RDONLY) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    for name in READ_ONLY {
        let path = format!("{target}/{name}");
        match clone_of(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            clone => {
                let clone = clone?;
                read_only(&clone)?;
                attach(&clone, &path)?;
            }
        }
    }
    Ok(())
}

fn read_only(mount: &OwnedFd) -> io::Result<()> {
    let set =
        libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    sys::set_mount(mount.as_fd(), MountAttributes { set, user_namespace: None })
}

fn dev(target: &str, devices: [io::Result<OwnedFd>; 6], scratch: u64) -> io::Result<()> {
    memory(target, "size=64k,nr_inodes=64,mode=755", MountFlags::NOSUID | MountFlags::NOEXEC)?;
    for (name, device) in DEVICES.iter().zip(devices) {
        let path = format!("{target}/{name}");
        std::fs::write(&path, "")?;
        attach(&device?, &path)?;
    }
    for name in ["pts", "shm"] {
        directory(&format!("{target}/{name}"))?;
    }
    let quiet = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("devpts", format!("{target}/pts"), "devpts", quiet, Some(c"newinstance,ptmxmode=0666,mode=0620"))?;
    memory(&format!("{target}/shm"), &format!("size={scratch},mode=1777"), CALM)?;
    for (link, to) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlink(to, format!("{target}/{link}"))?;
    }
    Ok(())
}

fn write_files(base: &Path, inside: &Inside<'_>) -> io::Result<()> {
    let Inside { hostname, address, dns, .. } = inside;
    let hosts = format!("127.0.0.1\tlocalhost\n{address}\t{hostname}\n");
    std::fs::write(base.join("etc/hosts"), hosts)?;
    std::fs::write(base.join("etc/hostname"), format!("{hostname}\n"))?;
    std::fs::write(base.join("etc/resolv.conf"), format!("nameserver {dns}\noptions ndots:1\n"))
}

/// Gives `/tmp` and `/dev/shm` another size.
pub(super) fn resize(parts: &Parts, size: u64) -> io::Result<()> {
    let size = size.to_string();
    for (tree, below) in [("/tmp", ""), ("/dev", "shm")] {
        let (_, tree) = parts.trees.iter().find(|(path, _)| *path == tree).ok_or(io::ErrorKind::NotFound)?;
        let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
        let system = fspick(tree, below, flags)?;
        fsconfig_set_string(&system, "size", size.as_str())?;
        fsconfig_reconfigure(&system)?;
    }
    Ok(())
}

fn parts() -> io::Result<Parts> {
    let opened = |path: &'static str| -> Result<_, Errno> {
        Ok((path, open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLOEXEC)?))
    };
    let trees = ["/proc", "/dev", "/tmp"].into_iter().map(opened).collect::<Result<_, _>>()?;
    let file = |path: &'static str| -> io::Result<_> {
        let clone = clone_of(path)?;
        read_only(&clone)?;
        Ok((path, clone))
    };
    let files = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"]
        .into_iter()
        .map(file)
        .collect::<Result<_, _>>()?;
    let identity = clone_of(identity::FOLDER)?;
    read_only(&identity)?;
    Ok(Parts { trees, files, identity })
}
