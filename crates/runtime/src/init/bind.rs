//! The root file system takes the skeleton's place, and the skeleton's parts go into it.

use std::os::fd::BorrowedFd;

use rustix::{
    fs::CWD,
    mount::{MoveMountFlags, UnmountFlags, move_mount, unmount},
    process::{chdir, pivot_root},
};

use super::{Broken, During, Parts, skeleton};

/// Attaches `root`, a detached mount, and makes it the root, with everything that belongs into it.
pub(super) fn enter_root(root: BorrowedFd<'_>, parts: &Parts) -> Result<(), Broken> {
    let from_fd = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(root, "", CWD, skeleton::ROOT, from_fd).during("attach the root file system")?;
    chdir(skeleton::ROOT).during("enter the root file system")?;
    pivot_root(".", ".").during("enter the root file system")?;
    // Names are looked up in the new root already; the old one must stay until its parts are taken.
    for (path, part) in parts.trees.iter().chain(&parts.files) {
        let moved = move_mount(part, "", CWD, *path, from_fd);
        moved
            .during("attach /proc, /dev, /tmp and /etc")
            .map_err(|broken| Broken { path: (*path).into(), ..broken })?;
    }
    unmount(".", UnmountFlags::DETACH).during("leave the skeleton")?;
    chdir("/").during("enter the root file system")
}
