//! The rules themselves, in the order in which a packet meets them.
//!
//! Links of instances are known by how their names begin, so that an instance that comes or goes
//! changes no rule. `meta skuid` says nothing of packets without a socket (a reset, an acknowledgement
//! of a connection that is gone), which therefore pass as the kernel's own.

use super::expression::{Expression, TCP, UDP};
use crate::{names::NodeNetwork, route::Prefix};
use Expression::{
    Accept, BoundHere, Drop, Established, From, Goto, IcmpUnreachable, In, Loopback, Masquerade, NotFrom,
    NotOpening, NotOut, NotRoot, NotTo, Out, Port, Prohibit, Protocol, Reset, To, Untracked, V6,
};

/// A chain of the table.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    /// Where packets enter it; none: from another chain only.
    pub(super) hook: Option<Hook>,
}

/// Where a chain hangs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hook {
    pub(super) number: u32,
    pub(super) priority: i32,
    pub(super) kind: &'static str,
}

const RAW: i32 = -300;
const FILTER: i32 = 0;
const SOURCE_NAT: i32 = 100;
const AFTER_NAT: i32 = 200;

/// The chains, each before those that lead to it.
pub(super) const CHAINS: &[Chain] = &[
    Chain { name: "from_instance", what: "hold rules", hook: None },
    Chain { name: "to_node", what: "hold rules", hook: None },
    Chain { name: "leaving", what: "hold rules", hook: None },
    Chain { name: "entering", what: "hold rules", hook: None },
    Chain { name: "to_instance", what: "hold rules", hook: None },
    hooked("prerouting", "see what comes in", 0, RAW, "filter"),
    hooked("input", "see what the node gets", 1, FILTER, "filter"),
    hooked("forward", "see what is forwarded", 2, FILTER, "filter"),
    hooked("output_raw", "see what the node sends", 3, RAW, "filter"),
    hooked("output", "see what the node sends", 3, FILTER, "filter"),
    hooked("postrouting", "translate addresses", 4, SOURCE_NAT, "nat"),
    hooked("postrouting_late", "see what leaves", 4, AFTER_NAT, "filter"),
];

const fn hooked(
    name: &'static str,
    what: &'static str,
    number: u32,
    priority: i32,
    kind: &'static str,
) -> Chain {
    Chain { name, what, hook: Some(Hook { number, priority, kind }) }
}

impl Chain {
    /// The kernel's modules that the chain takes.
    pub(super) fn needs(&self) -> &'static str {
        if self.hook.is_some_and(|h| h.kind == "nat") { "nft_chain_nat" } else { "nf_tables" }
    }
}

/// A rule: questions, then what is done.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) chain: &'static str,
    /// What it does, in words: its comment, and its name when the kernel refuses it.
    pub(super) what: &'static str,
    pub(super) expressions: Vec<Expression>,
}

impl Rule {
    /// The kernel's modules that the rule takes.
    pub(super) fn needs(&self) -> &'static str {
        self.expressions.iter().find_map(Expression::needs).unwrap_or("nf_tables")
    }
}

