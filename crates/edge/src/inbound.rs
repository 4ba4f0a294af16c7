//! A client's connection: its bytes, and how long it may be in which phase.
//!
//! hyper reads and writes through [`Stream`], which notes what happens in [`Phase`]; the time-outs
//! are judged from there, with one timer a connection instead of several a request.

use std::{
    cell::Cell,
    io::{self, IoSlice},
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use minato_model::{code::Code, ids::ServiceKey};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

use crate::{
    answer::Answer,
    clock::{Clock, Micros, micros},
    config::Limits,
    handover::RETIRED_IDLE,
    shared::Counted,
    upstream::connection::drained,
};

/// Where a connection came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// At the public address.
    Public,
    /// At a service's virtual address.
    Virtual {
        /// The address's offset in the node's network.
        offset: u16,
    },
}

/// A client's connection, as its requests know it.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) stream: Arc<TcpStream>,
    pub(crate) phase: Arc<Phase>,
    pub(crate) entry: Entry,
    pub(crate) peer: IpAddr,
    /// The same as text: every request names it.
    pub(crate) peer_text: String,
    /// Whose instance is calling, on a virtual address.
    pub(crate) caller: Option<ServiceKey>,
    /// Whether its `X-Forwarded-*` is believed.
    pub(crate) trusted: bool,
    pub(crate) _counted: Counted,
}

/// What a connection is doing. Written by its own thread only; atomic because hyper wants streams
/// that could be sent elsewhere.
#[derive(Debug)]
pub(crate) struct Phase {
    clock: Clock,
    in_request: AtomicBool,
    /// When the head that is arriving began to; 0: none is.
    head_since: AtomicU64,
    idle_since: AtomicU64,
    /// Since when the client takes nothing; 0: it does.
    blocked_since: AtomicU64,
    /// Whether all that was written is on its way.
    flushed: AtomicBool,
    /// Whether the edge closes while the client may still be sending.
    linger: AtomicBool,
}

/// Why a connection is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// A head doesn't come to its end.
    Head,
    /// Nothing is asked.
    Idle,
    /// The answer isn't taken.
    Blocked,
}

impl Phase {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            in_request: AtomicBool::new(false),
            head_since: AtomicU64::new(0),
            idle_since: AtomicU64::new(clock.now()),
            blocked_since: AtomicU64::new(0),
            flushed: AtomicBool::new(true),
            linger: AtomicBool::new(false),
        }
    }

    /// A head is there.
    pub(crate) fn begin(&self) {
        self.in_request.store(true, Relaxed);
        self.head_since.store(0, Relaxed);
    }

    /// The answer's last byte was handed over.
    pub(crate) fn end(&self, now: Micros) {
        self.idle_since.store(now, Relaxed);
        self.in_request.store(false, Relaxed);
    }

    /// The answer comes before the request was read: its rest has to be taken off the wire, or the
    /// kernel's reset would take the answer with it.
    pub(crate) fn set_linger(&self) {
        self.linger.store(true, Relaxed);
    }

    pub(crate) fn lingers(&self) -> bool {
        self.linger.load(Relaxed)
    }

    /// What the connection has been at for too long, if it has. `retired_at`: since when there is a
    /// successor that it could ask.
    pub(crate) fn overdue(
        &self,
        now: Micros,
        limits: &Limits,
        retired_at: Option<Micros>,
    ) -> Option<Overdue> {
        let blocked = self.blocked_since.load(Relaxed);
        let (end, overdue) = if blocked != 0 {
            (blocked + micros(limits.stream_idle), Overdue::Blocked)
        } else if self.in_request.load(Relaxed) {
            return None;
        } else {
            match self.head_since.load(Relaxed) {
                0 => (self.idle_until(limits, retired_at), Overdue::Idle),
                since => (since + micros(limits.head), Overdue::Head),
            }
        };
        (end <= now).then_some(overdue)
    }

    /// Until when the next request may be waited for.
    fn idle_until(&self, limits: &Limits, retired_at: Option<Micros>) -> Micros {
        let since = self.idle_since.load(Relaxed);
        let end = since + micros(limits.idle);
        let retired = retired_at.map(|at| at.max(since) + micros(RETIRED_IDLE));
        retired.map_or(end, |retired| end.min(retired))
    }

    fn read(&self) {
        if !self.in_request.load(Relaxed) && self.head_since.load(Relaxed) == 0 {
            self.head_since.store(self.clock.now(), Relaxed);
        }
    }

    fn written(&self, pending: bool) {
        let blocked = self.blocked_since.load(Relaxed);
        if !pending && blocked != 0 {
            self.blocked_since.store(0, Relaxed);
        } else if pending && blocked == 0 {
            self.blocked_since.store(self.clock.now(), Relaxed);
        }
    }

    /// What hyper says by itself: it read a head that is none, and wrote a bare status.
    fn refusal(&self, bytes: &[u8]) -> Option<Answer> {
        let unasked = !self.in_request.load(Relaxed) && self.flushed.load(Relaxed);
        let status = bytes.strip_prefix(b"HTTP/1.1 ").filter(|_| unasked)?.get(..3)?;
        match status {
            b"400" => Some(Answer::new(Code::BadRequest, "the request is not HTTP")),
            b"431" => Some(Answer::new(Code::HeadersTooLarge, "the request's head is too large")),
            b"414" => Some(Answer::new(Code::UriTooLong, "the request's target is too long")),
            _ => None,
        }
    }
}

