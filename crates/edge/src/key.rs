//! What tells clients apart: the address, a header or a cookie, and its hash.
//!
//! The hash is XXH64 with seed 0: the same on every node and with every release of Minato, so that
//! all edges send a client the same way.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderValue, header};
use minato_model::traffic::Key;

use crate::{config::Prefix, inbound::Inbound};

/// Who is asking, as far as a request shows it.
#[derive(Clone, Copy)]
pub(crate) struct Client<'a> {
    pub(crate) headers: &'a HeaderMap,
    /// The other end of the connection.
    pub(crate) peer: IpAddr,
    /// Whether what the peer says of those before it is believed.
    pub(crate) trusted: bool,
    /// Who else is believed.
    pub(crate) proxies: &'a [Prefix],
}

impl<'a> Client<'a> {
    pub(crate) fn of(inbound: &Inbound, headers: &'a HeaderMap, proxies: &'a [Prefix]) -> Self {
        Self { headers, peer: inbound.peer, trusted: inbound.trusted, proxies }
    }

    /// The client's address: of those that trusted proxies saw, the first from behind that isn't one
    /// of theirs.
    pub(crate) fn address(&self) -> IpAddr {
        let mut nearest = self.peer.to_canonical();
        if !self.trusted {
            return nearest;
        }
        let lines = self.headers.get_all("x-forwarded-for").iter().rev();
        let each = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
        for text in each {
            // What can't be read was written by nobody who is trusted.
            let Some(address) = address(text) else { break };
            nearest = address;
            if !self.proxies.iter().any(|prefix| prefix.contains(address)) {
                break;
            }
        }
        nearest
    }

    /// The hash of what tells it apart; `None`: it shows nothing of the kind.
    pub(crate) fn hash(&self, key: &Key) -> Option<u64> {
        let value = match key {
            Key::Address => {
                return Some(match self.address() {
                    IpAddr::V4(address) => hash(&address.octets()),
                    IpAddr::V6(address) => hash(&address.octets()),
                });
            }
            Key::Header(name) => self.headers.get(name)?.as_bytes(),
            Key::Cookie(name) => cookies(self.headers, name).next()?,
        };
        (!value.is_empty()).then(|| hash(value))
    }

    /// Whether it shows this value, or any.
    pub(crate) fn shows(&self, key: &Key, value: Option<&str>) -> bool {
        let fits = |shown: &[u8]| value.is_none_or(|value| value.as_bytes() == shown);
        match key {
            Key::Address => value.is_none_or(|value| value.parse() == Ok(self.address())),
            Key::Header(name) => self.headers.get_all(name).iter().map(HeaderValue::as_bytes).any(fits),
            Key::Cookie(name) => cookies(self.headers, name).any(fits),
        }
    }
}

/// An address as proxies write it: alone, or with a port.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let address: Option<IpAddr> = text.parse().ok().or_else(with_port).or_else(in_brackets);
    address.map(|address| address.to_canonical())
}

/// The values of a cookie (RFC 6265, 4.2.1), of which there may be several, on several lines too.
fn cookies<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(header::COOKIE).iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs.filter_map(move |pair| {
        let end = pair.iter().position(|byte| *byte == b'=')?;
        let (own, value) = pair.split_at_checked(end)?;
        let value = value.get(1..)?.trim_ascii();
        let quoted = || value.strip_prefix(b"\"")?.strip_suffix(b"\"");
        (own.trim_ascii() == name.as_bytes()).then(|| quoted().unwrap_or(value))
    })
}

const P1: u64 = 0x9e37_79b1_85eb_ca87;
const P2: u64 = 0xc2b2_ae3d_27d4_eb4f;
const P3: u64 = 0x1656_67b1_9e37_79f9;
const P4: u64 = 0x85eb_ca77_c2b2_ae63;
const P5: u64 = 0x27d4_eb2f_1656_67c5;

/// XXH64 of the bytes with seed 0 (xxHash fast digest algorithm, specification 0.1.1).
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let (stripes, rest) = bytes.as_chunks::<32>();
    let mut hash = if stripes.is_empty() { P5 } else { long(stripes) };
    hash = hash.wrapping_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    let (words, rest) = rest.as_chunks::<8>();
    for word in words {
        hash ^= round(0, u64::from_le_bytes(*word));
        hash = hash.rotate_left(27).wrapping_mul(P1).wrapping_add(P4);
    }
    let (halves, rest) = rest.as_chunks::<4>();
    for half in halves {
        hash ^= u64::from(u32::from_le_bytes(*half)).wrapping_mul(P1);
        hash = hash.rotate_left(23).wrapping_mul(P2).wrapping_add(P3);
    }
    for byte in rest {
        hash ^= u64::from(*byte).wrapping_mul(P5);
        hash = hash.rotate_left(11).wrapping_mul(P1);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(P2);
    hash = (hash ^ (hash >> 29)).wrapping_mul(P3);
    hash ^ (hash >> 32)
}

/// What stripes of 32 bytes come to.
fn long(stripes: &[[u8; 32]]) -> u64 {
    let mut lanes = [P1.wrapping_add(P2), P2, 0, P1.wrapping_neg()];
    for stripe in stripes {
        for (lane, word) in lanes.iter_mut().zip(stripe.as_chunks::<8>().0) {
            *lane = round(*lane, u64::from_le_bytes(*word));
        }
    }
    let turned = lanes.iter().zip([1, 7, 12, 18]).map(|(lane, by)| lane.rotate_left(by));
    let sum = turned.fold(0_u64, u64::wrapping_add);
    lanes.iter().fold(sum, |hash, lane| (hash ^ round(0, *lane)).wrapping_mul(P1).wrapping_add(P4))
}

fn round(lane: u64, word: u64) -> u64 {
    lane.wrapping_add(word.wrapping_mul(P2)).rotate_left(31).wrapping_mul(P1)
}

/// A hash as an even number between 0 and 1, neither of them.
pub(crate) fn fraction(hash: u64) -> f64 {
    // 53 bits are exact.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    let high = (hash >> 11) as f64;
    (high + 0.5) / 9_007_199_254_740_992.0
}

#[cfg(test)]
mod tests;
