//! Which thing of the registry a path means.

use std::str::FromStr as _;

use minato_model::digest::Digest;

use super::refusal::{ErrorCode, Refusal};
use crate::names::{Repository, Tag, Upload};

/// What a path below `/v2/` means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    Catalogue,
    In(Repository, Thing),
}

/// What it means within a repository.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Thing {
    Uploads,
    Upload(Upload),
    Blob(Digest),
    Manifest(Reference),
    Tags,
    Referrers(Digest),
}

/// A manifest's name in a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reference {
    Tag(Tag),
    Digest(Digest),
    /// No tag can be written so: reading it finds nothing, writing it is a mistake.
    Invalid,
}

impl Place {
    /// Reads what follows `/v2/`. Repositories have slashes in their names, so it is read from its end.
    pub(super) fn parse(path: &str) -> Result<Self, Refusal> {
        if path == "_catalog" {
            return Ok(Self::Catalogue);
        }
        let begin = path.strip_suffix("/blobs/uploads/").or_else(|| path.strip_suffix("/blobs/uploads"));
        if let Some(name) = begin {
            return Ok(Self::In(repository(name)?, Thing::Uploads));
        }
        if let Some(name) = path.strip_suffix("/tags/list") {
            return Ok(Self::In(repository(name)?, Thing::Tags));
        }
        let (head, last) = path.rsplit_once('/').ok_or_else(Refusal::no_such_place)?;
        if let Some(name) = head.strip_suffix("/blobs/uploads") {
            let id = Upload::from_str(last)
                .map_err(|error| Refusal::not_found(ErrorCode::BlobUploadUnknown, error.to_string()))?;
            return Ok(Self::In(repository(name)?, Thing::Upload(id)));
        }
        if let Some(name) = head.strip_suffix("/blobs") {
            return Ok(Self::In(repository(name)?, Thing::Blob(digest(last)?)));
        }
        if let Some(name) = head.strip_suffix("/manifests") {
            return Ok(Self::In(repository(name)?, Thing::Manifest(reference(last)?)));
        }
        if let Some(name) = head.strip_suffix("/referrers") {
            return Ok(Self::In(repository(name)?, Thing::Referrers(digest(last)?)));
        }
        Err(Refusal::no_such_place())
    }
}

fn reference(text: &str) -> Result<Reference, Refusal> {
    if text.contains(':') {
        return digest(text).map(Reference::Digest);
    }
    Ok(text.parse().map_or(Reference::Invalid, Reference::Tag))
}

fn repository(text: &str) -> Result<Repository, Refusal> {
    text.parse()
        .map_err(|error: crate::names::InvalidName| Refusal::bad(ErrorCode::NameInvalid, error.to_string()))
}

/// Reads a digest that a client wrote.
pub(super) fn digest(text: &str) -> Result<Digest, Refusal> {
    text.parse().map_err(|error: minato_model::digest::InvalidDigest| {
        Refusal::bad(ErrorCode::DigestInvalid, error.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn check(path: &str, name: &str, thing: Thing) {
        let place = Place::parse(path).expect("the path means something");
        assert_eq!(place, Place::In(name.parse().expect("a name"), thing), "{path}");
    }

    #[test]
    fn paths_are_read_from_their_end() {
        check("shop/web/blobs/uploads/", "shop/web", Thing::Uploads);
        check("blobs/blobs/uploads", "blobs", Thing::Uploads);
        check("a/tags/list/tags/list", "a/tags/list", Thing::Tags);
        check(&format!("a/blobs/{DIGEST}"), "a", Thing::Blob(DIGEST.parse().expect("a digest")));
        check("a/manifests/v1", "a", Thing::Manifest(Reference::Tag("v1".parse().expect("a tag"))));
        check("a/manifests/.x", "a", Thing::Manifest(Reference::Invalid));
    }

    #[test]
    fn what_leads_elsewhere_is_refused() {
        for path in [
            "../../etc/blobs/uploads/",
            "a/../b/tags/list",
            "/tags/list",
            "a//b/tags/list",
            "_blobs/tags/list",
            "a/_tags/manifests/latest",
            "a/blobs/sha256:../../../etc/passwd",
            "a/blobs/uploads/../../x",
            "a/blobs/uploads/00000000000000000000000000000000/..",
            "a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e",
            "a",
            "a/other/thing",
        ] {
            Place::parse(path).expect_err(path);
        }
    }
}
