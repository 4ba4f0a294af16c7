//! One connection to an instance.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BytesMut;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::TcpStream,
    time::{Instant, Sleep},
};

use super::{
    door,
    wire::{ReadSize, Wire},
};
use crate::{clock::Micros, target::Target};

/// A connection, used by one request at a time.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) wire: Wire,
    pub(crate) buffer: BytesMut,
    /// Whether it has carried a request before.
    pub(crate) reused: bool,
    pub(crate) idle_since: Micros,
    read_size: ReadSize,
    /// Set to a moment that isn't later than the one that is waited for. It stays set from request to
    /// request: to be woken in vain now and then costs less than to set it for each.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    /// Connects to an instance. Who is withdrawn meanwhile is waited for no longer: a network that is gone
    /// refuses nothing.
    pub(crate) async fn open(target: &Target, within: Duration) -> io::Result<Self> {
        let address = SocketAddr::from((target.endpoint.address, target.endpoint.port));
        let stream = TcpStream::from_std(connect(address, target.door().as_deref())?.into())?;
        // An instance is on this node: mostly the kernel was through with it within the call.
        if stream.peer_addr().is_err() {
            tokio::select! {
                connected = stream.writable() => connected?,
                () = target.until_withdrawn() => return Err(io::ErrorKind::ConnectionAborted.into()),
                () = tokio::time::sleep(within) => return Err(io::ErrorKind::TimedOut.into()),
            }
            if let Some(error) = stream.take_error()? {
                return Err(error);
            }
        }
        Ok(Self::over(Wire::plain(stream)))
    }

    pub(crate) fn over(wire: Wire) -> Self {
        let read_size = ReadSize::default();
        Self { wire, buffer: BytesMut::new(), reused: false, idle_since: 0, read_size, alarm: None }
    }

    /// Whether it may be used, as far as was noticed by now; `surely` asks the kernel.
    pub(crate) fn is_alive(&self, surely: bool) -> bool {
        self.wire.is_silent(surely)
    }

    /// Reads what has arrived; `false`: the other side is through.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.wire.poll_fill(cx, &mut self.buffer, &mut self.read_size)
    }

    /// Resolves at the deadline.
    pub(crate) fn poll_alarm(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if alarm.deadline() > deadline {
            alarm.as_mut().reset(deadline);
        }
        ready!(alarm.as_mut().poll(cx));
        if alarm.deadline() < deadline {
            alarm.as_mut().reset(deadline);
            return alarm.as_mut().poll(cx);
        }
        Poll::Ready(())
    }

    /// The answer's body has so many bytes: room is made for those that are to come.
    pub(crate) fn expect(&mut self, bytes: u64) {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).saturating_sub(self.buffer.len());
        self.read_size.expect(bytes);
    }

    /// Forgets how large the last answer was.
    pub(crate) fn rest(&mut self) {
        self.read_size = ReadSize::default();
        self.reused = true;
        self.wire.rest();
        if self.buffer.capacity() > ReadSize::MIN {
            self.buffer = BytesMut::new();
        }
    }
}

/// Begins to connect, from within the instance's network namespace where that is known: there the way is the
/// loopback's, without the pair of links between instance and node and without the node's packet rules. It is
/// shorter by a tenth of what a request costs, and nothing that the node's rules protect is passed by: the edge
/// may reach every instance. The instance sees its own address as the peer's, as it is no other's business.
fn connect(address: SocketAddr, door: Option<&OwnedFd>) -> io::Result<Socket> {
    let socket = match door {
        Some(door) => door::within(door, || socket(address))?,
        None => socket(address)?,
    };
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
            Err(error)
        }
        Ok(()) | Err(_) => Ok(socket),
    }
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}
