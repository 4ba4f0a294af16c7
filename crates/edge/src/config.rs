//! What an edge is told when it starts, and the bounds that hold for every request.

use std::{
    net::{IpAddr, TcpListener},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use minato_identity::Authority;
use minato_model::network::AddressPlan;

use crate::{handover::Inherited, log::AccessLog};

/// How an edge is set up.
#[derive(Debug)]
pub struct Config {
    /// Listeners of the public address, one for each edge thread: see [`bind`](crate::listen::bind).
    pub http: Vec<TcpListener>,
    /// Listeners of the public address for TLS, likewise; none without TLS.
    pub https: Vec<TcpListener>,
    /// The node's network; without it there are neither virtual addresses nor names.
    pub plan: Option<AddressPlan>,
    /// Who says who is who; without it no instance is spoken to over TLS.
    pub authority: Option<Arc<Authority>>,
    /// The failure domain that the node is in: instances of the same are preferred.
    pub zone: Option<String>,
    /// Peers whose `X-Forwarded-*` is believed.
    pub trusted_proxies: Vec<Prefix>,
    /// Which requests are logged, and where; none without it.
    pub access_log: Option<AccessLog>,
    /// Where the host's resolvers are written, for names that aren't the cluster's.
    pub resolv_conf: PathBuf,
    /// What a predecessor listened at: used instead of opening it anew.
    pub inherited: Inherited,
    /// Bounds.
    pub limits: Limits,
}

impl Config {
    /// An edge at these listeners, with the default bounds.
    #[must_use]
    pub fn new(http: Vec<TcpListener>, plan: Option<AddressPlan>) -> Self {
        Self {
            http,
            https: Vec::new(),
            plan,
            authority: None,
            zone: None,
            trusted_proxies: Vec::new(),
            access_log: None,
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            inherited: Inherited::default(),
            limits: Limits::default(),
        }
    }
}

/// Bounds of every connection and request, beside those that a route sets.
#[derive(Debug, Clone)]
pub struct Limits {
    /// From a request's first byte to the end of its head.
    pub head: Duration,
    /// How long a connection may wait for its next request.
    pub idle: Duration,
    /// How long a client may pause within its request's body.
    pub body_idle: Duration,
    /// How long a response or an upgraded connection may pause.
    pub stream_idle: Duration,
    /// Until an instance accepts a connection: above the second after which the kernel asks again, so that
    /// a queue that was full for a moment makes nobody suspect.
    pub connect: Duration,
    /// How long a connection to an instance is kept unused: below what servers commonly allow, so
    /// that the instance seldom closes it first.
    pub pool_idle: Duration,
    /// The head of a request and of an instance's answer, in bytes.
    pub head_bytes: usize,
    /// The request's target, in bytes.
    pub uri_bytes: usize,
    /// Connections from clients on one edge thread; more wait in the kernel's queue.
    pub connections: usize,
    /// Connections kept unused, for each instance and edge thread.
    pub pool: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            body_idle: Duration::from_secs(30),
            stream_idle: Duration::from_secs(300),
            connect: Duration::from_millis(1500),
            pool_idle: Duration::from_secs(4),
            head_bytes: 64 * 1024,
            uri_bytes: 16 * 1024,
            connections: 16_384,
            pool: 1_024,
        }
    }
}

/// A range of addresses, written `192.0.2.0/24` or as one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

/// The text is no range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no address range: write an address, or one with a length as in 192.0.2.0/24")]
pub struct InvalidPrefix {
    /// What was given.
    pub text: String,
}

impl FromStr for Prefix {
    type Err = InvalidPrefix;

    fn from_str(text: &str) -> Result<Self, InvalidPrefix> {
        let invalid = || InvalidPrefix { text: text.chars().take(80).collect() };
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse::<u8>().map_err(|_| invalid())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = length.unwrap_or(most);
        if length > most { Err(invalid()) } else { Ok(Self { address, length }) }
    }
}

impl Prefix {
    /// Whether the address lies in the range.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).leading_zeros() >= u32::from(self.length)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).leading_zeros() >= u32::from(self.length)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_contains_its_range_only() {
        let check = |prefix: &str, address: &str| {
            prefix.parse::<Prefix>().unwrap().contains(address.parse().unwrap())
        };
        assert!(check("192.0.2.0/24", "192.0.2.255"));
        assert!(!check("192.0.2.0/24", "192.0.3.0"));
        assert!(check("0.0.0.0/0", "203.0.113.9"));
        assert!(check("127.0.0.1", "::ffff:127.0.0.1"));
        assert!(check("2001:db8::/32", "2001:db8:1::1"));
        assert!(!check("127.0.0.1", "127.0.0.2"));
        assert!("127.0.0.1/33".parse::<Prefix>().is_err());
        assert!("proxy".parse::<Prefix>().is_err());
    }
}
