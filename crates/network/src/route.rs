//! Links, addresses, routes and neighbours as requests to the kernel (rtnetlink(7)).

use std::net::Ipv4Addr;

use rustix::io::Errno;

use crate::{
    names::Hardware,
    netlink::{
        Attributes, CREATE, DUMP, EXCLUSIVE, Messages, NetlinkError, REPLACE, Socket, attribute, number, text,
    },
};

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const GET_ROUTE: u16 = 26;
const NEW_NEIGHBOUR: u16 = 28;

const INET: u8 = 2;
const INET6: u16 = 10;
const UP: u32 = 1;
/// The index of `lo` in every network namespace.
pub(crate) const LOOPBACK: u32 = 1;

// Kinds of attributes: of links (IFLA_*), addresses (IFA_*), routes (RTA_*) and neighbours (NDA_*).
const LINK_HARDWARE: u16 = 1;
const LINK_NAME: u16 = 3;
const LINK_INFO: u16 = 18;
const LINK_INFO_KIND: u16 = 1;
const LINK_INFO_DATA: u16 = 2;
const LINK_FAMILIES: u16 = 26;
const LINK_GROUP: u16 = 27;
const LINK_NAMESPACE: u16 = 28;
const VETH_PEER: u16 = 1;
const INET_SETTINGS: u16 = 1;
const INET6_GENERATE: u16 = 8;
const ADDRESS_ADDRESS: u16 = 1;
const ADDRESS_LOCAL: u16 = 2;
const ADDRESS_LABEL: u16 = 3;
const ROUTE_TO: u16 = 1;
const ROUTE_LINK: u16 = 4;
const ROUTE_GATEWAY: u16 = 5;
const ROUTE_SOURCE: u16 = 7;
const NEIGHBOUR_ADDRESS: u16 = 1;
const NEIGHBOUR_HARDWARE: u16 = 2;

const SCOPE_GLOBAL: u8 = 0;
const SCOPE_LINK: u8 = 253;
const SCOPE_HOST: u8 = 254;
const STATIC: u8 = 4;
const ONLINK: u32 = 4;
const PERMANENT: u16 = 0x80;

/// A block of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Prefix {
    pub(crate) address: Ipv4Addr,
    pub(crate) length: u8,
}

impl Prefix {
    pub(crate) fn host(address: Ipv4Addr) -> Self {
        Self { address, length: 32 }
    }

    /// Ones where addresses of the block agree.
    pub(crate) fn mask(self) -> Ipv4Addr {
        let free = 32_u32.saturating_sub(self.length.into());
        Ipv4Addr::from_bits(u32::MAX.checked_shl(free).unwrap_or(0))
    }

    /// Whether the two have an address in common.
    pub(crate) fn overlaps(self, other: Self) -> bool {
        let mask = if self.length < other.length { self.mask() } else { other.mask() };
        self.address & mask == other.address & mask
    }
}

/// What a route does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// To this link, with this source address unless the sender chose one.
    Link { index: u32, source: Ipv4Addr },
    /// To this neighbour on this link.
    Neighbour { index: u32, gateway: Ipv4Addr },
    /// Every address of the block is the node's own.
    Local,
    /// Refused with an error to the sender.
    Unreachable,
}

/// A route that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) to: Prefix,
    /// The link that it leads to, if it leads to one.
    pub(crate) link: Option<u32>,
}

/// An address that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) block: Prefix,
    pub(crate) label: String,
}

/// A socket for all of this file.
pub(crate) fn socket() -> Result<Socket, NetlinkError> {
    Socket::open(None)
}

/// The structure that opens every request about a link.
fn link_header(index: u32, up: bool) -> [u8; 16] {
    let mut header = [0; 16];
    let [_, _, _, _, place @ ..] = &mut header;
    let flags = if up { UP } else { 0 };
    for (slot, value) in place.chunks_exact_mut(4).zip([index, flags, flags]) {
        slot.copy_from_slice(&value.to_ne_bytes());
    }
    header
}

/// The parts of an instance's pair that the kernel needs to make it.
#[derive(Debug)]
pub(crate) struct Pair<'a> {
    pub(crate) host: &'a str,
    pub(crate) host_hardware: Hardware,
    pub(crate) peer: &'a str,
    pub(crate) peer_hardware: Hardware,
    /// The number of an open descriptor of the network namespace that the peer is made in.
    pub(crate) namespace: u32,
}

/// What the first request of a pair is called when it is refused.
pub(crate) const MAKE_PAIR: &str = "make a pair of links";

/// Makes a pair in one request. A peer can't be made up (ENOTCONN): it is set up from inside.
pub(crate) fn add_pair(messages: &mut Messages, pair: &Pair<'_>) {
    let header = link_header(0, true);
    messages.request(MAKE_PAIR, NEW_LINK, CREATE | EXCLUSIVE, &header, |a| {
        a.text(LINK_NAME, pair.host);
        a.bytes(LINK_HARDWARE, &pair.host_hardware);
        a.nest(LINK_INFO, |info| {
            info.text(LINK_INFO_KIND, "veth");
            info.nest(LINK_INFO_DATA, |data| {
                data.nest(VETH_PEER, |peer| {
                    peer.append(&link_header(0, false));
                    peer.text(LINK_NAME, pair.peer);
                    peer.bytes(LINK_HARDWARE, &pair.peer_hardware);
                    peer.number(LINK_NAMESPACE, pair.namespace);
                });
            });
        });
    });
}

