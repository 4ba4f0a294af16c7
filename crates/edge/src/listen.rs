//! Listening sockets. They are made here and nowhere else, before the threads that use them, so
//! that the same descriptors can be handed to a successor.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use socket2::{Domain, Protocol, Socket, Type};

/// How many connections may wait to be accepted: bursts of cold starts arrive at once.
const BACKLOG: i32 = 4096;

/// An address can't be listened at.
#[derive(Debug, thiserror::Error)]
#[error("can't listen at {address}")]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Listeners at one address, among which the kernel spreads connections: one for each edge thread.
/// Port 0 becomes a free port, the same for all.
///
/// # Errors
/// The address isn't this machine's, or the port is taken, by another edge too.
pub fn bind(address: SocketAddr, count: usize) -> Result<Vec<TcpListener>, BindError> {
    let fail = |source| BindError { address, source };
    // Alone first: sharing a port with another program's listeners would go unnoticed.
    let alone = open(address, false).map_err(fail)?;
    let address = alone.local_addr().map_err(fail)?;
    drop(alone);
    (0..count.max(1)).map(|_| open(address, true).map_err(fail)).collect()
}

/// One listener alone at its address.
pub(crate) fn single(address: SocketAddr) -> io::Result<TcpListener> {
    open(address, false)
}

fn open(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_an_error_even_if_it_could_be_shared() {
        let first = bind("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let address = first[0].local_addr().unwrap();
        assert_eq!(first[1].local_addr().unwrap(), address);
        let error = bind(address, 2).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert_eq!(bind(address, 1).unwrap().len(), 1);
    }
}
