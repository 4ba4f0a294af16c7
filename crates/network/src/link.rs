//! An instance's pair of links: the host's end made by the keeper, the other set up from inside.
//!
//! A pair isn't deleted at its instance's end: it goes with its namespace, asynchronously. Until then its name is taken,
//! and with it the address ([`PairError::Busy`]).

use std::{
    net::Ipv4Addr,
    os::fd::{AsRawFd, BorrowedFd},
};

use rustix::io::Errno;

use crate::{
    names::{NodeNetwork, host_hardware, instance_hardware},
    netlink::{Messages, NetlinkError, Socket},
    route::{self, LOOPBACK, Pair, Prefix, Way},
};

/// What an instance calls its link.
const INSIDE: &str = "eth0";

/// Why an instance has no pair.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// The address isn't one of the node's instances.
    #[error("{address} is no instance's address in the node's network")]
    Outside {
        /// The address.
        address: Ipv4Addr,
    },
    /// A former instance's pair still exists: take another address.
    #[error("the link {link} of the address's former instance isn't gone yet")]
    Busy {
        /// Its name.
        link: String,
    },
    /// The kernel has no veth.
    #[error("the kernel can't make pairs of links: load the module `veth`, or use a kernel that has it")]
    Unsupported {
        /// Its answer.
        source: NetlinkError,
    },
    /// Anything else.
    #[error("could not give {address} its pair of links")]
    Netlink {
        /// The instance's address.
        address: Ipv4Addr,
        /// Why.
        source: NetlinkError,
    },
}

/// Makes an instance's pair: the host's end up and guarded, with its route and its neighbour; the
/// instance's end, named `eth0`, in `namespace` (an open network namespace). The host's end is
/// [`NodeNetwork::host_link`].
///
/// # Errors
/// [`PairError::Busy`] when another address should be tried, else what the kernel refused. A pair that
/// was half made goes with its namespace.
pub fn create_instance_pair(
    network: &NodeNetwork,
    address: Ipv4Addr,
    namespace: BorrowedFd<'_>,
) -> Result<(), PairError> {
    if !network.is_instance(address) {
        return Err(PairError::Outside { address });
    }
    let link = network.host_link(address);
    make(network, address, &link, namespace).map_err(|source| match source.refused() {
        Some((route::MAKE_PAIR, Errno::EXIST)) => PairError::Busy { link },
        Some((route::MAKE_PAIR, Errno::OPNOTSUPP)) => PairError::Unsupported { source },
        _ => PairError::Netlink { address, source },
    })
}

fn make(
    network: &NodeNetwork,
    address: Ipv4Addr,
    link: &str,
    namespace: BorrowedFd<'_>,
) -> Result<(), NetlinkError> {
    let mut socket = route::socket()?;
    let mut messages = Messages::default();
    route::add_pair(
        &mut messages,
        &Pair {
            host: link,
            host_hardware: host_hardware(address),
            peer: INSIDE,
            peer_hardware: instance_hardware(address),
            namespace: namespace.as_raw_fd().cast_unsigned(),
        },
    );
    socket.exchange(messages)?;
    let index = route::link_index(&socket, link)?;
    let mut messages = Messages::default();
    route::guard_link(&mut messages, index);
    route::add_neighbour(&mut messages, index, address, instance_hardware(address));
    let way = Way::Link { index, source: network.plan.gateway() };
    route::add_route(&mut messages, Prefix::host(address), way);
    socket.exchange(messages)?;
    without_inet6(&mut socket, index)
}

/// Sets an instance's network up, called in its namespace: `lo`, `eth0` with its address, the way out.
///
/// # Errors
/// What the kernel refused.
pub fn configure_inside(address: Ipv4Addr, gateway: Ipv4Addr) -> Result<(), NetlinkError> {
    let mut socket = route::socket()?;
    let index = route::link_index(&socket, INSIDE)?;
    without_inet6(&mut socket, index)?;
    let mut messages = Messages::default();
    route::set_up(&mut messages, LOOPBACK);
    route::set_up(&mut messages, index);
    route::add_address(&mut messages, index, address, None);
    route::add_neighbour(&mut messages, index, gateway, host_hardware(address));
    let everywhere = Prefix { address: Ipv4Addr::UNSPECIFIED, length: 0 };
    route::add_route(&mut messages, everywhere, Way::Neighbour { index, gateway });
    socket.exchange(messages)
}

/// Brings the host's end up to date after the instance's was set up, called on the host's side. From
/// Linux 6.8 on no packet is lost after this; without it the first may be, and with it a second (TCP's
/// first repetition). Says whether the pair carries packets.
///
/// # Errors
/// When there is no such pair.
pub fn settle(network: &NodeNetwork, address: Ipv4Addr) -> Result<bool, NetlinkError> {
    let mut socket = route::socket()?;
    let index = route::link_index(&socket, &network.host_link(address))?;
    route::carries(&mut socket, index)
}

/// The filter drops IPv6 in any case; this spares the announcements.
fn without_inet6(socket: &mut Socket, index: u32) -> Result<(), NetlinkError> {
    let mut messages = Messages::default();
    route::no_inet6_address(&mut messages, index);
    route::exchange_unless(socket, messages, &[Errno::AFNOSUPPORT, Errno::OPNOTSUPP])
}
