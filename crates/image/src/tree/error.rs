//! Why an image's layers don't become a directory.

use std::{io, path::PathBuf};

use minato_model::{code::Code, digest::Digest};
use rustix::io::Errno;

/// Why unpacking ended. Nothing of what was unpacked is left.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// An entry that no image may hold.
    #[error("layer {layer}: `{path}` {why}")]
    Refused {
        /// The layer.
        layer: Digest,
        /// The entry as the layer writes it, made printable and shortened.
        path: String,
        /// What is wrong with it.
        why: Refusal,
    },
    /// The image is larger than it may be.
    #[error("layer {layer}: the image has more than {limit} {what}, and so is refused")]
    Limit {
        /// The layer in which the limit was passed.
        layer: Digest,
        /// Of what: `bytes` or `files`.
        what: &'static str,
        /// How many there may be.
        limit: u64,
    },
    /// The stored bytes are others than the digest names.
    #[error(
        "layer {layer} holds other bytes than its digest says ({found}): it was changed or damaged where it is stored; push the image again"
    )]
    Digest {
        /// The layer.
        layer: Digest,
        /// What its bytes are.
        found: Digest,
    },
    /// There are fewer or more stored bytes than the manifest says.
    #[error(
        "layer {layer} has {found} bytes where the manifest says {expected}: it was damaged where it is stored; push the image again"
    )]
    Size {
        /// The layer.
        layer: Digest,
        /// What the manifest says.
        expected: u64,
        /// What there is.
        found: u64,
    },
    /// The content is another than the image's configuration says.
    #[error(
        "layer {layer} unpacks to {found} where the image's configuration says {expected}: manifest and configuration don't belong together; build and push the image again"
    )]
    DiffId {
        /// The layer.
        layer: Digest,
        /// What the configuration says.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// A kind of layer that Minato can't read.
    #[error(
        "layer {layer} is `{media_type}`: Minato reads layers that are tar, plain or compressed with gzip or zstd"
    )]
    MediaType {
        /// The layer.
        layer: Digest,
        /// What it is said to be.
        media_type: String,
    },
    /// Broken compression, or no tar archive.
    #[error("layer {layer} is broken after `{path}`: {why}; build and push the image again")]
    Malformed {
        /// The layer.
        layer: Digest,
        /// The last entry that was read; empty: none.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// No space is left.
    #[error("no space is left on the disk of {}: free some, the image is unpacked again by itself", path.display())]
    DiskFull {
        /// The directory that was to be made.
        path: PathBuf,
    },
    /// The node failed.
    #[error("{what} at {} failed", path.display())]
    Io {
        /// What was done.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl UnpackError {
    /// The code that stands for it.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Refused { .. } | Self::Limit { .. } | Self::MediaType { .. } | Self::Malformed { .. } => {
                Code::ImageRefused
            }
            Self::Digest { .. } | Self::Size { .. } | Self::DiffId { .. } => Code::ImageDigest,
            Self::DiskFull { .. } => Code::DiskFull,
            Self::Io { .. } => Code::NodeFault,
        }
    }
}

/// What is wrong with an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// `..` in its path, or in a hard link's target.
    #[error("has `..` in its path: it would lead out of the image")]
    Upwards,
    /// A device node.
    #[error("is a device node: every instance has its own /dev; build the image without it")]
    Device,
    /// An owner that can't be mapped.
    #[error("is owned by {uid}:{gid}: user and group ids end at 65535")]
    Owner {
        /// The user.
        uid: u64,
        /// The group.
        gid: u64,
    },
    /// The root of the image as something else than a directory.
    #[error("would replace the image's root directory")]
    Root,
    /// Nothing, or a directory, at the other end of a hard link.
    #[error("is a hard link to `{0}`, which is no file of this image")]
    LinkTarget(String),
    /// A symbolic link without target, or with one that no file system takes.
    #[error("is a symbolic link with a target of {0} bytes (1 to 4095 are possible)")]
    SymbolicLink(usize),
    /// A parent that is a link in a circle, or to what no directory can be.
    #[error("lies behind a symbolic link that leads nowhere")]
    DeadLink,
    /// A parent that is no directory.
    #[error("lies below something that is no directory")]
    NotADirectory,
    /// Too long or too deep.
    #[error("has too long a path: at most 4095 bytes, 255 a name and 256 directories deep")]
    TooLong,
    /// A zero byte within.
    #[error("has a zero byte in its path")]
    ZeroByte,
    /// A whiteout of nothing, `.` or `..`.
    #[error("is a whiteout of nothing that a directory can hold")]
    Whiteout,
    /// A kind of entry that layers don't have.
    #[error("is an entry of kind `{0}`, which images don't have")]
    Kind(char),
    /// More names for a file than the file system takes.
    #[error("is one hard link too many for the file system")]
    TooManyLinks,
    /// An attribute that the file system doesn't take.
    #[error("has an extended attribute `{0}` that is too large")]
    Attribute(String),
    /// More than a file may have, holes included.
    #[error("is a sparse file of {0} bytes; at most 1 TiB is taken")]
    Sparse(u64),
}

/// What goes wrong while one entry is put in its place; the layer's and the entry's names are added
/// by whoever goes through the layer.
#[derive(Debug)]
pub(super) enum Fault {
    Refused(Refusal),
    Malformed(String),
    Limit(&'static str, u64),
    Io(&'static str, io::Error),
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Fault {
    /// What the system says about a path that an image wrote.
    pub(super) fn of(what: &'static str, errno: Errno) -> Self {
        match errno {
            Errno::LOOP => Refusal::DeadLink.into(),
            Errno::NOTDIR => Refusal::NotADirectory.into(),
            Errno::NAMETOOLONG => Refusal::TooLong.into(),
            Errno::MLINK => Refusal::TooManyLinks.into(),
            other => Self::Io(what, other.into()),
        }
    }

    pub(super) fn at(self, layer: &Digest, path: &[u8], target: &std::path::Path) -> UnpackError {
        let layer = layer.clone();
        match self {
            Self::Refused(why) => UnpackError::Refused { layer, path: printable(path), why },
            Self::Malformed(why) => UnpackError::Malformed { layer, path: printable(path), why },
            Self::Limit(what, limit) => UnpackError::Limit { layer, what, limit },
            Self::Io(what, source) => failed(what, target, source),
        }
    }
}

/// An error of the disk: a full one has a name of its own.
pub(super) fn failed(what: &'static str, path: &std::path::Path, source: io::Error) -> UnpackError {
    let path = path.to_owned();
    if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        UnpackError::DiskFull { path }
    } else {
        UnpackError::Io { what, path, source }
    }
}

/// A name from an image, fit for a terminal and a log.
pub(super) fn printable(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(200).flat_map(char::escape_debug).collect()
}
