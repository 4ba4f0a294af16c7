//! Names in the kernel, all from the data directory's id, and hardware addresses, all from the
//! instance's address.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use minato_model::network::{AddressPlan, INSTANCE_OFFSETS};

/// Eight hexadecimal digits drawn once for a data directory: whose a kernel object is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId8(u32);

/// Why an id was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no node id: use 8 digits of 0-9 and a-f")]
pub struct InvalidNodeId {
    /// What was given, shortened to 80 characters.
    pub text: String,
}

/// One node's network on this machine: its id and its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeNetwork {
    /// Whose the kernel objects are.
    pub id: NodeId8,
    /// Which addresses they have.
    pub plan: AddressPlan,
}

impl NodeId8 {
    /// The id with this value, which is written as eight hexadecimal digits.
    #[must_use]
    pub fn new(value: u32) -> Self {
        Self(value)
    }

    /// What the names of all links of this node's instances begin with: ten characters.
    #[must_use]
    pub fn link_prefix(self) -> String {
        format!("mn{self}")
    }

    /// As [`NodeNetwork::host_link`].
    pub(crate) fn link(self, address: Ipv4Addr) -> String {
        let [_, _, c, d] = address.octets();
        format!("{}{c:02x}{d:02x}", self.link_prefix())
    }

    /// A number for what is to go, so that it goes together: links are in group 0 else.
    pub(crate) fn group(self) -> u32 {
        self.0 | 1 << 31
    }

    /// The label of the node's own address on `lo`.
    pub(crate) fn label(self) -> String {
        format!("lo:mn{self}")
    }

    /// The name of the node's table of filter rules, of family `inet`.
    #[must_use]
    pub fn table(self) -> String {
        format!("minato_{self}")
    }
}

impl NodeNetwork {
    /// The host's end of an instance's pair: 14 of at most 15 characters. It is as unique as the
    /// address, so the kernel refuses an address whose former link isn't gone.
    #[must_use]
    pub fn host_link(&self, address: Ipv4Addr) -> String {
        self.id.link(address)
    }

    /// Whether the address is one that an instance of this node can have.
    pub(crate) fn is_instance(&self, address: Ipv4Addr) -> bool {
        let [_, _, c, d] = address.octets();
        self.plan.contains(address) && INSTANCE_OFFSETS.contains(&u16::from_be_bytes([c, d]))
    }
}

impl fmt::Display for NodeId8 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for NodeId8 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId8({self})")
    }
}

impl FromStr for NodeId8 {
    type Err = InvalidNodeId;
    fn from_str(text: &str) -> Result<Self, InvalidNodeId> {
        let digits = text.len() == 8 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let value = u32::from_str_radix(text, 16).ok().filter(|_| digits);
        value.map(Self).ok_or_else(|| InvalidNodeId { text: text.chars().take(80).collect() })
    }
}

/// A locally administered hardware address, of four octets that are an IPv4 address.
pub(crate) type Hardware = [u8; 6];

/// The hardware address of the host's end of an instance's pair.
pub(crate) fn host_hardware(address: Ipv4Addr) -> Hardware {
    let [a, b, c, d] = address.octets();
    [0x06, 0, a, b, c, d]
}

/// The hardware address of the instance's end.
pub(crate) fn instance_hardware(address: Ipv4Addr) -> Hardware {
    let [a, b, c, d] = address.octets();
    [0x02, 0, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernel_and_ids_are_strict() {
        let id: NodeId8 = "00c0ffee".parse().unwrap();
        let network = NodeNetwork { id, plan: AddressPlan::new(Ipv4Addr::new(10, 7, 0, 0)) };
        assert_eq!(network.host_link(Ipv4Addr::new(10, 7, 64, 10)), "mn00c0ffee400a");
        assert_eq!(id.label().len(), 13);
        assert_eq!(id.table(), "minato_00c0ffee");
        for wrong in ["", "c0ffee", "00C0FFEE", "+0c0ffee", "00c0ffee0", "00c0ffeg", "é0c0ffe"] {
            assert!(wrong.parse::<NodeId8>().is_err(), "{wrong}");
        }
    }
}
