//! Repositories: which content belongs to a name, and what its tags mean.
//!
//! ```text
//! repositories/<name>/_blobs/<digest>                 (empty)
//!                    /_manifests/<digest>             (its media type)
//!                    /_tags/<tag>                     (a digest)
//!                    /_referrers/<subject>/<digest>   (empty)
//! ```
//! A part of a name never begins with `_`, so `shop` and `shop/_tags` can't meet.

use std::{fs, io, path::PathBuf};

use minato_model::digest::Digest;

use crate::{
    files::{self, Staging},
    names::{Repository, Tag},
};

/// Repositories that a walk looks at, at most: enough for any list, and an end for a hostile tree.
const WALK_MAX: usize = 10_000;

/// The links from names to content.
#[derive(Debug, Clone)]
pub(crate) struct Repositories {
    root: PathBuf,
}

impl Repositories {
    pub(crate) fn open(root: PathBuf) -> io::Result<Self> {
        files::ensure_directory(&root)?;
        Ok(Self { root })
    }

    pub(crate) fn exists(&self, repository: &Repository) -> io::Result<bool> {
        Ok(files::if_present(fs::metadata(self.home(repository).join("_manifests")))?.is_some())
    }

    pub(crate) fn has_blob(&self, repository: &Repository, digest: &Digest) -> io::Result<bool> {
        Ok(files::if_present(fs::metadata(self.blob(repository, digest)))?.is_some())
    }

    pub(crate) fn link_blob(&self, repository: &Repository, digest: &Digest) -> io::Result<()> {
        files::mark(&self.blob(repository, digest))
    }

    pub(crate) fn unlink_blob(&self, repository: &Repository, digest: &Digest) -> io::Result<bool> {
        files::remove(&self.blob(repository, digest))
    }

    /// The media type that a manifest was sent as.
    pub(crate) fn media_type(&self, repository: &Repository, digest: &Digest) -> io::Result<Option<String>> {
        files::if_present(fs::read_to_string(self.manifest(repository, digest)))
    }

    pub(crate) fn link_manifest(
        &self,
        staging: &Staging,
        repository: &Repository,
        digest: &Digest,
        media_type: &str,
    ) -> io::Result<()> {
        staging.put(&self.manifest(repository, digest), media_type.as_bytes())
    }

    /// Takes a manifest out of the repository, with the tags that mean it.
    pub(crate) fn unlink_manifest(&self, repository: &Repository, digest: &Digest) -> io::Result<bool> {
        // Tags first: a tag never means a manifest that isn't there.
        for tag in files::names(&self.tags_home(repository))? {
            let path = self.tags_home(repository).join(tag);
            if files::if_present(fs::read_to_string(&path))?.as_deref() == Some(digest.as_str()) {
                files::remove(&path)?;
            }
        }
        files::remove(&self.manifest(repository, digest))
    }

    /// What a tag means.
    pub(crate) fn tag(&self, repository: &Repository, tag: &Tag) -> io::Result<Option<Digest>> {
        let text = files::if_present(fs::read_to_string(self.tags_home(repository).join(tag.as_str())))?;
        text.map(|text| text.parse().map_err(io::Error::other)).transpose()
    }

    pub(crate) fn set_tag(
        &self,
        staging: &Staging,
        repository: &Repository,
        tag: &Tag,
        digest: &Digest,
    ) -> io::Result<()> {
        staging.put(&self.tags_home(repository).join(tag.as_str()), digest.as_str().as_bytes())
    }

    pub(crate) fn remove_tag(&self, repository: &Repository, tag: &Tag) -> io::Result<bool> {
        files::remove(&self.tags_home(repository).join(tag.as_str()))
    }

    /// All tags, in lexical order.
    pub(crate) fn tags(&self, repository: &Repository) -> io::Result<Vec<String>> {
        files::names(&self.tags_home(repository))
    }

    pub(crate) fn link_referrer(
        &self,
        repository: &Repository,
        subject: &Digest,
        digest: &Digest,
    ) -> io::Result<()> {
        files::mark(&self.referrers_home(repository, subject).join(digest.as_str()))
    }

    pub(crate) fn unlink_referrer(
        &self,
        repository: &Repository,
        subject: &Digest,
        digest: &Digest,
    ) -> io::Result<bool> {
        files::remove(&self.referrers_home(repository, subject).join(digest.as_str()))
    }

    /// What says something about `subject`, in the order of the digests.
    pub(crate) fn referrers(&self, repository: &Repository, subject: &Digest) -> io::Result<Vec<Digest>> {
        let names = files::names(&self.referrers_home(repository, subject))?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// The names of the repositories that hold a manifest, in lexical order.
    pub(crate) fn names(&self) -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        let mut ahead = vec![String::new()];
        let mut looked_at = 0;
        while let Some(at) = ahead.pop() {
            looked_at += 1;
            if looked_at > WALK_MAX {
                break;
            }
            for name in files::names(&self.root.join(&at))? {
                if name == "_manifests" {
                    found.push(at.clone());
                } else if !name.starts_with('_') {
                    ahead.push(if at.is_empty() { name } else { format!("{at}/{name}") });
                }
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    fn home(&self, repository: &Repository) -> PathBuf {
        self.root.join(repository.as_str())
    }

    fn tags_home(&self, repository: &Repository) -> PathBuf {
        self.home(repository).join("_tags")
    }

    fn referrers_home(&self, repository: &Repository, subject: &Digest) -> PathBuf {
        self.home(repository).join("_referrers").join(subject.as_str())
    }

    fn blob(&self, repository: &Repository, digest: &Digest) -> PathBuf {
        self.home(repository).join("_blobs").join(digest.as_str())
    }

    fn manifest(&self, repository: &Repository, digest: &Digest) -> PathBuf {
        self.home(repository).join("_manifests").join(digest.as_str())
    }
}
