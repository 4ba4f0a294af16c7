//! Manifests: taken only when all that they need is there, and taken away as a whole.

use std::{io, sync::PoisonError};

use minato_image::{
    digest::Hasher,
    manifest::{self, Document, ManifestError, Role},
};
use minato_model::digest::Digest;

use crate::{
    library::Library,
    names::{Repository, Tag},
};

/// Why a manifest was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PutError {
    #[error(transparent)]
    Invalid(#[from] ManifestError),
    #[error("the manifest has the digest {found}, not {wanted}")]
    Digest { wanted: Digest, found: Digest },
    #[error("the manifest refers to content that this repository doesn't have; push it first")]
    Missing(Vec<Digest>),
    #[error("the manifest can't be stored")]
    Storage(#[from] io::Error),
}

/// What to put, as it was sent.
#[derive(Debug)]
pub(crate) struct Put<'a> {
    pub(crate) repository: &'a Repository,
    /// What the client says that its digest is; else it is made with SHA-256.
    pub(crate) digest: Option<&'a Digest>,
    pub(crate) tags: &'a [Tag],
    pub(crate) media_type: Option<&'a str>,
    pub(crate) bytes: &'a [u8],
}

/// What was put.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) digest: Digest,
    pub(crate) subject: Option<Digest>,
}

impl Library {
    /// Takes a manifest and lets the tags mean it. Blocks.
    pub(crate) fn put_manifest(&self, put: &Put<'_>) -> Result<Stored, PutError> {
        let document = manifest::parse(put.bytes, put.media_type)?;
        let digest = digest_as_said(put)?;
        let media_type = put.media_type.unwrap_or_else(|| document.media_type());

        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = self.missing(put.repository, &document)?;
        if !missing.is_empty() {
            return Err(PutError::Missing(missing));
        }
        self.content.put(&self.staging, &digest, put.bytes)?;
        self.repositories.link_manifest(&self.staging, put.repository, &digest, media_type)?;
        let subject = document.subject().map(|subject| subject.digest.clone());
        if let Some(subject) = &subject {
            self.repositories.link_referrer(put.repository, subject, &digest)?;
        }
        for tag in put.tags {
            self.repositories.set_tag(&self.staging, put.repository, tag, &digest)?;
        }
        Ok(Stored { digest, subject })
    }

    /// Takes a manifest out of a repository, with its tags. Its content stays until nothing uses it.
    pub(crate) fn delete_manifest(&self, repository: &Repository, digest: &Digest) -> io::Result<bool> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let document = self.small(digest)?.and_then(|bytes| manifest::parse(&bytes, None).ok());
        if let Some(subject) = document.as_ref().and_then(Document::subject) {
            self.repositories.unlink_referrer(repository, &subject.digest, digest)?;
        }
        self.repositories.unlink_manifest(repository, digest)
    }

    /// Takes a tag away; what it means stays.
    pub(crate) fn delete_tag(&self, repository: &Repository, tag: &Tag) -> io::Result<bool> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.repositories.remove_tag(repository, tag)
    }

    /// Takes a blob out of a repository. Its content stays until nothing uses it.
    pub(crate) fn delete_blob(&self, repository: &Repository, digest: &Digest) -> io::Result<bool> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.repositories.unlink_blob(repository, digest)
    }

    /// Gives a repository a blob that the library has already: from another repository, or from any.
    pub(crate) fn mount(
        &self,
        repository: &Repository,
        digest: &Digest,
        from: Option<&Repository>,
    ) -> io::Result<bool> {
        let held = match from {
            Some(from) => self.repositories.has_blob(from, digest)?,
            None => true,
        };
        if !held || self.content.size(digest)?.is_none() {
            return Ok(false);
        }
        self.repositories.link_blob(repository, digest)?;
        Ok(true)
    }

    /// How many bytes a blob of a repository has.
    pub(crate) fn blob_size(&self, repository: &Repository, digest: &Digest) -> io::Result<Option<u64>> {
        if self.repositories.has_blob(repository, digest)? { self.content.size(digest) } else { Ok(None) }
    }

    fn missing(&self, repository: &Repository, document: &Document) -> io::Result<Vec<Digest>> {
        let mut missing = Vec::new();
        for (role, descriptor) in document.descriptors().filter(|(role, _)| role.is_required()) {
            let found = match role {
                Role::Manifest => self.repositories.media_type(repository, &descriptor.digest)?.is_some(),
                Role::Config | Role::Layer | Role::ForeignLayer | Role::Subject => {
                    self.blob_size(repository, &descriptor.digest)?.is_some()
                }
            };
            if !found {
                missing.push(descriptor.digest.clone());
            }
        }
        Ok(missing)
    }
}

fn digest_as_said(put: &Put<'_>) -> Result<Digest, PutError> {
    let algorithm = put.digest.map_or(minato_model::digest::Algorithm::Sha256, Digest::algorithm);
    let mut hasher = Hasher::new(algorithm);
    hasher.update(put.bytes);
    let found = hasher.finish();
    match put.digest {
        Some(wanted) if *wanted != found => Err(PutError::Digest { wanted: wanted.clone(), found }),
        _ => Ok(found),
    }
}
