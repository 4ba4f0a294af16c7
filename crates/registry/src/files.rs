//! Durable steps on the file system.
//!
//! Whatever has to be there after a power cut is written beside its place, synced, renamed into it, and
//! then the directory that holds the new name is synced too: a reader sees all of it or nothing.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// Makes the names within a directory durable.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes a directory and those above it that are missing, each of them durable.
pub(crate) fn ensure_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Ok(()) => sync_directory(parent(path)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.parent().is_some() => {
            ensure_directory(parent(path))?;
            ensure_directory(path)
        }
        Err(error) => Err(error),
    }
}

/// Renames `from`, whose content is synced, to `to`, and makes that durable. What was there is replaced.
pub(crate) fn place(from: &Path, to: &Path) -> io::Result<()> {
    ensure_directory(parent(to))?;
    fs::rename(from, to)?;
    sync_directory(parent(to))
}

/// Where files are written before they are placed; on the same file system as where they go.
#[derive(Debug)]
pub(crate) struct Staging {
    root: PathBuf,
}

impl Staging {
    /// Empties the directory: what a crash left there was never acknowledged.
    pub(crate) fn open(root: PathBuf) -> io::Result<Self> {
        remove_tree(&root)?;
        ensure_directory(&root)?;
        Ok(Self { root })
    }

    /// Puts a small file into its place as a whole.
    pub(crate) fn put(&self, to: &Path, content: &[u8]) -> io::Result<()> {
        let beside = self.root.join(random_name()?);
        let written = write_synced(&beside, content).and_then(|()| place(&beside, to));
        if written.is_err() {
            // The error that matters is the first; what is left is removed at the next start.
            drop(fs::remove_file(&beside));
        }
        written
    }
}

/// Makes an empty file, durably. It has no content that could be there by half.
pub(crate) fn mark(path: &Path) -> io::Result<()> {
    ensure_directory(parent(path))?;
    File::create(path)?;
    sync_directory(parent(path))
}

/// Removes a file, durably. `false`: it wasn't there.
pub(crate) fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => sync_directory(parent(path)).map(|()| true),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes a directory with all that it holds; it need not be there.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if !is_absent(&error) => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Turns "there is no such file" into `None`.
pub(crate) fn if_present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The names in a directory, sorted; none where there is no directory.
pub(crate) fn names(path: &Path) -> io::Result<Vec<String>> {
    let Some(entries) = if_present(fs::read_dir(path))? else { return Ok(Vec::new()) };
    let mut names = Vec::new();
    for entry in entries {
        // A name that isn't UTF-8 is none of ours.
        names.extend(entry?.file_name().into_string().ok());
    }
    names.sort_unstable();
    Ok(names)
}

/// 32 hexadecimal digits that nobody can guess.
pub(crate) fn random_name() -> io::Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

/// Whether the error says that the disk, or this user's share of it, is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(content)?;
    file.sync_data()
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}
