//! What planning needs to know of an image, before any node has it.

use serde::{Deserialize, Serialize};

use crate::{BoxFuture, code::Problem, digest::Digest, reference::ImageReference};

/// Looks images up; the binary gives the planner's caller the node's registry through this.
pub trait Images: Send + Sync + 'static {
    /// What the reference means now. A tag is read anew at each call.
    ///
    /// # Errors
    /// `image_missing`, `image_platform` (the message lists what there is), `image_digest`, `image_refused`,
    /// `not_supported` (another registry).
    fn resolve(&self, reference: &ImageReference) -> BoxFuture<'_, Result<ResolvedImage, Problem>>;
}

/// What a reference means, and what its image says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedImage {
    /// Of the image's manifest, or of the index that the reference names.
    pub digest: Digest,
    /// The user that it runs as, as the image writes it; empty: root.
    pub user: String,
    /// TCP ports that it exposes, ascending.
    pub ports: Vec<u16>,
    /// Its volumes, sorted.
    pub volumes: Vec<String>,
    /// Whether it has an entrypoint or a command of its own.
    pub has_command: bool,
}
