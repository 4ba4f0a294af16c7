//! Image manifests, indexes and configurations, as OCI and Docker (version 2, schema 2) write them.
//!
//! These types hold what Minato needs of a document. Its bytes are what its digest is of, so whoever
//! keeps or passes on a manifest keeps the bytes, never a document written anew from these types.

pub mod config;
pub mod media;
pub mod platform;

use std::collections::BTreeMap;

use minato_model::{code::Code, digest::Digest};
use serde::{Deserialize, Serialize};

pub use config::ImageConfig;
pub use platform::{NoPlatform, Platform};

/// The longest manifest that is read: what the distribution specification asks registries to take.
pub const MANIFEST_BYTES_MAX: usize = 4 << 20;
/// The most layers of an image: overlayfs and Docker end near it too.
pub const LAYERS_MAX: usize = 128;
/// The most manifests in an index: far more than there are platforms.
pub const MANIFESTS_MAX: usize = 4096;

/// Why a document was refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Longer than [`MANIFEST_BYTES_MAX`].
    #[error("the document has {bytes} bytes; at most {MANIFEST_BYTES_MAX} are read")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// Not the JSON of such a document.
    #[error("this is no {what}: {}", said(source))]
    Syntax {
        /// What it should have been.
        what: &'static str,
        /// What the parser found, with its line and column.
        source: serde_json::Error,
    },
    /// Of a kind that isn't known.
    #[error(
        "the media type `{0}` is no image manifest or index that Minato knows: push it as OCI or as Docker version 2, schema 2"
    )]
    MediaType(String),
    /// It says of itself something else than whoever sent it said.
    #[error("the manifest was sent as `{sent}` but calls itself `{written}`")]
    Mismatch {
        /// As it was sent.
        sent: String,
        /// As it calls itself.
        written: String,
    },
    /// An image and an index at once, or neither.
    #[error("the manifest has {0}: nobody could tell an image from an index")]
    Ambiguous(&'static str),
    /// Not version 2.
    #[error("the manifest has schema version {0}; Minato reads 2 (push it with a newer client)")]
    SchemaVersion(u32),
    /// More entries than are taken.
    #[error("the manifest lists {count} {what}; at most {limit} are taken")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
}

impl ManifestError {
    /// The code that stands for it.
    #[must_use]
    pub fn code(&self) -> Code {
        Code::ImageRefused
    }
}

/// A parser's words are the very thing that whoever wrote the document needs.
fn said(source: &serde_json::Error) -> String {
    source.to_string()
}

/// What points at other content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What kind of content it is.
    pub media_type: String,
    /// What names and proves it.
    pub digest: Digest,
    /// How many bytes it has.
    pub size: u64,
    /// Where else it may be had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urls: Option<Vec<String>>,
    /// Remarks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// In an index: what it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// In an index: what an artifact is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// A descriptor without anything optional.
    #[must_use]
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            urls: None,
            annotations: None,
            platform: None,
            artifact_type: None,
        }
    }

    /// Whether it is a layer that registries don't hold (a "foreign" or "non-distributable" one).
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        media::is_foreign(&self.media_type)
    }
}

/// A manifest of one image (or of an artifact in the form of one).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageManifest {
    /// 2.
    pub schema_version: u32,
    /// What it calls itself; OCI lets it be absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What an artifact is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Its configuration.
    pub config: Descriptor,
    /// Its layers, the lowest first.
    pub layers: Vec<Descriptor>,
    /// What it says something about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Remarks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// An index: one image for several platforms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageIndex {
    /// 2.
    pub schema_version: u32,
    /// What it calls itself; OCI lets it be absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What an artifact is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// What it lists.
    pub manifests: Vec<Descriptor>,
    /// What it says something about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Remarks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// A document that a tag can name.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one at a time, and never kept in numbers")]
pub enum Document {
    /// An image.
    Image(ImageManifest),
    /// An index.
    Index(ImageIndex),
}

/// What a manifest's entry is to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Its configuration: a blob.
    Config,
    /// A layer: a blob.
    Layer,
    /// A layer that a registry need not hold.
    ForeignLayer,
    /// Another manifest, of an index.
    Manifest,
    /// What it says something about: a manifest that may be absent.
    Subject,
}

