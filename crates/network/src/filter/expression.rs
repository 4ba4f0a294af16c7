//! What a rule asks of a packet and does with it, and its form on the wire (linux/netfilter/nf_tables.h).

use crate::{netlink::Attributes, route::Prefix};

/// A part of a rule. A question that isn't answered with yes ends the rule; so does one that makes no
/// sense for the packet (a port where there is none, the owner of a packet without a socket).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expression {
    /// Came in by a link whose name begins so.
    In(String),
    /// Goes out by one.
    Out(String),
    /// Doesn't go out by one.
    NotOut(String),
    /// Comes in, or goes out, by `lo`, or by any other link.
    Loopback { out: bool, equal: bool },
    /// It is IPv6.
    V6,
    /// Its source is in the block.
    From(Prefix),
    /// Its source isn't.
    NotFrom(Prefix),
    /// Its destination is in the block.
    To(Prefix),
    /// Its destination isn't.
    NotTo(Prefix),
    /// Its protocol above IP.
    Protocol(u8),
    /// Its destination port.
    Port(u16),
    /// TCP that doesn't open a connection: anything but SYN without ACK.
    NotOpening,
    /// ICMP that says that something can't be reached.
    IcmpUnreachable,
    /// A socket would take it that is bound to its very destination, not to every address.
    BoundHere,
    /// The sending socket isn't root's.
    NotRoot,
    /// Belongs to a connection that the other side may answer.
    Established,
    /// Isn't tracked.
    Untracked,
    /// Takes the source address of the link that it leaves by.
    Masquerade,
    /// Passes this hook.
    Accept,
    /// Vanishes.
    Drop,
    /// Goes on in another chain, for good.
    Goto(&'static str),
    /// Refused: TCP by a reset.
    Reset,
    /// Refused as forbidden by an administrator.
    Prohibit,
}

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
const ICMP: u8 = 1;

const EQUAL: u32 = 0;
const DIFFERENT: u32 = 1;
const REGISTER: u32 = 1;
const VERDICT: u32 = 0;

const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const IN_NAME: u32 = 6;
const OUT_NAME: u32 = 7;
const SOCKET_UID: u32 = 10;
const FAMILY: u32 = 15;
const PROTOCOL: u32 = 16;

const ACCEPT: u32 = 1;
const DROP: u32 = 0;
const GOTO: u32 = 0xffff_fffc; // -4

impl Expression {
    /// The kernel's modules that this takes.
    pub(super) fn needs(&self) -> Option<&'static str> {
        match self {
            Self::Established | Self::Untracked => Some("nft_ct"),
            Self::Masquerade => Some("nft_masq"),
            Self::Reset | Self::Prohibit => Some("nft_reject_inet"),
            Self::BoundHere => Some("nft_socket"),
            Self::In(_)
            | Self::Out(_)
            | Self::NotOut(_)
            | Self::Loopback { .. }
            | Self::V6
            | Self::From(_)
            | Self::NotFrom(_)
            | Self::To(_)
            | Self::NotTo(_)
            | Self::Protocol(_)
            | Self::Port(_)
            | Self::NotOpening
            | Self::IcmpUnreachable
            | Self::NotRoot
            | Self::Accept
            | Self::Drop
            | Self::Goto(_) => None,
        }
    }

    /// Appends this to a rule's list.
    pub(super) fn write(&self, list: &mut Attributes<'_>) {
        match self {
            Self::In(begin) => meta(list, IN_NAME, EQUAL, begin.as_bytes()),
            Self::Out(begin) => meta(list, OUT_NAME, EQUAL, begin.as_bytes()),
            Self::NotOut(begin) => meta(list, OUT_NAME, DIFFERENT, begin.as_bytes()),
            Self::Loopback { out, equal } => {
                let key = if *out { OUT_NAME } else { IN_NAME };
                meta(list, key, if *equal { EQUAL } else { DIFFERENT }, b"lo\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
            }
            Self::V6 => meta(list, FAMILY, EQUAL, &[10]),
            Self::From(block) => address(list, 12, EQUAL, *block),
            Self::NotFrom(block) => address(list, 12, DIFFERENT, *block),
            Self::To(block) => address(list, 16, EQUAL, *block),
            Self::NotTo(block) => address(list, 16, DIFFERENT, *block),
            Self::Protocol(number) => meta(list, PROTOCOL, EQUAL, &[*number]),
            Self::Port(port) => {
                payload(list, TRANSPORT_HEADER, 2, 2);
                compare(list, EQUAL, &port.to_be_bytes());
            }
            Self::NotOpening => not_opening(list),
            Self::IcmpUnreachable => {
                meta(list, PROTOCOL, EQUAL, &[ICMP]);
                payload(list, TRANSPORT_HEADER, 0, 1);
                compare(list, EQUAL, &[3]);
            }
            Self::BoundHere => {
                one(list, "socket", |a| {
                    a.network_number(1, 2); // whether it is bound to every address
                    a.network_number(2, REGISTER);
                });
                compare(list, EQUAL, &[0]);
            }
            Self::NotRoot => meta(list, SOCKET_UID, DIFFERENT, &0u32.to_ne_bytes()),
            Self::Established => established(list),
            Self::Untracked => one(list, "notrack", |_| ()),
            Self::Masquerade => one(list, "masq", |_| ()),
            Self::Accept => verdict(list, ACCEPT, None),
            Self::Drop => verdict(list, DROP, None),
            Self::Goto(chain) => verdict(list, GOTO, Some(chain)),
            Self::Reset => one(list, "reject", |a| a.network_number(1, 1)),
            Self::Prohibit => one(list, "reject", |a| {
                a.network_number(1, 2);
                a.bytes(2, &[3]);
            }),
        }
    }
}

