//! The node's filter: a table of its own, of family `inet`, replaced as a whole in one batch of
//! nfnetlink requests, so that there is no moment without rules.

mod expression;
mod rules;

use rustix::{io::Errno, net::netlink};

use crate::{
    names::{NodeId8, NodeNetwork},
    netlink::{APPEND, Attributes, CREATE, Messages, NetlinkError, Socket},
    node::EnsureError,
};
use rules::{CHAINS, Chain};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const DELETE_TABLE: u16 = (SUBSYSTEM << 8) | 2;
const NEW_CHAIN: u16 = (SUBSYSTEM << 8) | 3;
const NEW_RULE: u16 = (SUBSYSTEM << 8) | 6;

// Kinds of attributes: of tables, chains, their hooks, and rules (NFTA_*).
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_KIND: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_COMMENT: u16 = 7;

/// `struct nfgenmsg` of family `inet`.
const INET: [u8; 4] = [1, 0, 0, 0];

/// Puts the node's rules in force in place of those that it had.
pub(crate) fn install(network: &NodeNetwork) -> Result<(), EnsureError> {
    let mut messages = Messages::default();
    batch(&mut messages, |messages| {
        let table = network.id.table();
        // Made so that it can be deleted, and made again: all three happen at once or not at all.
        new_table(messages, &table);
        delete_table(messages, &table);
        new_table(messages, &table);
        for chain in CHAINS {
            new_chain(messages, &table, chain);
        }
        for rule in rules::rules(network) {
            let requested = |a: &mut Attributes<'_>| {
                a.text(RULE_TABLE, &table);
                a.text(RULE_CHAIN, rule.chain);
                a.nest(RULE_EXPRESSIONS, |list| rule.expressions.iter().for_each(|e| e.write(list)));
                a.bytes(RULE_COMMENT, &comment(rule.what));
            };
            messages.request(rule.what, NEW_RULE, CREATE | APPEND, &INET, requested);
        }
    });
    let sent = Socket::open(Some(netlink::NETFILTER)).and_then(|mut socket| socket.exchange(messages));
    sent.map_err(|source| explain(network, source))
}

/// Takes the node's rules away; none is fine.
pub(crate) fn remove(id: NodeId8) -> Result<(), NetlinkError> {
    let mut messages = Messages::default();
    batch(&mut messages, |messages| delete_table(messages, &id.table()));
    match Socket::open(Some(netlink::NETFILTER)).and_then(|mut socket| socket.exchange(messages)) {
        Err(error) if error.is(Errno::NOENT) || lacks_filter(&error) => Ok(()),
        other => other,
    }
}

fn batch(messages: &mut Messages, fill: impl FnOnce(&mut Messages)) {
    let [high, low] = SUBSYSTEM.to_be_bytes();
    messages.unacknowledged("change rules", BATCH_BEGIN, &[0, 0, high, low]);
    fill(messages);
    messages.unacknowledged("change rules", BATCH_END, &[0, 0, high, low]);
}

fn new_table(messages: &mut Messages, table: &str) {
    messages.request("make a table", NEW_TABLE, CREATE, &INET, |a| a.text(TABLE_NAME, table));
}

fn delete_table(messages: &mut Messages, table: &str) {
    messages.request("delete a table", DELETE_TABLE, 0, &INET, |a| a.text(TABLE_NAME, table));
}

fn new_chain(messages: &mut Messages, table: &str, chain: &Chain) {
    messages.request(chain.what, NEW_CHAIN, CREATE, &INET, |a| {
        a.text(CHAIN_TABLE, table);
        a.text(CHAIN_NAME, chain.name);
        if let Some(hook) = chain.hook {
            a.nest(CHAIN_HOOK, |a| {
                a.network_number(HOOK_NUMBER, hook.number);
                a.network_number(HOOK_PRIORITY, hook.priority.cast_unsigned());
            });
            a.text(CHAIN_KIND, hook.kind);
        }
    });
}

/// A rule's comment as `nft list` shows it.
fn comment(text: &str) -> Vec<u8> {
    let text: Vec<u8> = text.bytes().take(100).chain([0]).collect();
    let length = u8::try_from(text.len()).unwrap_or(0);
    [&[0, length], text.as_slice()].concat()
}

/// Whether the kernel knows nothing of nf_tables.
fn lacks_filter(error: &NetlinkError) -> bool {
    match error {
        NetlinkError::System { source, .. } => {
            source.raw_os_error() == Some(Errno::PROTONOSUPPORT.raw_os_error())
        }
        NetlinkError::Refused { .. } => error.refused().is_some_and(|(what, errno)| {
            what == "change rules" && matches!(errno, Errno::OPNOTSUPP | Errno::INVAL)
        }),
        NetlinkError::Malformed(_) => false,
    }
}

/// Says which part of the kernel is missing, if that is the reason.
fn explain(network: &NodeNetwork, source: NetlinkError) -> EnsureError {
    if lacks_filter(&source) {
        return EnsureError::NoFilter { what: "be used", needs: "nf_tables", source };
    }
    let Some((what, Errno::NOENT | Errno::OPNOTSUPP | Errno::AFNOSUPPORT)) = source.refused() else {
        return source.into();
    };
    let chain = CHAINS.iter().find(|c| c.what == what).map(Chain::needs);
    let rule = || rules::rules(network).into_iter().find(|r| r.what == what);
    let needs = chain.or_else(|| rule().map(|r| r.needs())).unwrap_or("nf_tables");
    EnsureError::NoFilter { what, needs, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(what: &'static str, errno: Errno, expected: &str) {
        let network = NodeNetwork {
            id: NodeId8::new(1),
            plan: minato_model::network::AddressPlan::new(std::net::Ipv4Addr::new(10, 7, 0, 0)),
        };
        let error = explain(&network, NetlinkError::Refused { what, source: errno.into() });
        assert!(error.to_string().contains(expected), "{error}");
    }

    #[test]
    fn what_the_kernel_lacks_is_named() {
        check("change rules", Errno::OPNOTSUPP, "modprobe -a nf_tables");
        check("translate addresses", Errno::NOENT, "nft_chain_nat");
        check("masquerade what goes outside", Errno::NOENT, "nft_masq");
        check("not track what goes to the node", Errno::NOENT, "nft_ct");
        check("pass connections to virtual addresses", Errno::NOENT, "nft_socket");
        check("refuse the rest of the node", Errno::NOENT, "nft_reject_inet");
        check("make a table", Errno::PERM, "needs root");
    }

    #[test]
    fn every_rule_has_its_chain_and_a_name_of_its_own() {
        let plan = minato_model::network::AddressPlan::new(std::net::Ipv4Addr::new(10, 7, 0, 0));
        let all = rules::rules(&NodeNetwork { id: NodeId8::new(1), plan });
        for (at, rule) in all.iter().enumerate() {
            assert!(CHAINS.iter().any(|chain| chain.name == rule.chain), "{rule:?}");
            assert!(all.iter().skip(at + 1).all(|other| other.what != rule.what), "{rule:?}");
        }
    }
}