/// Sets a link up.
pub(crate) fn set_up(messages: &mut Messages, index: u32) {
    messages.request("set a link up", NEW_LINK, 0, &link_header(index, true), |_| ());
}

/// Makes the host check that what comes in by a link comes from where it would answer to (strict
/// reverse path filter), and forward it.
pub(crate) fn guard_link(messages: &mut Messages, index: u32) {
    const FORWARDING: u16 = 1;
    const REVERSE_PATH: u16 = 8;
    let header = link_header(index, false);
    messages.request("guard a link by its reverse path", NEW_LINK, 0, &header, |a| {
        a.nest(LINK_FAMILIES, |families| {
            families.nest(INET.into(), |inet| {
                inet.nest(INET_SETTINGS, |settings| {
                    settings.number(FORWARDING, 1);
                    settings.number(REVERSE_PATH, 1);
                });
            });
        });
    });
}

/// Keeps IPv6 from giving a link an address by itself. Refused where the kernel has no IPv6.
pub(crate) fn no_inet6_address(messages: &mut Messages, index: u32) {
    const NOTHING: u8 = 1;
    let header = link_header(index, false);
    messages.request("keep IPv6 off a link", NEW_LINK, 0, &header, |a| {
        a.nest(LINK_FAMILIES, |families| {
            families.nest(INET6, |inet6| inet6.bytes(INET6_GENERATE, &[NOTHING]))
        });
    });
}

/// Deletes a link.
pub(crate) fn delete_link(messages: &mut Messages, index: u32) {
    messages.request("delete a link", DELETE_LINK, 0, &link_header(index, false), |_| ());
}

/// Puts a link into a group.
pub(crate) fn group_link(messages: &mut Messages, index: u32, group: u32) {
    messages.request("put a link into a group", NEW_LINK, 0, &link_header(index, false), |a| {
        a.number(LINK_GROUP, group);
    });
}

/// Deletes a group's links, all in the time that one takes.
pub(crate) fn delete_group(messages: &mut Messages, group: u32) {
    messages.request("delete links", DELETE_LINK, 0, &link_header(0, false), |a| {
        a.number(LINK_GROUP, group);
    });
}

/// Gives a link an address of its own, refused if it has it. `label` is what the address is known by.
pub(crate) fn add_address(messages: &mut Messages, index: u32, address: Ipv4Addr, label: Option<&str>) {
    let [i, j, k, l] = index.to_ne_bytes();
    // An address of `lo` is of no use on other links, and must not be chosen as a source there.
    let scope = if index == LOOPBACK { SCOPE_LINK } else { SCOPE_GLOBAL };
    let header = [INET, 32, 0, scope, i, j, k, l];
    messages.request("add an address", NEW_ADDRESS, CREATE | EXCLUSIVE, &header, |a| {
        a.bytes(ADDRESS_ADDRESS, &address.octets());
        a.bytes(ADDRESS_LOCAL, &address.octets());
        if let Some(label) = label {
            a.text(ADDRESS_LABEL, label);
        }
    });
}

/// Takes an address from a link.
pub(crate) fn delete_address(messages: &mut Messages, index: u32, address: Ipv4Addr) {
    let [i, j, k, l] = index.to_ne_bytes();
    messages.request("delete an address", DELETE_ADDRESS, 0, &[INET, 32, 0, 0, i, j, k, l], |a| {
        a.bytes(ADDRESS_LOCAL, &address.octets());
    });
}

/// Makes or replaces a route.
pub(crate) fn add_route(messages: &mut Messages, to: Prefix, way: Way) {
    messages
        .request("add a route", NEW_ROUTE, CREATE | REPLACE, &route_header(to, way), |a| fill(a, to, way));
}

/// Deletes a route.
pub(crate) fn delete_route(messages: &mut Messages, to: Prefix, way: Way) {
    messages.request("delete a route", DELETE_ROUTE, 0, &route_header(to, way), |a| fill(a, to, way));
}

fn route_header(to: Prefix, way: Way) -> [u8; 12] {
    const MAIN: u8 = 254;
    const LOCAL: u8 = 255;
    let (table, scope, kind, flags) = match way {
        Way::Link { .. } => (MAIN, SCOPE_LINK, 1, 0),
        Way::Neighbour { .. } => (MAIN, SCOPE_GLOBAL, 1, ONLINK),
        Way::Local => (LOCAL, SCOPE_HOST, 2, 0),
        Way::Unreachable => (MAIN, SCOPE_GLOBAL, 7, 0),
    };
    let [i, j, k, l] = flags.to_ne_bytes();
    [INET, to.length, 0, 0, table, STATIC, scope, kind, i, j, k, l]
}