/// All rules of a node.
pub(super) fn rules(network: &NodeNetwork) -> Vec<Rule> {
    let ours = network.id.link_prefix();
    let whole = Prefix { address: network.plan.base(), length: 16 };
    let (address, length) = network.plan.virtual_block();
    let node = Prefix { address, length };
    let gateway = Prefix::host(network.plan.gateway());
    [
        incoming(&ours, whole, node),
        local(&ours, node, gateway),
        forwarded(&ours, whole),
        outgoing(&ours, whole, node),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn rule<const N: usize>(chain: &'static str, what: &'static str, expressions: [Expression; N]) -> Rule {
    Rule { chain, what, expressions: expressions.into() }
}

/// Before routing and tracking.
fn incoming(ours: &str, whole: Prefix, node: Prefix) -> Vec<Rule> {
    let link_local = Prefix { address: std::net::Ipv4Addr::new(169, 254, 0, 0), length: 16 };
    let from = |what, e| Rule { chain: "from_instance", what, expressions: e };
    vec![
        rule("prerouting", "judge what an instance sends", [In(ours.into()), Goto("from_instance")]),
        rule("prerouting", "leave other IPv6 alone", [V6, Accept]),
        rule(
            "prerouting",
            "leave loopback to the output's rules",
            [Loopback { out: false, equal: true }, Accept],
        ),
        rule("prerouting", "drop what others send to our addresses", [To(whole), Drop]),
        rule("prerouting", "drop what others send as our addresses", [From(whole), Drop]),
        from("drop IPv6 from instances", vec![V6, Drop]),
        from("drop foreign sources from instances", vec![NotFrom(whole), Drop]),
        from("not track what goes to the node", vec![To(node), Untracked, Accept]),
        from("drop what goes to link-local addresses", vec![To(link_local), Drop]),
    ]
}

/// From an instance to the node itself: name service and virtual addresses, and answers.
fn local(ours: &str, node: Prefix, gateway: Prefix) -> Vec<Rule> {
    let to = |what, e| Rule { chain: "to_node", what, expressions: e };
    vec![
        rule("input", "judge what an instance sends to the node", [In(ours.into()), Goto("to_node")]),
        to("pass answers and open connections", vec![NotOpening, To(node), Accept]),
        to("pass questions for names", vec![To(gateway), Protocol(UDP), Port(53), BoundHere, Accept]),
        to("pass long questions for names", vec![To(gateway), Protocol(TCP), Port(53), BoundHere, Accept]),
        to("refuse all else to the gateway", vec![To(gateway), Prohibit]),
        // Only what listens on that very address: whatever of the host listens on all is not meant.
        to("pass connections to virtual addresses", vec![To(node), Protocol(TCP), BoundHere, Accept]),
        to("refuse virtual addresses without a listener", vec![To(node), Protocol(TCP), Reset]),
        to("refuse the rest of the node", vec![Prohibit]),
    ]
}

/// Between an instance and the outside.
fn forwarded(ours: &str, whole: Prefix) -> Vec<Rule> {
    vec![
        rule("forward", "judge what leaves an instance", [In(ours.into()), Goto("leaving")]),
        rule("forward", "judge what enters an instance", [Out(ours.into()), Goto("entering")]),
        rule("leaving", "refuse the way to other instances", [To(whole), Prohibit]),
        rule("leaving", "refuse links of other instances", [Out(ours.into()), Prohibit]),
        rule("entering", "pass answers from outside", [Established, Accept]),
        rule("entering", "drop all else from outside", [Drop]),
    ]
}

/// What the node itself sends, and what leaves the machine.
fn outgoing(ours: &str, whole: Prefix, node: Prefix) -> Vec<Rule> {
    let not_loopback = Loopback { out: true, equal: false };
    vec![
        rule("output_raw", "not track what goes to instances", [Out(ours.into()), Untracked]),
        rule("output", "leave IPv6 of the node alone", [V6, Accept]),
        rule("output", "judge what the node sends to our addresses", [To(whole), Goto("to_instance")]),
        // So that a refusal reaches whom it refuses, by loopback.
        rule("to_instance", "pass refusals", [To(node), IcmpUnreachable, Accept]),
        rule("to_instance", "refuse virtual addresses to the node", [To(node), Prohibit]),
        rule("to_instance", "refuse instances to all but root", [NotRoot, Prohibit]),
        rule("postrouting", "leave IPv6 as it is", [V6, Accept]),
        rule(
            "postrouting",
            "masquerade what goes outside",
            [not_loopback.clone(), NotOut(ours.into()), From(whole), NotTo(whole), Masquerade],
        ),
        rule("postrouting_late", "leave IPv6 alone", [V6, Accept]),
        rule(
            "postrouting_late",
            "keep private sources on the machine",
            [not_loopback, NotOut(ours.into()), From(whole), Drop],
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: fn(&Expression) -> bool =
        |e| matches!(e, From(_) | NotFrom(_) | To(_) | NotTo(_) | IcmpUnreachable);

    /// Whether IPv6 has left the chain before its rule with this comment.
    fn is_without_v6(all: &[Rule], rule: &Rule) -> bool {
        let earlier = all.iter().take_while(|r| r.what != rule.what).filter(|r| r.chain == rule.chain);
        earlier.into_iter().any(|r| matches!(r.expressions.as_slice(), [V6, Accept | Drop]))
    }

    /// Questions read an address where IPv4 has it: in IPv6 there is something else.
    #[test]
    fn no_ipv6_comes_to_a_question_of_ipv4_addresses() {
        let plan = minato_model::network::AddressPlan::new(std::net::Ipv4Addr::new(10, 7, 0, 0));
        let all = rules(&NodeNetwork { id: crate::names::NodeId8::new(1), plan });
        let first = |chain| &all.iter().find(|r| r.chain == chain).unwrap().expressions;
        // What instances send as IPv6 ends before all else: no later hook sees it come in from them.
        assert!(matches!(first("prerouting").as_slice(), [In(_), Goto("from_instance")]));
        assert_eq!(first("from_instance").as_slice(), [V6, Drop]);
        for rule in all.iter().filter(|r| r.expressions.iter().any(QUESTION)) {
            let into = |r: &&Rule| r.expressions.contains(&Goto(rule.chain));
            let ways: Vec<&Rule> = all.iter().filter(into).collect();
            let from_instances = |r: &Rule| r.chain != "prerouting" && matches!(r.expressions[0], In(_));
            let by_the_way =
                !ways.is_empty() && ways.iter().all(|r| from_instances(r) || is_without_v6(&all, r));
            assert!(is_without_v6(&all, rule) || by_the_way, "{rule:?}");
        }
    }
}
