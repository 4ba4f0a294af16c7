//! A client's connection: its bytes, and how long it may be in which phase.
//!
//! hyper reads and writes through [`Stream`], which notes what happens in [`Phase`]; the time-outs
//! are judged from there, with one timer a connection instead of several a request.

use std::{
    cell::Cell,
    io::{self, IoSlice},
    mem::MaybeUninit,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
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
    relay::watched::Bodies,
    shared::Counted,
    tls::session::Session,
    upstream::wire::drained,
};

/// Where a connection came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Entry {
    /// At the public address.
    Public {
        /// Whether TLS is spoken there.
        tls: bool,
    },
    /// At a service's virtual address.
    Virtual {
        /// The address's offset in the node's network.
        offset: u16,
        /// Whether TLS is spoken there.
        tls: bool,
    },
    /// At a service's own port outside, which is one of plain TCP.
    Outer {
        /// Its virtual address's offset, which names it.
        offset: u16,
    },
}

impl Entry {
    /// Whether whoever comes here is from outside.
    pub(crate) fn is_public(self) -> bool {
        matches!(self, Self::Public { .. })
    }

    /// Whether TLS is spoken, to its end at the edge.
    pub(crate) fn is_tls(self) -> bool {
        matches!(self, Self::Public { tls: true } | Self::Virtual { tls: true, .. })
    }
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
    /// What is known of the client by TLS; `None`: it isn't spoken.
    pub(crate) tls: Option<Session>,
    /// Whether its `X-Forwarded-*` is believed.
    pub(crate) trusted: bool,
    /// Answers in its streams.
    pub(crate) bodies: Bodies,
    pub(crate) _counted: Counted,
}

/// What a connection is doing. Written by its own thread only; atomic because hyper wants streams
/// that could be sent elsewhere.
#[derive(Debug)]
pub(crate) struct Phase {
    clock: Clock,
    /// Whether it carries many requests at once, each in a stream of its own (HTTP/2).
    multiplexed: AtomicBool,
    /// Requests that have begun and not ended: HTTP/1 has one at most.
    requests: AtomicU32,
    /// Requests that the client took back before their answer, less those that were answered.
    taken_back: AtomicU32,
    /// When the head that is arriving began to; 0: none is.
    head_since: AtomicU64,
    idle_since: AtomicU64,
    /// Since when the client takes nothing; 0: it does.
    blocked_since: AtomicU64,
    /// Whether all that was written is on its way.
    flushed: AtomicBool,
    /// Why the edge closes, where no request was read whole.
    refused: OnceLock<Code>,
    /// Whether the edge closes while the client may still be sending.
    linger: AtomicBool,
    /// Whether a head that doesn't come to its end is to be answered by whoever writes.
    late: AtomicBool,
}

/// What a client that speaks HTTP/2 by prior knowledge says first (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// As much as hyper reads at first.
const FIRST_READ: usize = 8 * 1024;

/// Which protocol a connection speaks, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum First {
    Http1,
    Http2,
}