fn fill(a: &mut Attributes<'_>, to: Prefix, way: Way) {
    if to.length > 0 {
        a.bytes(ROUTE_TO, &to.address.octets());
    }
    match way {
        Way::Link { index, source } => {
            a.number(ROUTE_LINK, index);
            a.bytes(ROUTE_SOURCE, &source.octets());
        }
        Way::Neighbour { index, gateway } => {
            a.number(ROUTE_LINK, index);
            a.bytes(ROUTE_GATEWAY, &gateway.octets());
        }
        Way::Local => a.number(ROUTE_LINK, LOOPBACK),
        Way::Unreachable => {}
    }
}

/// Tells a link its neighbour's hardware address for good: nothing is asked for, so nothing is lost.
pub(crate) fn add_neighbour(messages: &mut Messages, index: u32, address: Ipv4Addr, hardware: Hardware) {
    let [i, j, k, l] = index.to_ne_bytes();
    let [s, t] = PERMANENT.to_ne_bytes();
    let header = [INET, 0, 0, 0, i, j, k, l, s, t, 0, 0];
    messages.request("add a neighbour", NEW_NEIGHBOUR, CREATE | REPLACE, &header, |a| {
        a.bytes(NEIGHBOUR_ADDRESS, &address.octets());
        a.bytes(NEIGHBOUR_HARDWARE, &hardware);
    });
}

/// The link of this name.
pub(crate) fn link_index(socket: &Socket, name: &str) -> Result<u32, NetlinkError> {
    rustix::net::netdevice::name_to_index(socket, name)
        .map_err(|errno| NetlinkError::System { action: "find a link by its name", source: errno.into() })
}

/// Whether a link carries packets. Linux 6.8 and later bring it up to date with its peer before they
/// answer; without that the first packets after the peer came up are lost.
pub(crate) fn carries(socket: &mut Socket, index: u32) -> Result<bool, NetlinkError> {
    const LOWER_UP: u32 = 1 << 16;
    let mut messages = Messages::default();
    messages.request("look at a link", GET_LINK, 0, &link_header(index, false), |_| ());
    let flags = socket.ask(messages, |payload| number(payload, 8))?;
    Ok(flags.is_some_and(|flags| flags & LOWER_UP != 0))
}

/// All IPv4 routes of all tables.
pub(crate) fn routes(socket: &mut Socket) -> Result<Vec<Route>, NetlinkError> {
    let request = |m: &mut Messages| {
        m.request("list the routes", GET_ROUTE, DUMP, &[INET, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], |_| ());
    };
    socket.dump(request, |payload| {
        let (header, rest) = payload.split_first_chunk::<12>()?;
        let address = attribute(rest, ROUTE_TO).map_or(Some(Ipv4Addr::UNSPECIFIED), ipv4)?;
        let link = attribute(rest, ROUTE_LINK).and_then(|v| number(v, 0));
        Some(Route { to: Prefix { address, length: header[1] }, link })
    })
}

/// All IPv4 addresses of all links.
pub(crate) fn addresses(socket: &mut Socket) -> Result<Vec<Address>, NetlinkError> {
    let request = |m: &mut Messages| {
        m.request("list the addresses", GET_ADDRESS, DUMP, &[INET, 0, 0, 0, 0, 0, 0, 0], |_| ());
    };
    socket.dump(request, |payload| {
        let (header, rest) = payload.split_first_chunk::<8>()?;
        let address = attribute(rest, ADDRESS_LOCAL).and_then(ipv4)?;
        let label = attribute(rest, ADDRESS_LABEL).and_then(text).unwrap_or_default().to_owned();
        Some(Address { block: Prefix { address, length: header[1] }, label })
    })
}

/// The index and the name of every link.
pub(crate) fn links(socket: &mut Socket) -> Result<Vec<(u32, String)>, NetlinkError> {
    let request =
        |m: &mut Messages| m.request("list the links", GET_LINK, DUMP, &link_header(0, false), |_| ());
    socket.dump(request, |payload| {
        let rest = payload.get(16..)?;
        Some((number(payload, 4)?, attribute(rest, LINK_NAME).and_then(text)?.to_owned()))
    })
}

fn ipv4(value: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from)
}

/// Sends the requests; a refusal for one of these reasons is as good as done.
pub(crate) fn exchange_unless(
    socket: &mut Socket,
    messages: Messages,
    fine: &[Errno],
) -> Result<(), NetlinkError> {
    match socket.exchange(messages) {
        Err(error) if error.refused().is_some_and(|(_, errno)| fine.contains(&errno)) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_overlap_when_one_holds_the_other() {
        let prefix = |text: &str, length| Prefix { address: text.parse().unwrap(), length };
        let ours = prefix("10.7.0.0", 16);
        for (address, length, overlaps) in [
            ("10.7.3.1", 32, true),
            ("10.0.0.0", 8, true),
            ("0.0.0.0", 0, true),
            ("10.6.0.0", 15, true),
            ("10.8.0.0", 16, false),
            ("192.168.7.0", 24, false),
        ] {
            assert_eq!(ours.overlaps(prefix(address, length)), overlaps, "{address}/{length}");
        }
    }
}
