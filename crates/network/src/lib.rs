//! The node's network, netlink from end to end: blocking, without a runtime, so that the keeper uses
//! it between a clone and an exec, and the server as it likes.
//!
//! ```text
//!            outside ── masquerade ──┐
//!                                    │ (forwarded, tracked)
//!   instance ── eth0 ═ veth ═ mn<id>xxxx ── node: gateway, DNS and virtual addresses on `lo`
//!                                    │ (not tracked)
//!   instance ── eth0 ═ veth ═ mn<id>xxxx ── never to another instance
//! ```
//!
//! In order: the server calls [`Node::ensure`]; for each instance the keeper calls
//! [`link::create_instance_pair`], the instance's first process [`link::configure_inside`], and whoever
//! sends it the first packet [`link::settle`] before; [`Probe`] sees it listen. What serves virtual
//! addresses and names must listen on exactly these addresses: the filter lets nothing else of the host
//! answer an instance.
//!
//! Every name in the kernel derives from the data directory's [`NodeId8`], so that two nodes on one
//! machine never touch each other's, and nothing is ever deleted on the path of a start or a stop: an
//! instance's pair goes with its namespace. What a crash leaves is deleted by [`remove_links_but`].

mod filter;
mod forwarding;
pub mod link;
mod listener;
mod names;
mod netlink;
mod node;
mod probe;
mod range;
mod route;

pub use forwarding::{ForwardingError, forward_blocked};
pub use listener::{ListenerError, listener_owner};
pub use names::{InvalidNodeId, NodeId8, NodeNetwork};
pub use netlink::NetlinkError;
pub use node::{CleanError, EnsureError, Node, clean, remove_links_but};
pub use probe::{Listening, Probe, ProbeError};
pub use range::{RangeError, choose_range};
