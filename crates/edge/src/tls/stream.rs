//! A connection of TLS as hyper reads and writes it.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use crate::{
    answer::Answer,
    inbound::{Phase, Stream, poll_take},
};

/// What a client that sends without a pause is read in.
const AHEAD: usize = 64 * 1024;

/// What comes out of TLS.
#[derive(Debug)]
pub(crate) struct Secure(TlsStream<Ahead>);

impl Secure {
    pub(crate) fn new(stream: TlsStream<Ahead>) -> Self {
        Self(stream)
    }

    fn phase(&self) -> &Phase {
        &self.0.get_ref().0.stream.phase
    }

    /// Says the edge's last word on the connection. Whoever doesn't take it gets none.
    fn say(&mut self, cx: &mut Context<'_>, answer: &Answer) {
        let mut stream = Pin::new(&mut self.0);
        if stream.as_mut().poll_write(cx, &answer.to_wire()).is_ready() {
            drop(stream.poll_flush(cx));
        }
    }
}

impl AsyncRead for Secure {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(answer) = self.phase().last_word() {
            self.say(cx, &answer);
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.0).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.phase().read();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Secure {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(answer) = self.phase().refusal(bytes) {
            self.phase().refuse(answer.code);
            self.phase().set_linger();
            self.say(cx, &answer);
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match parts {
            [one] => self.poll_write(cx, one),
            parts => Pin::new(&mut self.0).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The connection below. A record is read in pieces; where one follows another they are taken from the kernel
/// together.
#[derive(Debug)]
pub(crate) struct Ahead {
    pub(crate) stream: Stream,
    /// Whether the last piece filled all the room that there was.
    full: bool,
}

impl Ahead {
    pub(crate) fn new(stream: Stream) -> Self {
        Self { stream, full: false }
    }
}

impl AsyncRead for Ahead {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.full && self.stream.first.is_empty() {
            let mut ahead = BytesMut::with_capacity(AHEAD);
            ready!(poll_take(&self.stream.stream, &self.stream.phase, cx, &mut ahead))?;
            self.full = false;
            if ahead.is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.stream.first = ahead.freeze();
        }
        let (before, room) = (buffer.filled().len(), buffer.remaining());
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.full = buffer.filled().len() - before == room;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Ahead {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
