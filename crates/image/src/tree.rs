//! An image's layers as one directory.
//!
//! Whole or not there: the tree is made beside its place, under a name that ends in `.partial`, synced
//! and then renamed; what a crash left of an earlier try is removed first. On disk files belong to the
//! ids that they have in the image (0 to 65535); an instance gets them mapped to its own.

mod archive;
mod error;
mod layer;
mod place;
mod stream;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};

use minato_model::digest::Digest;
use rustix::fs::{Mode, OFlags};

pub use error::{Refusal, UnpackError};

use self::{
    archive::Archive,
    error::{Fault, failed},
    layer::{Application, NAMES_MAX, Work},
    place::Place,
    stream::{Chunks, Outcome},
};
use crate::manifest::media;

/// A layer as it is stored.
#[derive(Debug)]
pub struct Layer {
    /// Its blob, read from the first byte whatever the file's position.
    pub file: File,
    /// What the manifest says it is.
    pub media_type: String,
    /// What names the blob.
    pub digest: Digest,
    /// What the configuration says its content is.
    pub diff_id: Digest,
    /// How many bytes the manifest says the blob has.
    pub size: u64,
}

/// How large an image may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all layers uncompressed, headers included.
    pub bytes: u64,
    /// Entries of all layers.
    pub files: u64,
}

impl Default for Limits {
    fn default() -> Self {
        // Several times the largest images in use; each can be unpacked on the disk of a small machine.
        Self { bytes: 10 << 30, files: 1_000_000 }
    }
}

/// A directory that holds an image's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// Where it is.
    pub path: PathBuf,
    /// What unpacking it took; `None`: it was there.
    pub unpacked: Option<Unpacked>,
}

/// What unpacking took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpacked {
    /// Entries.
    pub files: u64,
    /// Bytes of all layers uncompressed.
    pub bytes: u64,
}

/// Merges `layers`, the lowest first, into the directory `target`; if that is there, it is whole and is
/// taken as it is. Blocking, and for one caller at a time per target. Needs root, for files' owners.
///
/// # Errors
/// When a layer isn't what it should be, holds what no image may hold, or the disk fails. Nothing is
/// left of it then.
pub fn unpack(layers: &[Layer], target: &Path, limits: &Limits) -> Result<Tree, UnpackError> {
    if target.is_dir() {
        return Ok(Tree { path: target.to_owned(), unpacked: None });
    }
    let mut name = target.as_os_str().to_owned();
    name.push(".partial");
    let partial = PathBuf::from(name);
    remove(&partial)?;
    let unpacked = fill(layers, &partial, limits).and_then(|unpacked| {
        fs::rename(&partial, target).map_err(|error| failed("renaming the tree", target, error))?;
        let parent =
            target.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        let synced = File::open(parent).and_then(|directory| directory.sync_all());
        synced.map_err(|error| failed("syncing", parent, error))?;
        Ok(unpacked)
    });
    match unpacked {
        Ok(unpacked) => Ok(Tree { path: target.to_owned(), unpacked: Some(unpacked) }),
        Err(error) => {
            // Should this fail too, the next try begins with it; the first error is the one to tell.
            drop(remove(&partial));
            Err(error)
        }
    }
}

fn remove(partial: &Path) -> Result<(), UnpackError> {
    match fs::remove_dir_all(partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("removing an unfinished tree", partial, error))
        }
        _ => Ok(()),
    }
}

fn fill(layers: &[Layer], partial: &Path, limits: &Limits) -> Result<Unpacked, UnpackError> {
    let prepare = || -> rustix::io::Result<_> {
        rustix::fs::mkdir(partial, Mode::from_raw_mode(0o755))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::open(partial, flags, Mode::empty())?;
        // Whatever the umask: an image that doesn't describe its root has a usual one.
        rustix::fs::fchmod(&root, Mode::from_raw_mode(0o755))?;
        Ok(root)
    };
    let root = prepare().map_err(|errno| failed("making the tree", partial, errno.into()))?;
    let place = Place::new(root).map_err(|fault| unnamed(fault, partial))?;
    let mut work = Work {
        place,
        files: 0,
        files_max: limits.files,
        names_left: NAMES_MAX,
        // The root, unless a layer describes it.
        times: BTreeMap::from([(Vec::new(), (0, 0))]),
    };
    let mut bytes = 0;
    for (at, layer) in layers.iter().enumerate() {
        bytes += apply(layer, &mut work, at == 0, limits.bytes - bytes, limits.bytes, partial)?;
    }
    for (path, time) in &work.times {
        work.place.set_directory_time(path, *time).map_err(|fault| unnamed(fault, partial))?;
    }
    rustix::fs::syncfs(work.place.root()).map_err(|errno| failed("syncing", partial, errno.into()))?;
    Ok(Unpacked { files: work.files, bytes })
}

/// Unpacks one layer over those before it; so many bytes it has.
fn apply(
    layer: &Layer,
    work: &mut Work,
    lowest: bool,
    bytes_left: u64,
    bytes_max: u64,
    partial: &Path,
) -> Result<u64, UnpackError> {
    if !media::is_layer(&layer.media_type) {
        let media_type = layer.media_type.chars().take(160).collect();
        return Err(UnpackError::MediaType { layer: layer.digest.clone(), media_type });
    }
    let (sender, receiver) = mpsc::sync_channel(stream::CHUNKS_WAITING);
    thread::scope(|scope| {
        let inflating = thread::Builder::new()
            .name("unpack".to_owned())
            .spawn_scoped(scope, move || stream::inflate(layer, bytes_left, sender))
            .map_err(|error| failed("starting a thread", partial, error))?;
        let mut application = Application::new(work, lowest, bytes_left);
        let mut archive = Archive::new(Chunks::new(receiver));
        let applied = application.run(&mut archive);
        // After the last entry the rest is still read, for the digests; after a fault it isn't.
        let chunks = archive.into_inner();
        match applied {
            Ok(()) => chunks.drain(),
            Err(_) => drop(chunks),
        }
        let inflated = inflating.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match (inflated, applied) {
            (Ok(Outcome::Whole(bytes)), Ok(())) => Ok(bytes),
            (Ok(_), Err(Fault::Limit("bytes", _))) | (Err(UnpackError::Limit { .. }), _) => {
                // The limit as it was set, not what earlier layers left of it.
                Err(UnpackError::Limit { layer: layer.digest.clone(), what: "bytes", limit: bytes_max })
            }
            (Ok(_), Err(fault)) => Err(fault.at(&layer.digest, application.path(), partial)),
            (Ok(Outcome::Left), Ok(())) => {
                Err(Fault::Malformed("its end wasn't read".to_owned()).at(&layer.digest, &[], partial))
            }
            // A blob that is wrong itself explains any fault in what came out of it.
            (Err(UnpackError::Malformed { layer, why, .. }), _) => {
                let path = error::printable(application.path());
                Err(UnpackError::Malformed { layer, path, why })
            }
            (Err(error), _) => Err(error),
        }
    })
}

/// A fault of the tree as a whole.
fn unnamed(fault: Fault, partial: &Path) -> UnpackError {
    let (what, error) = match fault {
        Fault::Io(what, error) => (what, error),
        Fault::Refused(_) | Fault::Malformed(_) | Fault::Limit(..) => {
            ("finishing the tree", io::Error::from(io::ErrorKind::InvalidData))
        }
    };
    failed(what, partial, error)
}

#[cfg(test)]
mod tests;
