//! The node's filter rules.

use crate::{
    names::{NodeId8, NodeNetwork},
    netlink::NetlinkError,
    node::EnsureError,
};

pub(crate) fn install(_network: &NodeNetwork) -> Result<(), EnsureError> {
    Ok(())
}

pub(crate) fn remove(_id: NodeId8) -> Result<(), NetlinkError> {
    Ok(())
}
