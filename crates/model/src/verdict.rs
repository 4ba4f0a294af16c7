//! What a service is.

use serde::{Deserialize, Serialize};

/// The judgement on a service as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// It serves.
    Good,
    /// It serves, but not as it should.
    Degraded {
        /// What is wrong.
        why: String,
    },
    /// It can't serve.
    Down {
        /// What is wrong.
        why: String,
    },
    /// Nothing runs, and nothing needs to.
    AtRest,
}