impl Role {
    /// Whether the content must be there before the manifest is taken.
    #[must_use]
    pub fn is_required(self) -> bool {
        matches!(self, Self::Config | Self::Layer | Self::Manifest)
    }
}

impl Document {
    /// All that it refers to.
    pub fn descriptors(&self) -> impl Iterator<Item = (Role, &Descriptor)> {
        let (config, entries, role, subject) = match self {
            Self::Image(image) => {
                (Some((Role::Config, &image.config)), &image.layers, Role::Layer, &image.subject)
            }
            Self::Index(index) => (None, &index.manifests, Role::Manifest, &index.subject),
        };
        let entries = entries.iter().map(move |entry| {
            let foreign = role == Role::Layer && entry.is_foreign();
            (if foreign { Role::ForeignLayer } else { role }, entry)
        });
        config.into_iter().chain(entries).chain(subject.iter().map(|subject| (Role::Subject, subject)))
    }

    /// What it says something about.
    #[must_use]
    pub fn subject(&self) -> Option<&Descriptor> {
        match self {
            Self::Image(image) => image.subject.as_ref(),
            Self::Index(index) => index.subject.as_ref(),
        }
    }

    /// The media type that it has when nobody says one.
    #[must_use]
    pub fn media_type(&self) -> &str {
        match self {
            Self::Image(image) => image.media_type.as_deref().unwrap_or(media::OCI_MANIFEST),
            Self::Index(index) => index.media_type.as_deref().unwrap_or(media::OCI_INDEX),
        }
    }
}

/// What decides which kind of document it is, read before the rest.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    schema_version: u32,
    media_type: Option<String>,
    layers: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
}

/// Reads a manifest or an index. `media_type` is what it was sent as, where that is known.
///
/// # Errors
/// When it is none, is another than it was sent as, or lists more than is taken.
pub fn parse(bytes: &[u8], media_type: Option<&str>) -> Result<Document, ManifestError> {
    let kind: Kind = json(bytes, "image manifest")?;
    if kind.schema_version != 2 {
        return Err(ManifestError::SchemaVersion(kind.schema_version));
    }
    // A document that fits both descriptions would mean one thing here and another elsewhere.
    let is_index = match (&kind.layers, &kind.manifests) {
        (Some(_), None) => false,
        (None, Some(_)) => true,
        (Some(_), Some(_)) => return Err(ManifestError::Ambiguous("both layers and manifests")),
        (None, None) => return Err(ManifestError::Ambiguous("neither layers nor manifests")),
    };
    // Parameters (`; charset=utf-8`) change nothing.
    let sent = media_type.map(|text| text.split(';').next().unwrap_or_default().trim());
    if let (Some(sent), Some(written)) = (sent, &kind.media_type)
        && sent != written
    {
        return Err(ManifestError::Mismatch { sent: sent.to_owned(), written: written.clone() });
    }
    if let Some(name) = sent.or(kind.media_type.as_deref()) {
        let named_index = match name {
            media::OCI_MANIFEST | media::DOCKER_MANIFEST => false,
            media::OCI_INDEX | media::DOCKER_LIST => true,
            other => return Err(ManifestError::MediaType(other.chars().take(160).collect())),
        };
        if named_index != is_index {
            let content = if is_index { "an index" } else { "an image" };
            return Err(ManifestError::Mismatch { sent: name.to_owned(), written: content.to_owned() });
        }
    }
    if is_index {
        let index: ImageIndex = json(bytes, "image index")?;
        bounded("manifests", index.manifests.len(), MANIFESTS_MAX)?;
        Ok(Document::Index(index))
    } else {
        let image: ImageManifest = json(bytes, "image manifest")?;
        bounded("layers", image.layers.len(), LAYERS_MAX)?;
        Ok(Document::Image(image))
    }
}

fn bounded(what: &'static str, count: usize, limit: usize) -> Result<(), ManifestError> {
    if count > limit { Err(ManifestError::TooMany { what, count, limit }) } else { Ok(()) }
}

fn json<'a, T: Deserialize<'a>>(bytes: &'a [u8], what: &'static str) -> Result<T, ManifestError> {
    if bytes.len() > MANIFEST_BYTES_MAX {
        return Err(ManifestError::TooLarge { bytes: bytes.len() });
    }
    serde_json::from_slice(bytes).map_err(|source| ManifestError::Syntax { what, source })
}

#[cfg(test)]
mod tests;
