//! Whether an instance listens, asked by socket diagnosis (sock_diag(7)) in its own namespace: no
//! connection is made, so none is seen.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::AsFd,
    thread,
};

use rustix::{
    io::Errno,
    net::netlink,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::netlink::{Messages, NetlinkError, Socket};

const BY_FAMILY: u16 = 20;
const INET: u8 = 2;
const INET6: u8 = 10;
const TCP: u8 = 6;
const LISTEN: u8 = 10;

/// What is known of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listening {
    /// Nothing listens.
    No,
    /// Something listens, but only for the instance itself: on a loopback address, or without IPv4.
    Loopback,
    /// It listens where the edge reaches it.
    Yes,
}

/// Why an instance can't be looked into.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Its namespace couldn't be entered.
    #[error("could not enter the instance's network namespace")]
    Enter {
        /// Why.
        source: std::io::Error,
    },
    /// The kernel doesn't answer; without `INET_DIAG` it can't.
    #[error("could not ask the kernel for listening sockets (it needs inet_diag and tcp_diag)")]
    Netlink {
        /// Why.
        #[from]
        source: NetlinkError,
    },
}

/// An open question to one instance's namespace. It keeps the namespace alive: drop it with the
/// instance.
#[derive(Debug)]
pub struct Probe {
    socket: Socket,
    address: Ipv4Addr,
}

impl Probe {
    /// Opens a probe in a network namespace, given as an open descriptor of it (or a pidfd of a
    /// process in it), for the instance with this address.
    ///
    /// # Errors
    /// When the namespace can't be entered or has no socket to ask.
    pub fn open(namespace: impl AsFd, address: Ipv4Addr) -> Result<Self, ProbeError> {
        let namespace = namespace.as_fd();
        let open = || -> Result<Socket, ProbeError> {
            move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))
                .map_err(|errno| ProbeError::Enter { source: errno.into() })?;
            Ok(Socket::open(Some(netlink::SOCK_DIAG))?)
        };
        // A thread of its own changes its namespace and ends: the caller's never changes.
        let socket = thread::scope(|scope| {
            let thread = thread::Builder::new().name("minato-probe".to_owned()).spawn_scoped(scope, open);
            let thread = thread.map_err(|source| ProbeError::Enter { source })?;
            thread.join().map_err(|_| ProbeError::Enter { source: Errno::CANCELED.into() })?
        })?;
        Ok(Self { socket, address })
    }

    /// Looks at a port: up to three questions to the kernel, each a lookup as for a packet, without
    /// walking through its sockets.
    ///
    /// # Errors
    /// When the kernel doesn't answer.
    pub fn look(&mut self, port: u16) -> Result<Listening, ProbeError> {
        let loopback6 = Ipv6Addr::LOCALHOST.octets();
        if self.listens(INET, &self.address.octets(), port)? {
            Ok(Listening::Yes)
        } else if self.listens(INET, &Ipv4Addr::LOCALHOST.octets(), port)?
            || self.listens(INET6, &loopback6, port)?
        {
            Ok(Listening::Loopback)
        } else {
            Ok(Listening::No)
        }
    }

    /// Whether a connection to this address and port would find a listener.
    fn listens(&mut self, family: u8, address: &[u8], port: u16) -> Result<bool, ProbeError> {
        let mut messages = Messages::default();
        messages.request("look at a port", BY_FAMILY, 0, &question(family, address, port), |_| ());
        let state = self.socket.ask(messages, |payload| payload.get(1).copied());
        match state {
            Ok(state) => Ok(state == Some(LISTEN)),
            // No socket; or no IPv6 in this kernel.
            Err(error) if error.is(Errno::NOENT) || error.is(Errno::AFNOSUPPORT) => Ok(false),
            Err(source) => Err(ProbeError::Netlink { source }),
        }
    }
}

/// `struct inet_diag_req_v2` for one socket: whatever would answer from this address and port.
fn question(family: u8, address: &[u8], port: u16) -> [u8; 56] {
    let mut question = [0; 56];
    let every_state = u32::MAX.to_ne_bytes();
    let no_cookie = [0xff; 8];
    for (at, value) in [
        (0, &[family, TCP, 0, 0][..]),
        (4, &every_state),
        (8, &port.to_be_bytes()),
        (12, address),
        (48, &no_cookie),
    ] {
        if let Some(slot) = question.get_mut(at..at + value.len()) {
            slot.copy_from_slice(value);
        }
    }
    question
}
