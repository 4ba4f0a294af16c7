//! Releases: immutable versions of a service, identified by the hash of what they consist of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    digest::Digest,
    ids::ReleaseNumber,
    manifest::{Protocol, Resources},
    reference::ImageReference,
    time::Moment,
};

/// What a release consists of. Anything that is not here belongs to the service and starts nothing
/// anew when it changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReleaseSpec {
    /// What the reference meant when it was planned: an image's manifest, or an index of which each
    /// node takes its own platform.
    pub digest: Digest,
    /// Replaces the image's entrypoint and cmd together; empty: the image's own.
    pub command: Vec<String>,
    /// Environment variables, over the image's own.
    pub env: BTreeMap<String, String>,
    /// The user as the image names it (`name`, `name:group`, `uid`, `uid:gid`, or empty for root).
    pub user: String,
    /// The port that it listens on.
    pub port: u16,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// Paths that become memory file systems: the manifest's and the image's volumes, sorted.
    pub writable: Vec<String>,
    /// Whether a tiny first process forwards signals and reaps.
    pub init: bool,
    /// What an instance may use.
    pub resources: Resources,
}

/// A release as kept in the cluster state. Written once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Release {
    /// Its number within the service.
    pub number: ReleaseNumber,
    /// SHA-256 over the canonical JSON of `spec`, as 64 hexadecimal digits.
    pub hash: String,
    /// What it consists of.
    pub spec: ReleaseSpec,
    /// The reference it was resolved from, for people.
    pub image: ImageReference,
    /// When it was made.
    pub created_at: Moment,
}

impl ReleaseSpec {
    /// The bytes that are hashed: JSON with fields in the order of this type and maps sorted.
    ///
    /// # Panics
    /// Never: the type holds nothing that JSON can't.
    #[must_use]
    #[expect(clippy::expect_used, reason = "only strings, numbers and lists: JSON holds them all")]
    pub fn canonical(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a release specification is plain data")
    }
}