/// One expression by its name.
fn one(list: &mut Attributes<'_>, name: &str, fill: impl FnOnce(&mut Attributes<'_>)) {
    list.nest(1, |element| {
        element.text(1, name);
        element.nest(2, fill);
    });
}

/// Compares what is known beside a packet (its links, its family, its socket).
fn meta(list: &mut Attributes<'_>, key: u32, operation: u32, value: &[u8]) {
    one(list, "meta", |a| {
        a.network_number(1, REGISTER);
        a.network_number(2, key);
    });
    compare(list, operation, value);
}

/// Compares the address at this offset of the IPv4 header.
fn address(list: &mut Attributes<'_>, offset: u32, operation: u32, block: Prefix) {
    payload(list, NETWORK_HEADER, offset, 4);
    let mask = block.mask();
    if block.length < 32 {
        masked(list, &mask.octets());
    }
    compare(list, operation, &(block.address & mask).octets());
}

fn not_opening(list: &mut Attributes<'_>) {
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    meta(list, PROTOCOL, EQUAL, &[TCP]);
    payload(list, TRANSPORT_HEADER, 13, 1);
    masked(list, &[SYN | ACK]);
    compare(list, DIFFERENT, &[SYN]);
}

fn established(list: &mut Attributes<'_>) {
    const STATE: u32 = 0;
    const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
    one(list, "ct", |a| {
        a.network_number(1, REGISTER);
        a.network_number(2, STATE);
    });
    masked(list, &ESTABLISHED_OR_RELATED.to_ne_bytes());
    compare(list, DIFFERENT, &[0; 4]);
}

fn payload(list: &mut Attributes<'_>, base: u32, offset: u32, length: u32) {
    one(list, "payload", |a| {
        a.network_number(1, REGISTER);
        a.network_number(2, base);
        a.network_number(3, offset);
        a.network_number(4, length);
    });
}

fn masked(list: &mut Attributes<'_>, mask: &[u8]) {
    one(list, "bitwise", |a| {
        a.network_number(1, REGISTER);
        a.network_number(2, REGISTER);
        a.network_number(3, u32::try_from(mask.len()).unwrap_or(0));
        a.nest(4, |data| data.bytes(1, mask));
        a.nest(5, |data| data.bytes(1, &[0; 4][..mask.len().min(4)]));
    });
}

fn compare(list: &mut Attributes<'_>, operation: u32, value: &[u8]) {
    one(list, "cmp", |a| {
        a.network_number(1, REGISTER);
        a.network_number(2, operation);
        a.nest(3, |data| data.bytes(1, value));
    });
}

fn verdict(list: &mut Attributes<'_>, code: u32, chain: Option<&str>) {
    one(list, "immediate", |a| {
        a.network_number(1, VERDICT);
        a.nest(2, |data| {
            data.nest(2, |verdict| {
                verdict.network_number(1, code);
                if let Some(chain) = chain {
                    verdict.text(2, chain);
                }
            });
        });
    });
}