impl First {
    /// `None`: more has to come to tell.
    fn of(bytes: &[u8]) -> Option<Self> {
        if bytes.starts_with(PREFACE) {
            Some(Self::Http2)
        } else if PREFACE.starts_with(bytes) {
            None
        } else {
            Some(Self::Http1)
        }
    }
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
            multiplexed: AtomicBool::new(false),
            requests: AtomicU32::new(0),
            taken_back: AtomicU32::new(0),
            head_since: AtomicU64::new(0),
            idle_since: AtomicU64::new(clock.now()),
            blocked_since: AtomicU64::new(0),
            flushed: AtomicBool::new(true),
            refused: OnceLock::new(),
            linger: AtomicBool::new(false),
            late: AtomicBool::new(false),
        }
    }

    /// A head is there.
    pub(crate) fn begin(&self) {
        self.requests.store(self.requests.load(Relaxed) + 1, Relaxed);
        self.head_since.store(0, Relaxed);
    }

    /// The same, where nobody has looked at the clock.
    pub(crate) fn end_now(&self) {
        self.end(self.clock.now());
    }

    /// From here on streams are spoken, and bytes may come that are no head.
    pub(crate) fn multiplex(&self) {
        self.multiplexed.store(true, Relaxed);
        self.head_since.store(0, Relaxed);
    }

    /// TLS is agreed upon: what comes from here on is a head, and nothing of it is there yet.
    pub(crate) fn agreed(&self) {
        self.head_since.store(0, Relaxed);
        self.idle_since.store(self.clock.now(), Relaxed);
        self.flushed.store(true, Relaxed);
    }

    /// A head doesn't come to its end, which is said by whoever is asked to read next.
    pub(crate) fn set_late(&self) {
        self.late.store(true, Relaxed);
    }

    /// What is to be said instead of reading on.
    pub(crate) fn last_word(&self) -> Option<Answer> {
        self.late.load(Relaxed).then(late)
    }

    pub(crate) fn in_request(&self) -> bool {
        self.requests.load(Relaxed) > 0
    }

    /// How many requests are under way.
    pub(crate) fn requests(&self) -> usize {
        usize::try_from(self.requests.load(Relaxed)).unwrap_or(usize::MAX)
    }

    /// The client took a request back before its answer, or was answered.
    pub(crate) fn note(&self, taken_back: bool) {
        let count = self.taken_back.load(Relaxed);
        if taken_back || count > 0 {
            let count = if taken_back { count + 1 } else { count - 1 };
            self.taken_back.store(count, Relaxed);
        }
    }

    /// How many more requests the client took back than it let be answered.
    pub(crate) fn taken_back(&self) -> u32 {
        self.taken_back.load(Relaxed)
    }

    /// The answer's last byte was handed over.
    pub(crate) fn end(&self, now: Micros) {
        self.idle_since.store(now, Relaxed);
        self.requests.store(self.requests.load(Relaxed).saturating_sub(1), Relaxed);
    }

    /// The answer comes before the request was read: its rest has to be taken off the wire, or the
    /// kernel's reset would take the answer with it.
    pub(crate) fn set_linger(&self) {
        self.linger.store(true, Relaxed);
    }

    /// What was read is no request, or not all of one.
    pub(crate) fn refuse(&self, code: Code) {
        self.refused.get_or_init(|| code);
    }

    pub(crate) fn refused(&self) -> Option<Code> {
        self.refused.get().copied()
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
        } else if self.in_request() {
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

    pub(crate) fn read(&self) {
        let elsewhere = self.in_request() || self.multiplexed.load(Relaxed);
        if !elsewhere && self.head_since.load(Relaxed) == 0 {
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
    pub(crate) fn refusal(&self, bytes: &[u8]) -> Option<Answer> {
        let unasked = !self.in_request() && self.flushed.load(Relaxed) && !self.multiplexed.load(Relaxed);
        let status = bytes.strip_prefix(b"HTTP/1.1 ").filter(|_| unasked)?.get(..3)?;
        match status {
            b"400" => Some(Answer::new(Code::BadRequest, "the request is not HTTP")),
            b"431" => Some(Answer::new(Code::HeadersTooLarge, "the request's head is too large")),
            b"414" => Some(Answer::new(Code::UriTooLong, "the request's target is too long")),
            _ => None,
        }
    }
}

/// A head doesn't come to its end.
pub(crate) fn late() -> Answer {
    Answer::new(Code::ClientTimeout, "the request's head didn't arrive in time")
}

impl Inbound {
    /// Reads what comes first, until it tells the protocol; empty: nothing comes any more.
    pub(crate) fn poll_first(&self, cx: &mut Context<'_>, first: &mut BytesMut) -> Poll<io::Result<First>> {
        loop {
            if let Some(told) = First::of(first) {
                return Poll::Ready(Ok(told));
            }
            first.reserve(FIRST_READ);
            if ready!(poll_take(&self.stream, &self.phase, cx, first))? == 0 {
                return Poll::Ready(Ok(First::Http1));
            }
        }
    }

    /// Whether the client of the request under way has left, where no TLS is spoken. Wakes when it does, unless it has sent more
    /// than was read: it is found to have left when that is read.
    pub(crate) fn poll_left(&self, cx: &mut Context<'_>) -> bool {
        if self.tls.is_some() || !self.phase.in_request() {
            return false;
        }
        while self.stream.poll_read_ready(cx).is_ready() {
            let peek = || socket2::SockRef::from(&*self.stream).peek(&mut [MaybeUninit::uninit()]);
            match self.stream.try_io(Interest::READABLE, peek) {
                // Its next request, or this one's body.
                Ok(1..) => return false,
                // What was read was all there is.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => return true,
            }
        }
        false
    }

    /// Whether the client has hung up, as far as the kernel has told.
    pub(crate) async fn has_hung_up(&self) -> bool {
        tokio::select! {
            biased;
            ready = self.stream.ready(Interest::READABLE) => ready.is_ok_and(|ready| ready.is_read_closed()),
            () = std::future::ready(()) => false,
        }
    }
}

/// Takes what a client still sends off the wire, for a short while, so that it can read the answer.
pub(crate) async fn linger(stream: &TcpStream) {
    let drain = async {
        // Not in the future itself, which every connection has.
        let mut waste = vec![0_u8; 8192];
        while stream.readable().await.is_ok() {
            match stream.try_read(&mut waste) {
                Ok(0) => break,
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => break,
                Ok(_) | Err(_) => {}
            }
        }
    };
    // Whoever sends on for longer doesn't wait for an answer.
    drop(tokio::time::timeout(Duration::from_secs(1), drain).await);
}

/// Reads what is there into the room that there is.
pub(crate) fn poll_take(
    stream: &TcpStream,
    phase: &Phase,
    cx: &mut Context<'_>,
    into: &mut impl BufMut,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_read_ready(cx))?;
        match stream.try_read_buf(into) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(length) => {
                if length > 0 {
                    phase.read();
                }
                return Poll::Ready(Ok(length));
            }
            Err(error) => return Poll::Ready(Err(error)),
        }
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
    /// What was read already, to tell the protocol.
    pub(crate) first: Bytes,
    pub(crate) stream: Arc<TcpStream>,
    pub(crate) phase: Arc<Phase>,
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            let length = self.first.len().min(buffer.remaining());
            buffer.put_slice(&self.first.split_to(length));
            return Poll::Ready(Ok(()));
        }
        let room = buffer.remaining();
        let length = ready!(poll_take(&self.stream, &self.phase, cx, buffer))?;
        if (1..room).contains(&length) {
            drained(&self.stream);
        }
        Poll::Ready(Ok(()))
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
            self.phase.refuse(answer.code);
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
        if let [one] = parts {
            return self.poll_write(cx, one);
        }
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