impl Inbound {
    /// Whether the client has hung up, as far as the kernel has told.
    pub(crate) async fn has_hung_up(&self) -> bool {
        tokio::select! {
            biased;
            ready = self.stream.ready(Interest::READABLE) => ready.is_ok_and(|ready| ready.is_read_closed()),
            () = std::future::ready(()) => false,
        }
    }

    /// Takes what the client still sends off the wire, for a short while, so that it can read the
    /// answer.
    pub(crate) async fn linger(&self) {
        let drain = async {
            let mut waste = [0_u8; 8192];
            while self.stream.readable().await.is_ok() {
                match self.stream.try_read(&mut waste) {
                    Ok(0) => break,
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => break,
                    Ok(_) | Err(_) => {}
                }
            }
        };
        // Whoever sends on for longer doesn't wait for an answer.
        drop(tokio::time::timeout(Duration::from_secs(1), drain).await);
    }
}

/// What is written in one piece, at most.
const COPIED_MAX: usize = 16 * 1024;

thread_local! {
    /// Room to put the pieces together.
    static COPY: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The connection as hyper reads and writes it.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) stream: Arc<TcpStream>,
    pub(crate) phase: Arc<Phase>,
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            let room = buffer.remaining();
            match self.stream.try_read_buf(buffer) {
                Ok(length) => {
                    if length > 0 {
                        self.phase.read();
                        if length < room {
                            drained(&self.stream);
                        }
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Stream {
    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        send: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        self.phase.flushed.store(false, Relaxed);
        loop {
            match send(&self.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let ready = self.stream.poll_write_ready(cx);
                    self.phase.written(ready.is_pending());
                    ready!(ready)?;
                }
                written => {
                    self.phase.written(false);
                    return Poll::Ready(written);
                }
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(answer) = self.phase.refusal(bytes) {
            self.phase.set_linger();
            // The connection ends with it; a client that doesn't even take this much gets nothing.
            drop(self.stream.try_write(&answer.to_wire()));
            return Poll::Ready(Ok(bytes.len()));
        }
        self.poll_send(cx, |stream| stream.try_write(bytes))
    }

    /// What is short goes out as one piece, which costs less than to tell the kernel of two; what is long is
    /// not copied.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if length > COPIED_MAX {
            return self.poll_send(cx, |stream| stream.try_write_vectored(parts));
        }
        let mut copy = COPY.take();
        copy.clear();
        parts.iter().for_each(|part| copy.extend_from_slice(part));
        let written = self.poll_write(cx, &copy);
        COPY.set(copy);
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.phase.flushed.store(true, Relaxed);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // An error says that it is closed already.
        drop(socket2::SockRef::from(&*self.stream).shutdown(std::net::Shutdown::Write));
        Poll::Ready(Ok(()))
    }
}
