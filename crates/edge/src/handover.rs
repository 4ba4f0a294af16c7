//! Handing an edge over to a successor, which takes over the very same listening sockets: what waits
//! in their queues is answered by it, and no connection is refused.
//!
//! ```text
//! predecessor                               successor
//! Edge::listeners ── descriptors, named ──▶ Inherited ──▶ Config::inherited
//! Routing (mirror) ◀── publish, admit, … ── agent
//! Edge::retire: accepts no more, answers with `Connection: close`, ends with its last connection
//! ```
//!
//! Invariant: a socket is open in at least one of the two from before the successor starts until
//! after the predecessor retires.

use std::{
    fmt, io,
    net::{SocketAddr, SocketAddrV4, TcpListener, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    str::FromStr,
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use crate::{
    edge::{Edge, FAREWELL, no_connections},
    listen::{self, BindError},
    serve::{Command, Life},
    shared::Shared,
};

/// How long a connection may stay unused once the edge has retired; also how long what is left has,
/// after its streams were ended, or in a hurry.
pub(crate) const RETIRED_IDLE: Duration = Duration::from_secs(30);
/// How long inherited sockets wait for the service that they were opened for.
pub(crate) const CLAIM: Duration = Duration::from_secs(30);

/// What a listening socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// The public address; one for each edge thread has this name.
    Http,
    /// The public address for TLS, likewise.
    Https,
    /// A service's virtual address.
    Virtual(SocketAddrV4),
    /// A port outside of a service of plain TCP.
    Outer(SocketAddr),
    /// Names, over UDP.
    NamesUdp,
    /// Names, over TCP.
    NamesTcp,
}

/// A text that names no listening socket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no listener's name")]
pub struct InvalidName {
    /// What was given.
    pub text: String,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http => f.write_str("http"),
            Self::Https => f.write_str("https"),
            Self::Virtual(address) => write!(f, "virtual/{address}"),
            Self::Outer(address) => write!(f, "tcp/{address}"),
            Self::NamesUdp => f.write_str("names/udp"),
            Self::NamesTcp => f.write_str("names/tcp"),
        }
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = || InvalidName { text: text.chars().take(80).collect() };
        match text {
            "http" => Ok(Self::Http),
            "https" => Ok(Self::Https),
            "names/udp" => Ok(Self::NamesUdp),
            "names/tcp" => Ok(Self::NamesTcp),
            other if other.starts_with("tcp/") => {
                let address = other.strip_prefix("tcp/").ok_or_else(invalid)?;
                address.parse().map(Self::Outer).map_err(|_| invalid())
            }
            other => {
                let address = other.strip_prefix("virtual/").ok_or_else(invalid)?;
                address.parse().map(Self::Virtual).map_err(|_| invalid())
            }
        }
    }
}

/// A listening socket with what it is for.
#[derive(Debug)]
pub struct Listening {
    /// What it is for.
    pub name: Name,
    /// The socket. It is closed on exec, as all of Rust's descriptors.
    pub descriptor: OwnedFd,
}

/// The listening sockets that a predecessor handed over. Whatever isn't taken is closed.
#[derive(Debug, Default)]
pub struct Inherited {
    listening: Vec<Listening>,
}

impl Inherited {
    /// What was received.
    #[must_use]
    pub fn new(listening: Vec<Listening>) -> Self {
        Self { listening }
    }

    /// Listeners at the public address, for [`Config::http`](crate::Config::http): those that were
    /// handed over, however many threads there were, as each has a queue of its own; or `count` new
    /// ones, if there are none or they are at another address. Port 0 takes any port over.
    ///
    /// # Errors
    /// See [`listen::bind`].
    pub fn http(&mut self, address: SocketAddr, count: usize) -> Result<Vec<TcpListener>, BindError> {
        self.public(Name::Http, address, count)
    }

    /// The same for [`Config::https`](crate::Config::https).
    ///
    /// # Errors
    /// See [`listen::bind`].
    pub fn https(&mut self, address: SocketAddr, count: usize) -> Result<Vec<TcpListener>, BindError> {
        self.public(Name::Https, address, count)
    }

    fn public(
        &mut self,
        name: Name,
        address: SocketAddr,
        count: usize,
    ) -> Result<Vec<TcpListener>, BindError> {
        let mut listeners = Vec::new();
        while let Some(descriptor) = self.take(name) {
            let listener = TcpListener::from(descriptor);
            let same = |own: SocketAddr| {
                own.ip() == address.ip() && (address.port() == 0 || own.port() == address.port())
            };
            if listener.local_addr().is_ok_and(same) {
                listeners.push(listener);
            }
        }
        if listeners.is_empty() { listen::bind(address, count) } else { Ok(listeners) }
    }

    /// A service's listener: the one that was handed over, or a new one.
    pub(crate) fn of_service(&mut self, name: Name, address: SocketAddr) -> io::Result<TcpListener> {
        match self.take(name) {
            Some(descriptor) => Ok(descriptor.into()),
            None => listen::single(address),
        }
    }

