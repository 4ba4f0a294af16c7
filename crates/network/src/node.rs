//! The node's own part of the network: made once, found again after a crash, taken away by `--clean`.

use std::{fs, io, net::Ipv4Addr, path::Path};

use minato_model::network::AddressPlan;
use rustix::{event::poll, fs::Timespec, io::Errno};

use crate::{
    filter,
    names::{NodeId8, NodeNetwork},
    netlink::{Messages, NetlinkError, Socket},
    range::DEFAULT_ROUTE,
    route::{self, Address, LOOPBACK, Prefix, Route, Way},
};

const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// The node's network, in force.
#[derive(Debug, Clone, Copy)]
pub struct Node {
    network: NodeNetwork,
    forwarding_turned_on: bool,
}

/// Why the node has no network.
#[derive(Debug, thiserror::Error)]
pub enum EnsureError {
    /// Another node or the machine's own network has the range.
    #[error("{base}/16 is in use on this machine ({by}): set `network` to a free /16 of 10.0.0.0/8")]
    RangeTaken {
        /// The range.
        base: std::net::Ipv4Addr,
        /// Who has it.
        by: String,
    },
    /// The kernel lacks a part of its packet filter.
    #[error(
        "the kernel's packet filter can't {what}: it needs nf_tables with {needs} (on a usual \
             distribution's kernel: `modprobe -a {needs}`)"
    )]
    NoFilter {
        /// What was refused.
        what: &'static str,
        /// The modules that this takes.
        needs: &'static str,
        /// The kernel's answer.
        source: NetlinkError,
    },
    /// Packets can't be forwarded.
    #[error("could not turn on packet forwarding (net.ipv4.ip_forward)")]
    Forwarding {
        /// Why.
        source: io::Error,
    },
    /// Not the rights to change the network.
    #[error("changing the machine's network needs root (CAP_NET_ADMIN)")]
    NotAllowed {
        /// The kernel's answer.
        source: NetlinkError,
    },
    /// Anything else.
    #[error("could not set up the node's network")]
    Netlink {
        /// Why.
        source: NetlinkError,
    },
}

impl From<NetlinkError> for EnsureError {
    fn from(source: NetlinkError) -> Self {
        if source.is(Errno::PERM) { Self::NotAllowed { source } } else { Self::Netlink { source } }
    }
}

/// Why something is left in the kernel.
#[derive(Debug, thiserror::Error)]
#[error("could not take away the network of node {id}")]
pub struct CleanError {
    /// Whose.
    id: NodeId8,
    /// Why.
    source: NetlinkError,
}

impl Node {
    /// Makes the node's part of the network, or what is missing of it, and puts the filter rules in
    /// force anew, in one step. Running instances keep theirs.
    ///
    /// # Errors
    /// When the range is taken, the kernel lacks something or refuses; what was made stays, and is
    /// found again or taken away by [`clean`].
    pub fn ensure(network: &NodeNetwork) -> Result<Self, EnsureError> {
        let mut socket = route::socket()?;
        check_free(&mut socket, network)?;
        claim(&mut socket, network)?;
        // Before anything leads here: no packet passes without its rule.
        filter::install(network)?;
        let mut messages = Messages::default();
        for (to, way) in routes(network.plan) {
            route::add_route(&mut messages, to, way);
        }
        socket.exchange(messages)?;
        let forwarding_turned_on = forward()?;
        Ok(Self { network: *network, forwarding_turned_on })
    }

    /// Whose network it is, and its addresses.
    #[must_use]
    pub fn network(&self) -> &NodeNetwork {
        &self.network
    }

    /// Whether the machine forwarded no packets until now. It is left on: another node may need it.
    #[must_use]
    pub fn forwarding_turned_on(&self) -> bool {
        self.forwarding_turned_on
    }
}

/// The node's own routes. More exact ones lead to the instances that are there.
fn routes(plan: AddressPlan) -> [(Prefix, Way); 2] {
    let (address, length) = plan.virtual_block();
    [
        (Prefix { address: plan.base(), length: 16 }, Way::Unreachable),
        (Prefix { address, length }, Way::Local),
    ]
}

/// Refuses a range that the machine uses for something else.
fn check_free(socket: &mut Socket, network: &NodeNetwork) -> Result<(), EnsureError> {
    let (links, addresses) = (route::links(socket)?, route::addresses(socket)?);
    let prefix = network.id.link_prefix();
    let ours =
        |index| index == LOOPBACK || links.iter().any(|(i, name)| *i == index && name.starts_with(&prefix));
    let claimed = addresses.iter().any(|a| a.label == network.id.label());
    let block = Prefix { address: network.plan.base(), length: 16 };
    let touches = |other: Prefix| other.length >= DEFAULT_ROUTE && other.overlaps(block);
    let taken = |by: String| EnsureError::RangeTaken { base: network.plan.base(), by };
    let foreign = |a: &&Address| touches(a.block) && a.label != network.id.label();
    if let Some(Address { block, label }) = addresses.iter().find(foreign) {
        return Err(taken(format!("address {} of {label}", block.address)));
    }
    let foreign = |r: &&Route| touches(r.to) && !(claimed && r.link.is_none_or(ours));
    if let Some(Route { to, .. }) = route::routes(socket)?.iter().find(foreign) {
        return Err(taken(format!("a route to {}/{}", to.address, to.length)));
    }
    Ok(())
}

