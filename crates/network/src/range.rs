//! Which /16 of 10/8 a node takes: one that no route and no address of this machine touches.

use std::net::Ipv4Addr;

use minato_model::network::AddressPlan;

use crate::{
    netlink::NetlinkError,
    route::{self, Prefix},
};

/// Why there is no range.
#[derive(Debug, thiserror::Error)]
pub enum RangeError {
    /// All of 10/8 is spoken for.
    #[error(
        "no /16 of 10.0.0.0/8 is free: routes or addresses of this machine cover all; set `network` to a \
         /16 that only this machine may use"
    )]
    NoneFree,
    /// What exists isn't known.
    #[error("could not see which networks exist")]
    Netlink {
        /// Why.
        #[from]
        source: NetlinkError,
    },
}

/// A /16 of 10/8 that is free now. It is claimed by [`crate::Node::ensure`], which refuses one that
/// another node took meanwhile.
///
/// # Errors
/// When none is free, or the kernel doesn't say.
pub fn choose_range() -> Result<AddressPlan, RangeError> {
    let mut socket = route::socket()?;
    let mut taken: Vec<Prefix> = route::routes(&mut socket)?.into_iter().map(|r| r.to).collect();
    taken.extend(route::addresses(&mut socket)?.into_iter().map(|a| a.block));
    free(&taken).ok_or(RangeError::NoneFree)
}

/// A route shorter than this is the way to the rest of the world (10.0.0.0/8 itself isn't).
pub(crate) const DEFAULT_ROUTE: u8 = 8;

/// The first free /16 in the order of how seldom people choose it by hand.
fn free(taken: &[Prefix]) -> Option<AddressPlan> {
    let order = (64..=254).chain(1..=63).chain([255, 0]);
    let mut plans = order.map(|second| AddressPlan::new(Ipv4Addr::new(10, second, 0, 0)));
    plans.find(|plan| {
        let block = Prefix { address: plan.base(), length: 16 };
        !taken.iter().any(|t| t.length >= DEFAULT_ROUTE && t.overlaps(block))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(taken: &[(&str, u8)], expected: Option<&str>) {
        let taken: Vec<_> = taken
            .iter()
            .map(|(address, length)| Prefix { address: address.parse().unwrap(), length: *length })
            .collect();
        let found = free(&taken).map(|plan| plan.base().to_string());
        assert_eq!(found.as_deref(), expected, "{taken:?}");
    }

    #[test]
    fn a_range_touches_nothing_that_exists() {
        check(&[], Some("10.64.0.0"));
        check(&[("0.0.0.0", 0), ("192.0.2.0", 24)], Some("10.64.0.0"));
        check(&[("0.0.0.0", 1), ("128.0.0.0", 1)], Some("10.64.0.0"));
        check(&[("10.64.3.4", 32), ("10.65.0.0", 17)], Some("10.66.0.0"));
        check(&[("10.64.0.0", 10)], Some("10.128.0.0"));
        check(&[("10.64.0.0", 10), ("10.128.0.0", 9)], Some("10.1.0.0"));
        check(&[("10.128.0.0", 9), ("10.64.0.0", 10), ("10.0.0.0", 10)], None);
        check(&[("10.0.0.0", 8)], None);
    }
}
