//! Blobs by digest: `blobs/<algorithm>/<two digits>/<hex>`. A name that is there holds just the content
//! that the name says: it came by a rename after the content was checked and synced.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use minato_model::digest::Digest;

use crate::files::{self, Staging};

/// The content of all repositories, each kept once.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    root: PathBuf,
}

impl Content {
    pub(crate) fn open(root: PathBuf) -> io::Result<Self> {
        files::ensure_directory(&root)?;
        Ok(Self { root })
    }

    /// Opens a blob; with its size.
    pub(crate) fn read(&self, digest: &Digest) -> io::Result<Option<(File, u64)>> {
        let Some(file) = files::if_present(File::open(self.path(digest)))? else { return Ok(None) };
        let size = file.metadata()?.len();
        Ok(Some((file, size)))
    }

    /// How many bytes a blob has.
    pub(crate) fn size(&self, digest: &Digest) -> io::Result<Option<u64>> {
        Ok(files::if_present(fs::metadata(self.path(digest)))?.map(|found| found.len()))
    }

    /// Content of at most `bytes_max`, whole; larger content is no manifest and no configuration.
    pub(crate) fn small(&self, digest: &Digest, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
        let Some((file, size)) = self.read(digest)? else { return Ok(None) };
        if size > bytes_max as u64 {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        file.take(size).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Takes a file whose content was checked and synced. One that is there already is replaced, so
    /// that pushing again repairs what a bad disk has changed.
    pub(crate) fn adopt(&self, file: &Path, digest: &Digest) -> io::Result<()> {
        files::place(file, &self.path(digest))
    }

    /// Takes bytes whose digest was checked.
    pub(crate) fn put(&self, staging: &Staging, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
        staging.put(&self.path(digest), bytes)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        let (folder, _) = digest.hex().split_at(2);
        self.root.join(digest.algorithm().name()).join(folder).join(digest.hex())
    }
}
