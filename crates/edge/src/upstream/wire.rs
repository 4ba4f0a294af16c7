//! What a connection to an instance is made of: a socket, and over it TLS or nothing.
//!
//! Invariant: what is sent over a wire with a session goes through the session. Everything here is of one
//! thread and never waits while it holds the session.

use std::{
    io,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use tokio::{
    io::{Interest, ReadBuf},
    net::TcpStream,
};

use super::session::{Failed, Session};

/// A socket, and how it is spoken over.
#[derive(Debug, Clone)]
pub(crate) struct Wire {
    pub(crate) stream: Rc<TcpStream>,
    /// `None`: plain bytes.
    session: Option<Rc<Session>>,
}

impl Wire {
    pub(crate) fn plain(stream: TcpStream) -> Self {
        Self { stream: Rc::new(stream), session: None }
    }

    /// The session was agreed upon over this very socket.
    pub(crate) fn secured(stream: Rc<TcpStream>, session: Session) -> Self {
        Self { stream, session: Some(Rc::new(session)) }
    }

    /// What was wrong with its session, when something is.
    pub(crate) fn failed(&self) -> Option<Failed> {
        self.session.as_ref().map(|session| session.failed())
    }

    pub(crate) fn is_secured(&self) -> bool {
        self.session.is_some()
    }

    /// Reads what has arrived, about `size` bytes at once; `false`: the other side is through.
    pub(crate) fn poll_fill(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        size: &mut ReadSize,
    ) -> Poll<io::Result<bool>> {
        if let Some(session) = &self.session {
            return session.poll_fill(cx, buffer, size);
        }
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            buffer.reserve(size.bytes());
            let room = buffer.capacity() - buffer.len();
            match self.stream.try_read_buf(buffer) {
                Ok(0) => return Poll::Ready(Ok(false)),
                Ok(length) => {
                    if length < room {
                        drained(&self.stream);
                    }
                    size.had(length);
                    return Poll::Ready(Ok(true));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// The same for who has a buffer of a fixed size; nothing was read: the other side is through.
    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(session) = &self.session {
            return session.poll_read(cx, buffer);
        }
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            let room = buffer.remaining();
            match self.stream.try_read_buf(buffer) {
                Ok(length) => {
                    if length > 0 && length < room {
                        drained(&self.stream);
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Writes what is taken now; how much that was.
    pub(crate) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(session) = &self.session {
            let part = parts.iter().find(|part| !part.is_empty()).map_or(&[][..], |part| part);
            return session.poll_write(cx, part);
        }
        loop {
            let written = match parts {
                [part] => self.stream.try_write(part),
                parts => self.stream.try_write_vectored(parts),
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.stream.poll_write_ready(cx))?;
                }
                written => return Poll::Ready(written),
            }
        }
    }

    /// Resolves when everything that was written is the kernel's.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.session {
            Some(session) => session.poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Tells the other side that nothing more comes; it may still have something to say.
    pub(crate) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(session) = &self.session {
            session.close();
            ready!(session.poll_flush(cx))?;
        }
        // An error says that it is closed already.
        drop(socket2::SockRef::from(&*self.stream).shutdown(std::net::Shutdown::Write));
        Poll::Ready(Ok(()))
    }

    /// Writes what the kernel takes now, whether or not it has told that it would; how much that was.
    /// Of what was taken something may be [due](Self::is_due) yet.
    pub(crate) fn write_first(&self, bytes: &[u8]) -> usize {
        match &self.session {
            // Whatever is wrong is found again, and told, by writing the rest.
            Some(session) => session.write_first(bytes),
            None => send(&self.stream, bytes).unwrap_or(0),
        }
    }

    /// Whether something that was taken isn't the kernel's yet.
    pub(crate) fn is_due(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.is_due())
    }

    /// Writes all of it.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        if let Some(session) = &self.session {
            return session.write_all(bytes).await;
        }
        while !bytes.is_empty() {
            match self.stream.try_write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.stream.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether the other side has neither closed it nor said anything unasked, as far as was noticed
    /// by now; `surely` asks the kernel.
    pub(crate) fn is_silent(&self, surely: bool) -> bool {
        if let Some(session) = &self.session {
            return session.is_silent(surely);
        }
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

    /// Nothing is under way: lets go of what isn't needed until something is.
    pub(crate) fn rest(&self) {
        if let Some(session) = &self.session {
            session.rest();
        }
    }
}

/// How much is read at once: small answers stay small, large ones need few system calls.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadSize(usize);

impl Default for ReadSize {
    fn default() -> Self {
        Self(Self::MIN)
    }
}

impl ReadSize {
    pub(crate) const MIN: usize = 8 * 1024;
    const MAX: usize = 64 * 1024;

    /// So many bytes are to come.
    pub(crate) fn expect(&mut self, bytes: usize) {
        self.0 = bytes.clamp(Self::MIN, Self::MAX);
    }

    /// So many came: it grows while they fill it.
    pub(super) fn had(&mut self, bytes: usize) {
        if bytes >= self.0 {
            self.0 = (self.0 * 2).min(Self::MAX);
        }
    }

    pub(super) fn bytes(self) -> usize {
        self.0
    }
}

/// Sends what the kernel takes now, without asking whether it would.
pub(super) fn send(stream: &TcpStream, bytes: &[u8]) -> Option<usize> {
    let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
    rustix::net::send(stream, bytes, flags).ok()
}

/// A read didn't fill its buffer, so the next one would find nothing: waits for news from the
/// kernel instead of asking it. (Its readiness is edge-triggered, and an end that was seen stays.)
pub(crate) fn drained(stream: &TcpStream) {
    let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
    drop(stream.try_io(Interest::READABLE, nothing));
}
