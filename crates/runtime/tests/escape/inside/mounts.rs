//! Mounts, and the tree of control groups behind them.

use std::{fs, io, path::Path};

use libc::c_long;

use crate::{
    raw::{call, place, text},
    said,
};

const HERE: c_long = libc::AT_FDCWD as c_long;
/// `MS_REMOUNT | MS_BIND`, and none of the flags that the mount has.
const REMOUNT: c_long = 0x20 | 0x1000;

pub(crate) fn attempt(words: &[&str]) -> Option<io::Result<()>> {
    let done = |result: io::Result<c_long>| Some(result.map(drop));
    match *words {
        ["mount"] => done(mount(c"tmpfs", c"/tmp", c"tmpfs", c"")),
        ["umount"] => done(call(libc::SYS_umount2, &[text(c"/tmp"), libc::MNT_DETACH.into()])),
        ["pivot_root"] => Some(
            std::env::set_current_dir("/tmp")
                .and_then(|()| call(libc::SYS_pivot_root, &[text(c"."), text(c".")]).map(drop)),
        ),
        ["chroot"] => done(call(libc::SYS_chroot, &[text(c"/tmp")])),
        ["open_tree"] => done(call(libc::SYS_open_tree, &[HERE, text(c"/"), 1])),
        ["move_mount"] => {
            done(call(libc::SYS_move_mount, &[HERE, text(c"/tmp"), HERE, text(c"/dev/shm"), 0]))
        }
        ["fsopen"] => done(call(libc::SYS_fsopen, &[text(c"tmpfs"), 0])),
        ["remount"] => Some(
            call(libc::SYS_mount, &[0, text(c"/"), 0, REMOUNT, 0])
                .and_then(|_| crate::files::create("/escaped")),
        ),
        ["mount_setattr"] => {
            // Takes "read-only" away.
            let attributes: [u64; 4] = [0, 1, 0, 0];
            Some(
                call(libc::SYS_mount_setattr, &[HERE, text(c"/"), 0, place(&attributes), 32])
                    .and_then(|_| crate::files::create("/escaped")),
            )
        }
        ["release_agent"] => Some(release_agent()),
        ["leave_group", version] => Some(leave_group(version)),
        ["raise_limit", version] => Some(raise_limit(version)),
        _ => None,
    }
}

fn mount(
    source: &std::ffi::CStr,
    target: &std::ffi::CStr,
    kind: &std::ffi::CStr,
    options: &std::ffi::CStr,
) -> io::Result<c_long> {
    call(libc::SYS_mount, &[text(source), text(target), text(kind), 0, text(options)])
}

/// A hierarchy of its own, which goes with this mount: what it says, the host's kernel executes. It
/// says nothing that is there, and nothing is told to ask it.
fn release_agent() -> io::Result<()> {
    fs::create_dir("/tmp/groups")?;
    mount(c"none", c"/tmp/groups", c"cgroup", c"none,name=minato-escape")?;
    fs::write("/tmp/groups/release_agent", "/no/such/program")
}

fn mount_groups(version: &str) -> io::Result<()> {
    fs::create_dir("/tmp/groups")?;
    match version {
        "2" => mount(c"none", c"/tmp/groups", c"cgroup2", c"").map(drop),
        _ => mount(c"none", c"/tmp/groups", c"cgroup", c"pids").map(drop),
    }
}

/// Moves itself to where there are no limits.
fn leave_group(version: &str) -> io::Result<()> {
    mount_groups(version)?;
    let list = if version == "2" { "cgroup.procs" } else { "tasks" };
    if Path::new("/tmp/groups/pids.max").exists() {
        return said("only its own group is there");
    }
    fs::write(Path::new("/tmp/groups").join(list), "0")
}

/// Takes the limit of its own group away.
fn raise_limit(version: &str) -> io::Result<()> {
    mount_groups(version)?;
    fs::write("/tmp/groups/pids.max", "max")
}
