//! What one client, or all together, may ask of the registry.

use std::time::Duration;

/// The registry's bounds; the defaults suit a machine of any size.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The largest blob, in bytes. Layers of 10 GiB exist (models, databases); larger ones are mistakes.
    pub blob: u64,
    /// The largest manifest, in bytes: the specification asks registries to take 4 MiB.
    pub manifest: usize,
    /// Requests that send content at one time. Each holds up to 2 MiB of memory and one file.
    pub receiving: usize,
    /// Uploads that are begun and not ended. Each is a directory and some hundred bytes of memory.
    pub uploads: usize,
    /// How long a client may stay silent while it sends.
    pub idle: Duration,
    /// How long an upload that nobody writes to can still be resumed.
    pub upload_age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            blob: 10 << 30,
            manifest: 4 << 20,
            receiving: 64,
            uploads: 1024,
            idle: Duration::from_secs(60),
            upload_age: Duration::from_hours(24),
        }
    }
}
