//! Who an instance is to others: three files of memory, which are there before the order, empty, in the
//! skeleton. An order fills them while the skeleton is the root still, so that nothing of an image has a
//! part in it, and their folder, read-only, goes over whatever the image has in its place.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rustix::{
    fs::{CWD, Mode, OFlags, Uid, fchown, mkdir, openat},
    mount::{MoveMountFlags, move_mount},
};
use serde::{Deserialize, Serialize};

use super::Parts;
use crate::{mounts, spec::Identity};

/// Where it is in the skeleton.
pub(super) const FOLDER: &str = "/identity";

/// The files, each with its mode.
const FILES: [(&str, u32); 3] = [("tls.crt", 0o444), (KEY, 0o400), ("ca.crt", 0o444)];
const KEY: &str = "tls.key";

/// How long each file is: they are one after another.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Pem {
    certificate: usize,
    key: usize,
    roots: usize,
}

impl Pem {
    pub(crate) fn of(identity: &Identity) -> Self {
        let Identity { certificate, key, roots } = identity;
        Self { certificate: certificate.len(), key: key.len(), roots: roots.len() }
    }

    /// Each file's part; `None`: they are no parts of this.
    fn split<'a>(&self, blob: &'a [u8]) -> Option<[&'a [u8]; 3]> {
        let (certificate, rest) = blob.split_at_checked(self.certificate)?;
        let (key, roots) = rest.split_at_checked(self.key)?;
        (roots.len() == self.roots).then_some([certificate, key, roots])
    }
}

/// Makes the folder and its files, with nothing in them.
pub(super) fn make_ready(base: &Path) -> io::Result<()> {
    let folder = base.join(FOLDER.trim_start_matches('/'));
    mkdir(&folder, Mode::from_raw_mode(0o755))?;
    for (name, mode) in FILES {
        std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(folder.join(name))?;
    }
    Ok(())
}

/// Writes them, and gives the key to the user. In the skeleton.
pub(super) fn write(pem: &Pem, blob: &[u8], uid: u32) -> io::Result<()> {
    let parts = pem.split(blob).ok_or(io::ErrorKind::InvalidData)?;
    let folder = openat(CWD, FOLDER, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for ((name, _), part) in FILES.into_iter().zip(parts) {
        let mut file = File::from(openat(&folder, name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?);
        file.write_all(part)?;
        if name == KEY {
            fchown(&file, Some(Uid::from_raw(uid)), None)?;
        }
    }
    Ok(())
}

/// Puts the folder where programs look for it. In the root file system, after its writable paths.
pub(super) fn attach(parts: &Parts) -> io::Result<()> {
    let from_fd = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(move_mount(&parts.identity, "", CWD, mounts::IDENTITY, from_fd)?)
}
