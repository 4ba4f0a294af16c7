//! The library: content, the repositories that name it, and the uploads that bring it.
//!
//! All calls here but [`Library::resolve`](minato_model::images::Images::resolve) block on the disk;
//! from async code they go through `spawn_blocking`.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use minato_image::manifest;
use minato_model::{digest::Digest, time::Moment};

use crate::{
    content::Content,
    files::{self, Staging},
    limits::Limits,
    names::{Repository, Tag},
    repositories::Repositories,
    uploads::Uploads,
};

/// Why the library could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("the registry's directory {path} can't be used")]
pub struct OpenError {
    /// Which directory.
    pub path: PathBuf,
    /// What the file system said.
    pub source: io::Error,
}

/// The images of this node: one per data directory, shared by the API and the agent.
#[derive(Debug)]
pub struct Library {
    pub(crate) limits: Limits,
    pub(crate) content: Content,
    pub(crate) repositories: Repositories,
    pub(crate) staging: Staging,
    pub(crate) uploads: Uploads,
    /// Held while manifests and tags change, so that what was checked still holds when it is linked.
    pub(crate) changing: Mutex<()>,
}

impl Library {
    /// Opens the library in `dir`, making what is missing. Blocks on the disk.
    ///
    /// # Errors
    /// When the directory can't be made, read or written.
    pub fn open(dir: &Path, limits: Limits) -> Result<Arc<Self>, OpenError> {
        let failed = |source| OpenError { path: dir.to_path_buf(), source };
        Self::open_parts(dir, limits).map(Arc::new).map_err(failed)
    }

    fn open_parts(dir: &Path, limits: Limits) -> io::Result<Self> {
        files::ensure_directory(dir)?;
        Ok(Self {
            content: Content::open(dir.join("blobs"))?,
            repositories: Repositories::open(dir.join("repositories"))?,
            staging: Staging::open(dir.join("staging"))?,
            uploads: Uploads::open(dir.join("uploads"), &limits)?,
            changing: Mutex::new(()),
            limits,
        })
    }

    /// What a tag means now; `None` also for names that nothing can have.
    ///
    /// # Errors
    /// When the disk can't be read.
    pub fn tag(&self, repository: &str, tag: &str) -> io::Result<Option<Digest>> {
        let (Ok(repository), Ok(tag)) = (repository.parse(), tag.parse::<Tag>()) else { return Ok(None) };
        self.repositories.tag(&repository, &tag)
    }

    /// A manifest or index of a repository: its bytes and the media type that it was sent as.
    ///
    /// # Errors
    /// When the disk can't be read.
    pub fn manifest(&self, repository: &str, digest: &Digest) -> io::Result<Option<(Vec<u8>, String)>> {
        let Ok(repository) = repository.parse::<Repository>() else { return Ok(None) };
        let Some(media_type) = self.repositories.media_type(&repository, digest)? else { return Ok(None) };
        Ok(self.small(digest)?.map(|bytes| (bytes, media_type)))
    }

    /// A manifest or index by its digest alone, whatever repositories and tags say by now: a release
    /// is pinned by digest. With the media type that it gives itself.
    ///
    /// # Errors
    /// When the disk can't be read.
    pub fn manifest_by_digest(&self, digest: &Digest) -> io::Result<Option<(Vec<u8>, String)>> {
        let Some(bytes) = self.small(digest)? else { return Ok(None) };
        let media_type = manifest::parse(&bytes, None).ok().map(|document| document.media_type().to_owned());
        Ok(media_type.map(|media_type| (bytes, media_type)))
    }

    /// A blob, open, and how many bytes it has. Whoever reads it verifies it.
    ///
    /// # Errors
    /// When the disk can't be read.
    pub fn blob(&self, digest: &Digest) -> io::Result<Option<(File, u64)>> {
        self.content.read(digest)
    }

    /// All repositories that hold an image, in lexical order.
    ///
    /// # Errors
    /// When the disk can't be read.
    pub fn repositories(&self) -> io::Result<Vec<String>> {
        self.repositories.names()
    }

    /// The tags of a repository, in lexical order.
    ///
    /// # Errors
    /// When the disk can't be read.
    pub fn tags(&self, repository: &str) -> io::Result<Vec<String>> {
        repository.parse().map_or_else(|_| Ok(Vec::new()), |name| self.repositories.tags(&name))
    }

    /// Removes the uploads that nobody has written to for [`Limits::upload_age`]; says how many. To be
    /// called now and then; `now` is the time of day that files are stamped with.
    ///
    /// # Errors
    /// When the disk can't be written.
    pub fn expire_uploads(&self, now: Moment) -> io::Result<usize> {
        self.uploads.expire(now, self.limits.upload_age)
    }

    /// Content that fits a manifest's bound, whole.
    pub(crate) fn small(&self, digest: &Digest) -> io::Result<Option<Vec<u8>>> {
        self.content.small(digest, self.limits.manifest)
    }
}