    /// The name server's sockets, likewise.
    pub(crate) fn names(&mut self, address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
        let udp = match self.take(Name::NamesUdp) {
            Some(descriptor) => descriptor.into(),
            None => UdpSocket::bind(address)?,
        };
        udp.set_nonblocking(true)?;
        let tcp = match self.take(Name::NamesTcp) {
            Some(descriptor) => descriptor.into(),
            None => listen::single(address)?,
        };
        Ok((udp, tcp))
    }

    fn take(&mut self, name: Name) -> Option<OwnedFd> {
        let at = self.listening.iter().position(|listening| listening.name == name)?;
        Some(self.listening.remove(at).descriptor)
    }
}

/// Another descriptor of the same socket.
pub(crate) fn duplicate(name: Name, socket: &impl AsFd) -> io::Result<Listening> {
    Ok(Listening { name, descriptor: socket.as_fd().try_clone_to_owned()? })
}

impl Edge {
    /// Duplicates of all sockets that this edge listens at now. It goes on listening: should the
    /// successor come to nothing, nothing has changed.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub async fn listeners(&self) -> io::Result<Vec<Listening>> {
        let shared = &self.handle.shared;
        let answers: Vec<_> = (0..shared.threads())
            .map(|index| {
                let (tell, told) = oneshot::channel();
                shared.tell(index, Command::Listeners(tell));
                told
            })
            .collect();
        let mut all = Vec::new();
        for answer in answers {
            // A thread that has ended listens no more.
            all.extend(answer.await.unwrap_or_else(|_| Ok(Vec::new()))?);
        }
        for listening in &self.names {
            all.push(duplicate(listening.name, &listening.descriptor)?);
        }
        Ok(all)
    }

    /// Gives way to a successor that has the listening sockets: closes its own copies, and answers
    /// what still comes on its connections, each for the last time (`Connection: close`). Unused
    /// connections are closed after 30 s, not before: a client may be about to ask on one. Streams
    /// live on for `streams` and are then ended as in [`Edge::drain`].
    ///
    /// Its [`handle`](Edge::handle) goes on working, and it goes on waking and suspecting, as its
    /// connections are served by its own snapshot and its own targets until they end: whoever decides
    /// now has to tell it all that it tells the successor. Resolves when the last connection is gone
    /// and all threads have ended; what is neither a stream nor over 30 s after `streams` is cut. From
    /// `hurry` on it ends as in [`Edge::drain`], within 30 s.
    pub async fn retire(mut self, streams: Duration, hurry: impl Future<Output = ()>) {
        let limit = Instant::now() + streams;
        let shared = std::sync::Arc::clone(&self.handle.shared);
        shared.retire();
        self.names.clear();
        self.life.send_replace(Life::Retiring);
        let retired = async {
            shared.confirmed().await;
            if tokio::time::timeout_at(limit, no_connections(&shared)).await.is_err() {
                shared.end_all_streams();
                if tokio::time::timeout(RETIRED_IDLE, no_connections(&shared)).await.is_err() {
                    self.life.send_replace(Life::Ending);
                    drop(tokio::time::timeout(FAREWELL, no_connections(&shared)).await);
                }
            }
        };
        tokio::select! {
            () = retired => self.end().await,
            () = hurry => self.drain(RETIRED_IDLE).await,
        }
    }
}

/// Closes what no service has claimed by now.
pub(crate) fn close_unclaimed(shared: &Shared) {
    let mut inherited = shared.inherited();
    if !inherited.listening.is_empty() {
        tracing::info!(count = inherited.listening.len(), "inherited listeners are of no service and closed");
        inherited.listening.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let address = "10.7.0.2:80".parse().unwrap();
        for name in [
            Name::Http,
            Name::Https,
            Name::Virtual(address),
            Name::Outer(address.into()),
            Name::NamesUdp,
            Name::NamesTcp,
        ] {
            assert_eq!(name.to_string().parse(), Ok(name));
        }
        for bad in ["", "virtual/", "virtual/[::1]:80", "tcp/80", "names", "Http"] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_public_address_is_inherited_only_if_it_is_the_same() {
        let inherited = || {
            let listeners = listen::bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
            let address = listeners[0].local_addr().unwrap();
            let all = listeners.iter().map(|listener| duplicate(Name::Http, listener).unwrap()).collect();
            (Inherited::new(all), address)
        };
        let (mut same, address) = inherited();
        let listeners = same.http(address, 2).unwrap();
        assert_eq!(listeners.len(), 3, "each queue goes on being served");
        assert!(listeners.iter().all(|listener| listener.local_addr().unwrap() == address));
        let (mut other, address) = inherited();
        let listeners = other.http("127.0.0.2:0".parse().unwrap(), 2).unwrap();
        assert_eq!(listeners.len(), 2);
        assert_eq!(listen::bind(address, 1).unwrap().len(), 1, "the others were closed");
    }
}
