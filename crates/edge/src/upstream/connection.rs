//! One connection to an instance.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BytesMut;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::Interest,
    net::TcpStream,
    time::{Instant, Sleep},
};

use super::door;
use crate::{clock::Micros, target::Target};

/// Reads begin with this much room and grow while they fill it: small answers stay small, large
/// ones need few system calls.
const READ_MIN: usize = 8 * 1024;
const READ_MAX: usize = 64 * 1024;

/// A connection, used by one request at a time.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: Rc<TcpStream>,
    pub(crate) buffer: BytesMut,
    /// Whether it has carried a request before.
    pub(crate) reused: bool,
    pub(crate) idle_since: Micros,
    read_size: usize,
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
        Ok(Self {
            stream: Rc::new(stream),
            buffer: BytesMut::new(),
            reused: false,
            idle_since: 0,
            read_size: READ_MIN,
            alarm: None,
        })
    }

    /// Whether the other side has neither closed it nor said anything unasked, as far as was noticed
    /// by now; `surely` asks the kernel.
    pub(crate) fn is_alive(&self, surely: bool) -> bool {
        let mut byte = [0_u8];
        if !surely {
            return self
                .stream
                .try_read(&mut byte)
                .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        }
        let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
        matches!(rustix::net::recv(&*self.stream, &mut byte, flags), Err(rustix::io::Errno::WOULDBLOCK))
    }

    /// Reads what has arrived; `false`: the other side is through.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            self.buffer.reserve(self.read_size);
            let room = self.buffer.capacity() - self.buffer.len();
            match self.stream.try_read_buf(&mut self.buffer) {
                Ok(0) => return Poll::Ready(Ok(false)),
                Ok(length) => {
                    if length < room {
                        drained(&self.stream);
                    }
                    if length >= self.read_size {
                        self.read_size = (self.read_size * 2).min(READ_MAX);
                    }
                    return Poll::Ready(Ok(true));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
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
        self.read_size = bytes.clamp(READ_MIN, READ_MAX);
    }

    /// Forgets how large the last answer was.
    pub(crate) fn rest(&mut self) {
        self.read_size = READ_MIN;
        self.reused = true;
        if self.buffer.capacity() > READ_MIN {
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

/// Writes what the kernel takes now, whether or not it has told that it would; how much that was.
pub(crate) fn write_first(stream: &TcpStream, bytes: &[u8]) -> usize {
    let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
    // Whatever is wrong is found again, and told, by writing the rest.
    rustix::net::send(stream, bytes, flags).unwrap_or(0)
}

/// A read didn't fill its buffer, so the next one would find nothing: waits for news from the
/// kernel instead of asking it. (Its readiness is edge-triggered, and an end that was seen stays.)
pub(crate) fn drained(stream: &TcpStream) {
    let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
    drop(stream.try_io(Interest::READABLE, nothing));
}

/// Writes all of it.
pub(crate) async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
