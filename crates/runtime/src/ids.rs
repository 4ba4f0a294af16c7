//! Ranges of user and group ids on the host, one of 65,536 per sandbox. Nodes on one machine never
//! share any, and none touches what `/etc/subuid` and `/etc/subgid` give to others.

use serde::{Deserialize, Serialize};

/// The size of a sandbox's range.
pub const RANGE: u32 = 65_536;

/// The ranges that a keeper has for itself as long as it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    /// The first id.
    pub first: u32,
    /// How many ranges follow one another: the most sandboxes at a time.
    pub ranges: u32,
}

impl Ids {
    /// The first id of the range with this number; `None` past the last.
    #[must_use]
    pub fn range(&self, number: u32) -> Option<u32> {
        (number < self.ranges).then(|| self.first + number * RANGE)
    }
}
