//! Whether something else on the host drops what instances send to the outside. Every table has its
//! say about a forwarded packet, and one that drops wins: our rules can't let it pass.

use std::{fs, process::Command};

use rustix::net::netlink;

use crate::{
    names::NodeNetwork,
    netlink::{DUMP, Messages, NetlinkError, Socket, attribute, attributes, network_number, text},
};

const GET_CHAIN: u16 = (10 << 8) | 4;
const GET_RULE: u16 = (10 << 8) | 7;
const INET: u8 = 1;
const IPV4: u8 = 2;
const FORWARD: u32 = 2;
const DROP: u32 = 0;
const ACCEPT: u32 = 1;

/// Why it isn't known.
#[derive(Debug, thiserror::Error)]
#[error("could not see the host's filter rules")]
pub struct ForwardingError {
    /// Why.
    #[from]
    source: NetlinkError,
}

/// Says who on the host drops packets between instances and the outside, and how to cure it; none
/// where nobody does. (Requests to instances are not forwarded, and not concerned.) It judges what is
/// usual: a policy or a last rule that refuses, and rules above it that accept the node's links or
/// range. Rules of the former iptables are asked of `iptables-legacy`, where there are any.
///
/// # Errors
/// When the kernel doesn't list its rules.
pub fn forward_blocked(network: &NodeNetwork) -> Result<Option<String>, ForwardingError> {
    let mut socket = Socket::open(Some(netlink::NETFILTER))?;
    let chains = list(&mut socket, GET_CHAIN, Chain::read)?;
    let rules = list(&mut socket, GET_RULE, |family, rest| Rule::read(family, rest, network))?;
    let refusing = chains.iter().find(|chain| {
        let mut own = rules.iter().filter(|r| r.place == chain.place && r.chain == chain.name);
        let refuses = chain.drops || (chain.forwards && own.next_back().is_some_and(|last| last.refuses_all));
        let passed = |way| rules.iter().any(|r| r.place == chain.place && r.accepts == Some(way));
        refuses && !(passed(Way::From) && passed(Way::To))
    });
    let Some(chain) = refusing else {
        return Ok(legacy_listing().and_then(|listing| legacy_blocked(&listing, network)));
    };
    let docker = chains.iter().any(|c| c.place == chain.place && c.name == "DOCKER-USER");
    Ok(Some(chain.say(docker, network)))
}

/// A table: its family and its name.
type Place = (u8, String);

/// Which of a packet's ends is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    From,
    To,
}

#[derive(Debug)]
struct Chain {
    place: Place,
    name: String,
    /// Forwarded IPv4 packets enter here.
    forwards: bool,
    /// And are dropped unless a rule lets them pass.
    drops: bool,
}

#[derive(Debug)]
struct Rule {
    place: Place,
    chain: String,
    /// It accepts what comes from, or goes to, our links or range.
    accepts: Option<Way>,
    /// It drops or rejects whatever comes.
    refuses_all: bool,
}

impl Chain {
    fn read(family: u8, rest: &[u8]) -> Option<Self> {
        let number = |bytes, kind| attribute(bytes, kind).and_then(network_number);
        let hook = attribute(rest, 4).and_then(|hook| number(hook, 1));
        let forwards = hook == Some(FORWARD) && matches!(family, INET | IPV4);
        Some(Self {
            place: (family, attribute(rest, 1).and_then(text)?.to_owned()),
            name: attribute(rest, 3).and_then(text)?.to_owned(),
            forwards,
            drops: forwards && number(rest, 5) == Some(DROP),
        })
    }

    /// Who drops, and what to do: by iptables where that made the chain, else by nft.
    fn say(&self, docker: bool, network: &NodeNetwork) -> String {
        let (family, table) = &self.place;
        if (*family, table.as_str(), self.name.as_str()) == (IPV4, "filter", "FORWARD") {
            return iptables(if docker { "DOCKER-USER" } else { "FORWARD" }, "iptables", network);
        }
        let family = if *family == IPV4 { "ip" } else { "inet" };
        let (chain, links) = (&self.name, network.id.link_prefix());
        format!(
            "chain {chain} of table {family} {table} drops forwarded packets, so instances don't reach the \
             outside; to let them: nft insert rule {family} {table} {chain} iifname '\"{links}*\"' accept; \
             nft insert rule {family} {table} {chain} oifname '\"{links}*\"' accept"
        )
    }
}

impl Rule {
    fn read(family: u8, rest: &[u8], network: &NodeNetwork) -> Option<Self> {
        let expressions: Vec<(&str, &[u8])> = attributes(attribute(rest, 4).unwrap_or_default())
            .filter_map(|(_, one)| Some((text(attribute(one, 1)?)?, attribute(one, 2).unwrap_or_default())))
            .filter(|(name, _)| *name != "counter")
            .collect();
        let verdict = expressions.last().and_then(verdict);
        Some(Self {
            place: (family, attribute(rest, 1).and_then(text)?.to_owned()),
            chain: attribute(rest, 2).and_then(text)?.to_owned(),
            accepts: ours(&expressions, network).filter(|_| verdict == Some(ACCEPT)),
            refuses_all: expressions.len() == 1 && verdict == Some(DROP),
        })
    }
}

