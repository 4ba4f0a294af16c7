//! TLS over a connection to an instance.
//!
//! Invariants: what was encrypted is sent in that order and whole, or the connection ends; an end that the
//! other side didn't say itself is an error, so that nobody can cut an answer short and have it look whole.
//! Records are taken from and put into buffers of the edge's own, so that a large body needs few system calls.

use std::{
    cell::{OnceCell, RefCell},
    future::poll_fn,
    io,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use rustix::net::RecvFlags;
use rustls::{
    ClientConfig, HandshakeKind,
    client::{ClientConnectionData, UnbufferedClientConnection},
    pki_types::{CertificateDer, ServerName},
    unbuffered::{
        ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, UnbufferedStatus,
        WriteTraffic,
    },
};
use tokio::{io::ReadBuf, net::TcpStream};

use super::wire::{ReadSize, drained, send};

/// What is encrypted at once: four records.
const WRITE_MAX: usize = 64 * 1024;
/// What a record has beside its content, at most: head, nonce, kind and tag.
const OVERHEAD: usize = 5 + 8 + 1 + 16;
/// The content of a record, at most.
const RECORD: usize = 16 * 1024;
/// Reads in search of why the other side takes nothing more.
const LAST_WORDS: usize = 16;
/// Reads in search of unasked words on a connection that nobody uses.
const LOOKS: usize = 4;

type Traffic<'a> = WriteTraffic<'a, ClientConnectionData>;

/// A session.
#[derive(Debug)]
pub(crate) struct Session {
    stream: Rc<TcpStream>,
    state: RefCell<State>,
    /// What was wrong, for who gave the session away.
    failed: Failed,
}

/// What was wrong with a session, if something was.
#[derive(Debug, Clone, Default)]
pub(crate) struct Failed(Rc<OnceCell<rustls::Error>>);

/// Why none was agreed upon.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BeginError {
    #[error("the connection broke while TLS was agreed upon")]
    Io(#[source] io::Error),
    #[error(transparent)]
    Tls(rustls::Error),
}

struct State {
    tls: UnbufferedClientConnection,
    /// Records as they arrived; a part of one at most, once it was looked at.
    incoming: BytesMut,
    /// Whether it wasn't looked at since something was added.
    fresh: bool,
    /// What was decrypted and not taken.
    plain: BytesMut,
    /// The other side is through, and said so.
    ended: bool,
    /// Records that are to be sent, and how many bytes of them were.
    outgoing: Vec<u8>,
    sent: usize,
    /// The edge is through, and says so.
    closed: bool,
    /// What was wrong.
    failed: Failed,
}

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The other side has to say something first.
    Agreeing,
    /// Both may send.
    Open,
    /// Both are through.
    Over,
}

impl Session {
    /// Agrees upon a session. What may be sent already, for a faster end of the agreement, isn't.
    pub(crate) async fn begin(
        stream: Rc<TcpStream>,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        offered: &[&[u8]],
    ) -> Result<Self, BeginError> {
        let offered = offered.iter().map(|name| name.to_vec()).collect();
        let tls =
            UnbufferedClientConnection::new_with_alpn(config, name, offered).map_err(BeginError::Tls)?;
        let state = State::new(tls);
        let failed = state.failed.clone();
        let session = Self { stream, state: RefCell::new(state), failed };
        let mut size = ReadSize::default();
        loop {
            let step = session.state.borrow_mut().keep_plain();
            // An alert too: the other side shall know what was wrong.
            let flushed = poll_fn(|cx| session.poll_flush(cx)).await;
            let step = step.map_err(BeginError::Tls)?;
            flushed.map_err(BeginError::Io)?;
            match step {
                Step::Open => return Ok(session),
                Step::Over => return Err(BeginError::Io(io::ErrorKind::UnexpectedEof.into())),
                Step::Agreeing => {
                    let read = poll_fn(|cx| session.poll_receive(cx, &mut size));
                    read.await.map_err(BeginError::Io)?;
                }
            }
        }
    }

    /// What was wrong, when something is.
    pub(crate) fn failed(&self) -> Failed {
        self.failed.clone()
    }

