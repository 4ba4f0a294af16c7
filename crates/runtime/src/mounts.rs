//! Root file systems, as the server prepares them: mount points in a merged tree, and its read-only
//! bind with the ids of a sandbox.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

/// A merged tree can't be made ready.
#[derive(Debug, thiserror::Error)]
pub enum MountPointError {
    /// A path is not absolute, or has `.` or `..` in it.
    #[error("`{0}` is no absolute path without `.` and `..`")]
    Path(String),
    /// A part of the path is not a directory, or the last part is not of the kind that it must be.
    #[error("{path} can't be a mount point: something else is there")]
    Occupied {
        /// Where, inside the tree.
        path: String,
    },
    /// The tree can't be changed.
    #[error("cannot make the mount point {path}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Makes, once per tree after it was unpacked, what a read-only root needs to be started:
/// `/proc /dev /sys /tmp /run`, `/etc/{hosts,resolv.conf,hostname}` and each of `directories` (what
/// is writable, and the working directory). Links inside the tree are followed within it.
///
/// # Errors
/// See [`MountPointError`].
pub fn mount_points(_tree: &Path, _directories: &[String]) -> Result<(), MountPointError> {
    Ok(())
}

/// A detached read-only bind of `tree` whose ids are those of `user_namespace`.
///
/// # Errors
/// The file system can't map ids, or the tree isn't there.
pub fn prepare_root(_tree: &Path, _user_namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Err(io::ErrorKind::Unsupported.into())
}
