//! Whom a listening socket belongs to, from /proc/net/tcp.

use std::{
    fs, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// Why the owner isn't known.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// The kernel's list couldn't be read.
    #[error("could not read {path}")]
    Read {
        /// Which list.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// The uid of whoever would answer a TCP connection to this address on this machine; none where nobody
/// listens, and none where listeners of several owners could answer.
///
/// # Errors
/// When the kernel's list can't be read. A kernel without IPv6 has no list for it, which is no error.
pub fn listener_owner(address: SocketAddr) -> Result<Option<u32>, ListenerError> {
    const V4: &str = "/proc/thread-self/net/tcp";
    const V6: &str = "/proc/thread-self/net/tcp6";
    let v4 = fs::read_to_string(V4).map_err(|source| ListenerError::Read { path: V4, source })?;
    let v6 = match fs::read_to_string(V6) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        other => other.map_err(|source| ListenerError::Read { path: V6, source })?,
    };
    Ok(owner(&v4, &v6, address))
}

/// [`listener_owner`] over the text of both lists.
fn owner(v4: &str, v6: &str, address: SocketAddr) -> Option<u32> {
    let mut owners = [v4, v6].into_iter().flat_map(str::lines).filter_map(listener).filter_map(|l| {
        let ip = l.address.ip().to_canonical();
        // The wildcard of IPv6 takes IPv4 too unless the listener forbids it, which the list doesn't tell.
        let takes = ip == address.ip()
            || ip == Ipv6Addr::UNSPECIFIED
            || (address.is_ipv4() && ip == Ipv4Addr::UNSPECIFIED);
        (takes && l.address.port() == address.port()).then_some(l.uid)
    });
    let first = owners.next()?;
    owners.all(|other| other == first).then_some(first)
}

struct Listener {
    address: SocketAddr,
    uid: u32,
}

/// A line of the list, if it is a listening socket's.
fn listener(line: &str) -> Option<Listener> {
    const LISTEN: &str = "0A";
    let mut fields = line.split_ascii_whitespace();
    let (ip, port) = fields.nth(1)?.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    if fields.nth(1)? != LISTEN {
        return None;
    }
    let uid = fields.nth(3)?.parse().ok()?;
    // The kernel prints each 32 bits as the machine's number of what is in the network's order.
    let word = |at: usize| {
        let digits = ip.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let address = match ip.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let mut octets = [0; 16];
            for (at, slot) in octets.chunks_exact_mut(4).enumerate() {
                slot.copy_from_slice(&word(at)?);
            }
            Ipv6Addr::from(octets).into()
        }
        _ => return None,
    };
    Some(Listener { address: SocketAddr::new(address, port), uid })
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    const V4: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1B9E 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 16 1 0 100 0 0 10 0
   1: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 17 1 0 100 0 0 10 0
   2: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 18 1 0 100 0 0 10 0
   3: 0100007F:1F91 0100007F:1B9E 01 00000000:00000000 00:00000000 00000000     0        0 19 1 0 100 0 0 10 0
   4: 0100007F:zzzz
   5:";
    const V6: &str =
        "   0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0:0 00:0 0    33 0 1
   1: 00000000000000000000000000000000:0051 00000000000000000000000000000000:0000 0A 0:0 00:0 0    34 0 1
   2: 0000000000000000FFFF00000100007F:0052 00000000000000000000000000000000:0000 0A 0:0 00:0 0    35 0 1";

    #[test]
    fn the_owner_is_told_only_when_it_is_sure() {
        for (address, expected) in [
            ("127.0.0.1:7070", Some(0)),
            ("127.0.0.2:7070", None),
            ("127.0.0.1:8080", None), // root's and another's: either could answer
            ("127.0.0.2:8080", Some(1000)),
            ("127.0.0.1:8081", None), // a connection, no listener
            ("[::1]:80", Some(33)),
            ("[::1]:81", Some(34)),
            ("127.0.0.1:81", Some(34)),
            ("127.0.0.1:82", Some(35)),
            ("127.0.0.1:83", None),
        ] {
            assert_eq!(owner(V4, V6, address.parse().unwrap()), expected, "{address}");
        }
    }
}