    /// Whether both agreed upon HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        self.state.borrow().tls.alpn_protocol() == Some(b"h2")
    }

    /// The certificate that was shown, if the session isn't one that was resumed.
    pub(crate) fn newly_shown(&self) -> Option<CertificateDer<'static>> {
        let state = self.state.borrow();
        let resumed = state.tls.handshake_kind() == Some(HandshakeKind::Resumed);
        let shown = state.tls.peer_certificates().filter(|_| !resumed)?;
        shown.first().cloned().map(CertificateDer::into_owned)
    }

    /// Reads what has arrived to the end of the buffer; `false`: the other side is through.
    pub(crate) fn poll_fill(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        size: &mut ReadSize,
    ) -> Poll<io::Result<bool>> {
        let before = buffer.len();
        loop {
            {
                let mut state = self.state.borrow_mut();
                buffer.extend_from_slice(&state.plain);
                state.plain.clear();
                let looked = state.advance(buffer);
                self.answer(&mut state);
                if buffer.len() > before {
                    // What is wrong behind it is told next time.
                    return Poll::Ready(Ok(true));
                }
                looked.map_err(broken)?;
                if state.ended {
                    return Poll::Ready(Ok(false));
                }
            }
            ready!(self.poll_receive(cx, size))?;
        }
    }

    /// The same for who has a buffer of a fixed size; nothing was read: the other side is through.
    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut size = ReadSize::default();
        size.expect(buffer.remaining());
        loop {
            {
                let mut state = self.state.borrow_mut();
                let looked = if state.plain.is_empty() { state.keep_plain() } else { Ok(Step::Open) };
                self.answer(&mut state);
                if state.plain.is_empty() {
                    looked.map_err(broken)?;
                } else {
                    let length = state.plain.len().min(buffer.remaining());
                    buffer.put_slice(&state.plain[..length]);
                    state.plain.advance(length);
                    return Poll::Ready(Ok(()));
                }
                if state.ended {
                    return Poll::Ready(Ok(()));
                }
            }
            ready!(self.poll_receive(cx, &mut size))?;
        }
    }

    /// Takes records from the kernel.
    fn poll_receive(&self, cx: &mut Context<'_>, size: &mut ReadSize) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            let mut state = self.state.borrow_mut();
            state.incoming.reserve(size.bytes());
            let room = state.incoming.capacity() - state.incoming.len();
            match self.stream.try_read_buf(&mut state.incoming) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(length) => {
                    if length < room {
                        drained(&self.stream);
                    }
                    size.had(length);
                    state.fresh = true;
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Sends what the other side is to be answered by TLS itself, if there is room; else with what is written
    /// next.
    fn answer(&self, state: &mut State) {
        if !state.due().is_empty() {
            let sent = send(&self.stream, state.due()).unwrap_or(0);
            state.sent(sent);
        }
    }

    /// Writes what is taken now; how much that was.
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(cx))?;
        let bytes = bytes.get(..WRITE_MAX).unwrap_or(bytes);
        self.state.borrow_mut().encrypt(bytes)?;
        // What isn't sent now is with the next, or when that is asked for.
        if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(bytes.len()))
    }

    /// Resolves when everything that was encrypted is the kernel's.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            {
                let mut state = self.state.borrow_mut();
                if state.due().is_empty() {
                    return Poll::Ready(Ok(()));
                }
                match self.stream.try_write(state.due()) {
                    Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Ok(length) => {
                        state.sent(length);
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Poll::Ready(Err(self.last_word(&mut state, error))),
                }
            }
            ready!(self.stream.poll_write_ready(cx))?;
        }
    }

    /// The other side takes nothing more: why, if that was its last word.
    fn last_word(&self, state: &mut State, error: io::Error) -> io::Error {
        let mut room = [0_u8; 4096];
        for _ in 0..LAST_WORDS {
            let received = rustix::net::recv(&*self.stream, &mut room, RecvFlags::DONTWAIT);
            let Ok((length @ 1.., _)) = received else { break };
            state.incoming.extend_from_slice(room.get(..length).unwrap_or_default());
            state.fresh = true;
            if let Err(word) = state.keep_plain() {
                return broken(word);
            }
        }
        error
    }

    /// Takes all of it, and sends what the kernel takes now; how much was taken.
    pub(crate) fn write_first(&self, bytes: &[u8]) -> usize {
        let mut state = self.state.borrow_mut();
        let bytes = bytes.get(..WRITE_MAX).unwrap_or(bytes);
        if state.encrypt(bytes).is_err() {
            return 0;
        }
        self.answer(&mut state);
        bytes.len()
    }

    pub(crate) fn is_due(&self) -> bool {
        !self.state.borrow().due().is_empty()
    }

    /// Writes all of it.
    pub(crate) async fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        for part in bytes.chunks(WRITE_MAX) {
            poll_fn(|cx| self.poll_flush(cx)).await?;
            self.state.borrow_mut().encrypt(part)?;
        }
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Says that nothing more comes, with what is flushed next.
    pub(crate) fn close(&self) {
        self.state.borrow_mut().close();
    }

    /// Whether the other side has neither closed it nor said anything unasked, as far as was noticed
    /// by now; `surely` asks the kernel. What TLS says by itself, such as tickets, is none of it.
    pub(crate) fn is_silent(&self, surely: bool) -> bool {
        let mut state = self.state.borrow_mut();
        let mut room = [0_u8; 2048];
        for _ in 0..LOOKS {
            let found = if surely {
                let received = rustix::net::recv(&*self.stream, &mut room, RecvFlags::DONTWAIT);
                received.map(|(length, _)| length).map_err(io::Error::from)
            } else {
                self.stream.try_read(&mut room)
            };
            match found {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return state.keep_plain().is_ok() && state.plain.is_empty() && !state.ended;
                }
                Ok(0) | Err(_) => return false,
                Ok(length) => {
                    state.incoming.extend_from_slice(room.get(..length).unwrap_or_default());
                    state.fresh = true;
                    if state.keep_plain().is_err() || !state.plain.is_empty() || state.ended {
                        return false;
                    }
                    self.answer(&mut state);
                }
            }
        }
        // Who has so much to say unasked isn't trusted to stop.
        false
    }

    /// Nothing is under way: lets go of large buffers.
    pub(crate) fn rest(&self) {
        let mut state = self.state.borrow_mut();
        if state.incoming.is_empty() && state.incoming.capacity() > ReadSize::MIN {
            state.incoming = BytesMut::new();
        }
        if state.outgoing.is_empty() && state.outgoing.capacity() > ReadSize::MIN {
            state.outgoing = Vec::new();
        }
    }
}