/// What an expression decides; a rejection counts as a drop.
fn verdict((name, data): &(&str, &[u8])) -> Option<u32> {
    match *name {
        "reject" => Some(DROP),
        "immediate" => network_number(attribute(attribute(attribute(data, 2)?, 2)?, 1)?),
        _ => None,
    }
}

/// Which end of the packets that a rule is about is ours: by the name of the link, or by the address.
fn ours(expressions: &[(&str, &[u8])], network: &NodeNetwork) -> Option<Way> {
    let links = network.id.link_prefix();
    let [a, b, ..] = network.plan.base().octets();
    expressions.windows(2).find_map(|pair| {
        let [(asked, what), ("cmp", value)] = pair else { return None };
        let value = attribute(attribute(value, 3)?, 1)?;
        let number = |kind| attribute(what, kind).and_then(network_number);
        match (*asked, number(2), number(3)) {
            ("meta", Some(6), _) if value.starts_with(links.as_bytes()) => Some(Way::From),
            ("meta", Some(7), _) if value.starts_with(links.as_bytes()) => Some(Way::To),
            ("payload", Some(1), Some(12)) if value == [a, b] => Some(Way::From),
            ("payload", Some(1), Some(16)) if value == [a, b] => Some(Way::To),
            _ => None,
        }
    })
}

/// All of one kind, of every family.
fn list<T>(
    socket: &mut Socket,
    kind: u16,
    read: impl Fn(u8, &[u8]) -> Option<T>,
) -> Result<Vec<T>, NetlinkError> {
    let request = |m: &mut Messages| m.request("list the host's rules", kind, DUMP, &[0; 4], |_| ());
    socket.dump(request, |payload| {
        let ([family, ..], rest) = payload.split_first_chunk::<4>()?;
        read(*family, rest)
    })
}

/// The rules of the former iptables, which nf_tables doesn't know; none where none were ever made.
fn legacy_listing() -> Option<String> {
    let tables = fs::read_to_string("/proc/thread-self/net/ip_tables_names").ok()?;
    tables.lines().find(|table| *table == "filter")?;
    let output = Command::new("iptables-legacy").arg("-S").output().ok()?;
    String::from_utf8(output.stdout).ok()
}

fn legacy_blocked(listing: &str, network: &NodeNetwork) -> Option<String> {
    let links = network.id.link_prefix();
    let passed = |way| {
        let way = format!("{way} {links}+ ");
        listing.lines().any(|rule| rule.contains(&way) && rule.ends_with("-j ACCEPT"))
    };
    let drops = listing.lines().any(|rule| rule == "-P FORWARD DROP");
    let docker = listing.lines().any(|rule| rule == "-N DOCKER-USER");
    let chain = if docker { "DOCKER-USER" } else { "FORWARD" };
    (drops && !(passed("-i") && passed("-o"))).then(|| iptables(chain, "iptables-legacy", network))
}

fn iptables(chain: &str, program: &str, network: &NodeNetwork) -> String {
    let links = network.id.link_prefix();
    let who = if chain == "DOCKER-USER" { "Docker" } else { "the host" };
    format!(
        "{who} drops forwarded packets (iptables' chain FORWARD), so instances don't reach the outside; to let \
         them: {program} -I {chain} -i {links}+ -j ACCEPT; {program} -I {chain} -o {links}+ -j ACCEPT"
    )
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use minato_model::network::AddressPlan;

    use super::*;
    use crate::NodeId8;

    #[test]
    fn a_legacy_listing_is_judged_by_its_policy_and_our_exceptions() {
        let plan = AddressPlan::new(Ipv4Addr::new(10, 7, 0, 0));
        let network = NodeNetwork { id: NodeId8::new(0xab), plan };
        let drop = "-P INPUT ACCEPT\n-P FORWARD DROP\n-N DOCKER-USER\n";
        let cure = legacy_blocked(drop, &network).unwrap();
        assert!(cure.contains("iptables-legacy -I DOCKER-USER -i mn000000ab+ -j ACCEPT"), "{cure}");
        let half = format!("{drop}-A DOCKER-USER -i mn000000ab+ -j ACCEPT\n");
        assert!(legacy_blocked(&half, &network).is_some());
        let whole = format!("{half}-A DOCKER-USER -o mn000000ab+ -j ACCEPT\n");
        assert_eq!(legacy_blocked(&whole, &network), None);
        assert_eq!(legacy_blocked("-P FORWARD ACCEPT\n", &network), None);
    }
}
