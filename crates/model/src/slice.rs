//! A slice: what one node is told of one service. The slow loop's envelope, inside which the node
//! chooses by itself.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    ids::{Generation, ReleaseNumber, ServiceKey},
    manifest::{Health, Recycle, drain_streams},
    release::Release,
    route::Route,
};

/// What one node is told of one service. Kept in the cluster state under
/// `/slices/<node>/<app>/<service>`; its absence means that nothing of the service may run there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// Whose slice it is.
    pub service: ServiceKey,
    /// Rises with every change of this slice; an older one than the node has is refused.
    pub generation: Generation,
    /// How requests reach the service.
    pub route: Route,
    /// The releases that may run, the weights and bounds of each.
    pub releases: Vec<Share>,
    /// To the share's `min` after this long without a request.
    pub idle: Duration,
    /// How long an instance may finish what it has begun.
    pub drain: Duration,
    /// How long its streams may go on meanwhile.
    #[serde(default = "drain_streams")]
    pub drain_streams: Duration,
    /// When it is renewed.
    #[serde(default)]
    pub recycle: Recycle,
    /// How ready and well are seen; `None`: the port is listening.
    pub health: Option<Health>,
}

/// What a node may and must run of one release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// The release, whole: a node needs nothing else to start it.
    pub release: Release,
    /// Its part of the requests; 0: none (being warmed, or being drained).
    pub weight: u32,
    /// Never fewer ready instances than this, asked for or not.
    pub min: u32,
    /// Never more than this; 0: every instance is drained and stopped.
    pub max: u32,
}

impl Slice {
    /// The share of a release, if it has one.
    #[must_use]
    pub fn share(&self, number: ReleaseNumber) -> Option<&Share> {
        self.releases.iter().find(|share| share.release.number == number)
    }
}