/// Takes the gateway's address, under the node's label: of several nodes that want a range one gets it.
fn claim(socket: &mut Socket, network: &NodeNetwork) -> Result<(), EnsureError> {
    let mut messages = Messages::default();
    route::set_up(&mut messages, LOOPBACK);
    route::add_address(&mut messages, LOOPBACK, network.plan.gateway(), Some(&network.id.label()));
    match socket.exchange(messages) {
        // Whose it is says the label: another node's came between the check and here.
        Err(error) if error.is(Errno::EXIST) => check_free(socket, network),
        other => Ok(other?),
    }
}

/// Turns on forwarding if it is off, and says whether it was.
fn forward() -> Result<bool, EnsureError> {
    let on = |source| EnsureError::Forwarding { source };
    if fs::read_to_string(Path::new(FORWARDING)).map_err(on)?.trim() != "0" {
        return Ok(false);
    }
    fs::write(FORWARDING, "1").map_err(on)?;
    Ok(true)
}

/// Deletes the links of instances that aren't among `held`, and says how many there were. A link goes by
/// itself when its namespace ends, which the kernel does later than it ends processes, and not at all
/// while somebody else has that namespace open; until then it has its instance's address and route.
///
/// # Errors
/// When the kernel refuses; calling again goes on.
pub fn remove_links_but(id: NodeId8, held: &[Ipv4Addr]) -> Result<usize, NetlinkError> {
    let mut socket = route::socket()?;
    let held: Vec<String> = held.iter().map(|&address| id.link(address)).collect();
    let mut links = route::links(&mut socket)?;
    links.retain(|(_, name)| name.starts_with(&id.link_prefix()) && !held.contains(name));
    for &(index, _) in &links {
        let mut messages = Messages::default();
        route::group_link(&mut messages, index, id.group());
        route::exchange_unless(&mut socket, messages, &[Errno::NODEV])?;
    }
    if !links.is_empty() {
        let mut messages = Messages::default();
        route::delete_group(&mut messages, id.group());
        // The last of them went by itself.
        route::exchange_unless(&mut socket, messages, &[Errno::NODEV])?;
    }
    Ok(links.len())
}

/// Takes away everything in the kernel that carries this node's id: links that outlived their
/// instances, the filter rules, the routes and the address. What isn't there is fine.
///
/// # Errors
/// When the kernel refuses; calling again goes on.
pub fn clean(id: NodeId8) -> Result<(), CleanError> {
    take_away(id).map_err(|source| CleanError { id, source })
}

fn take_away(id: NodeId8) -> Result<(), NetlinkError> {
    let mut socket = route::socket()?;
    for index in leftovers(&mut socket, id)? {
        let mut messages = Messages::default();
        route::delete_link(&mut messages, index);
        route::exchange_unless(&mut socket, messages, &[Errno::NODEV])?;
    }
    // The address goes last: by its label the routes are found again if this is interrupted.
    for address in route::addresses(&mut socket)? {
        if address.label != id.label() {
            continue;
        }
        let address = address.block.address;
        for (to, way) in routes(AddressPlan::new(address)) {
            let mut messages = Messages::default();
            route::delete_route(&mut messages, to, way);
            route::exchange_unless(&mut socket, messages, &[Errno::SRCH])?;
        }
        let mut messages = Messages::default();
        route::delete_address(&mut messages, LOOPBACK, address);
        route::exchange_unless(&mut socket, messages, &[Errno::ADDRNOTAVAIL])?;
    }
    filter::remove(id)
}

/// The node's links that don't go by themselves. Those of instances that just ended do, all together
/// and soon; deleting costs tens of milliseconds each.
fn leftovers(socket: &mut Socket, id: NodeId8) -> Result<Vec<u32>, NetlinkError> {
    const LOOKS: u32 = 50;
    const BETWEEN: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
    let prefix = id.link_prefix();
    let mut left = Vec::new();
    for _ in 0..LOOKS {
        let links = route::links(socket)?.into_iter();
        left = links.filter(|(_, name)| name.starts_with(&prefix)).map(|(index, _)| index).collect();
        // Waits and nothing else; a signal only shortens it.
        if left.is_empty() || matches!(poll(&mut [], Some(&BETWEEN)), Err(errno) if errno != Errno::INTR) {
            break;
        }
    }
    Ok(left)
}