impl Failed {
    pub(crate) fn get(&self) -> Option<&rustls::Error> {
        self.0.get()
    }
}

impl Drop for Session {
    /// Says goodbye, if the kernel takes it at once.
    fn drop(&mut self) {
        let mut state = self.state.borrow_mut();
        state.close();
        self.answer(&mut state);
    }
}

impl State {
    fn new(tls: UnbufferedClientConnection) -> Self {
        Self {
            tls,
            incoming: BytesMut::new(),
            fresh: false,
            plain: BytesMut::new(),
            ended: false,
            outgoing: Vec::new(),
            sent: 0,
            closed: false,
            failed: Failed::default(),
        }
    }

    /// Looks at what has arrived; what was sent goes to the end of the buffer.
    fn advance(&mut self, plain: &mut BytesMut) -> Result<Step, rustls::Error> {
        if !self.fresh && self.failed.get().is_none() && !self.tls.is_handshaking() {
            return Ok(Step::Open);
        }
        self.look(plain, |_, _| Ok(()))
    }

    /// The same, and does something at the end of it if both may send.
    ///
    /// Always with all that is there: the library goes on where it was in it.
    fn look(
        &mut self,
        plain: &mut BytesMut,
        then: impl FnOnce(&mut Traffic<'_>, &mut Vec<u8>) -> Result<(), rustls::Error>,
    ) -> Result<Step, rustls::Error> {
        if let Some(error) = self.failed.get() {
            return Err(error.clone());
        }
        self.fresh = false;
        loop {
            let UnbufferedStatus { mut discard, state } = self.tls.process_tls_records(&mut self.incoming);
            let step = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        plain.extend_from_slice(record.payload);
                    }
                    Ok(None)
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut data, &mut self.outgoing).map(|()| None)
                }
                // It is sent before anything that comes later.
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    Ok(None)
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.ended = true;
                    Ok(None)
                }
                Ok(ConnectionState::BlockedHandshake) => Ok(Some(Step::Agreeing)),
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    self.incoming.advance(discard);
                    return then(&mut traffic, &mut self.outgoing).map(|()| Step::Open);
                }
                Ok(ConnectionState::Closed) => Ok(Some(Step::Over)),
                // Early data is the servers' to read.
                Ok(_) => Err(unexpected()),
                Err(error) => Err(error),
            };
            self.incoming.advance(discard);
            match step {
                Ok(None) => {}
                Ok(Some(step)) => return Ok(step),
                Err(error) => {
                    self.fail(&error);
                    return Err(error);
                }
            }
        }
    }

    /// The same; what was sent is kept here.
    fn keep_plain(&mut self) -> Result<Step, rustls::Error> {
        let mut plain = std::mem::take(&mut self.plain);
        let step = self.advance(&mut plain);
        self.plain = plain;
        step
    }

    /// Something was wrong: what the other side is told about it. The library isn't asked for anything after
    /// that: it would find the same once more.
    fn fail(&mut self, error: &rustls::Error) {
        // It is the first.
        drop(self.failed.0.set(error.clone()));
        self.closed = true;
        let UnbufferedStatus { state, .. } = self.tls.process_tls_records(&mut self.incoming);
        if let Ok(ConnectionState::EncodeTlsData(mut data)) = state {
            // Without room for an alert the connection just ends.
            drop(encode(&mut data, &mut self.outgoing));
        }
    }

    fn encrypt(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let size = bytes.len() + (bytes.len() / RECORD + 1) * OVERHEAD;
        self.write(size, |traffic, room| traffic.encrypt(bytes, room))
    }

    fn close(&mut self) {
        if !self.closed && !self.tls.is_handshaking() {
            self.closed = true;
            // An error says that it is closed already.
            drop(self.write(2 + OVERHEAD, |traffic, room| traffic.queue_close_notify(room)));
        }
    }

    fn write(
        &mut self,
        size: usize,
        mut write: impl FnMut(&mut Traffic<'_>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> io::Result<()> {
        let mut plain = std::mem::take(&mut self.plain);
        let step = self.look(&mut plain, |traffic, outgoing| {
            append(outgoing, size, |room| match write(traffic, room) {
                Err(EncryptError::InsufficientSize(more)) => Err(Some(more)),
                written => written.map_err(|_| None),
            })
        });
        self.plain = plain;
        match step.map_err(broken)? {
            Step::Open => Ok(()),
            Step::Agreeing | Step::Over => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// What is to be sent.
    fn due(&self) -> &[u8] {
        self.outgoing.get(self.sent..).unwrap_or_default()
    }

    fn sent(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.sent >= self.outgoing.len() {
            self.outgoing.clear();
            self.sent = 0;
        }
    }
}

fn encode(data: &mut EncodeTlsData<'_, ClientConnectionData>, to: &mut Vec<u8>) -> Result<(), rustls::Error> {
    append(to, RECORD + OVERHEAD, |room| match data.encode(room) {
        Err(EncodeError::InsufficientSize(more)) => Err(Some(more)),
        encoded => encoded.map_err(|_| None),
    })
}

/// Lets something be written to the end, where there is room for so much, or for what it says that it needs.
fn append(
    to: &mut Vec<u8>,
    size: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<InsufficientSizeError>>,
) -> Result<(), rustls::Error> {
    let start = to.len();
    to.resize(start + size, 0);
    let mut written = write(to.get_mut(start..).unwrap_or_default());
    if let Err(Some(InsufficientSizeError { required_size })) = written {
        to.resize(start + required_size, 0);
        written = write(to.get_mut(start..).unwrap_or_default());
    }
    to.truncate(start + written.as_ref().copied().unwrap_or(0));
    written.map(drop).map_err(|_| unexpected())
}

fn unexpected() -> rustls::Error {
    rustls::Error::General("the library can't go on".to_owned())
}

/// What was sent is no TLS, or the other side says that what it got is none.
fn broken(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("ended", &self.ended).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
