//! How a node's /16 is divided. Every node has its own range and computes the same addresses from it.
//!
//! ```text
//! base + 0.1             the node itself: gateway of every instance, and DNS
//! base + 0.2 – 63.255    virtual addresses of services, by their offset
//! base + 64.0 – 255.254  instances, a /32 each
//! ```

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// A node's /16.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressPlan {
    base: Ipv4Addr,
}

/// Offsets that virtual addresses may have: 2 to 16,383.
pub const VIRTUAL_OFFSETS: std::ops::RangeInclusive<u16> = 2..=16_383;
/// Offsets that instances may have: 16,384 to 65,534.
pub const INSTANCE_OFFSETS: std::ops::RangeInclusive<u16> = 16_384..=65_534;

impl AddressPlan {
    /// A plan over the /16 that `base` lies in.
    #[must_use]
    pub fn new(base: Ipv4Addr) -> Self {
        let [a, b, _, _] = base.octets();
        Self { base: Ipv4Addr::new(a, b, 0, 0) }
    }

    /// The network's own address, of prefix length 16.
    #[must_use]
    pub fn base(self) -> Ipv4Addr {
        self.base
    }

    /// The address with this offset.
    #[must_use]
    pub fn at(self, offset: u16) -> Ipv4Addr {
        let [a, b, _, _] = self.base.octets();
        let [c, d] = offset.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    }

    /// The node as its instances see it: gateway and name server.
    #[must_use]
    pub fn gateway(self) -> Ipv4Addr {
        self.at(1)
    }

    /// The first address and the prefix length of the block that holds all virtual addresses.
    #[must_use]
    pub fn virtual_block(self) -> (Ipv4Addr, u8) {
        (self.base, 18)
    }

    /// Whether the address belongs to the whole network.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.octets().first_chunk::<2>() == self.base.octets().first_chunk::<2>()
    }
}
