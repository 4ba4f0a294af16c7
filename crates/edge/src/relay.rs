//! The answer on its way back to the client.

pub(crate) mod stream;
pub(crate) mod watched;

use std::{
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use self::{
    stream::Streamed,
    watched::{Bodies, Watched},
};
use crate::{
    end::End,
    log::flag,
    release::Lease,
    serve::Local,
    upstream::{
        connection::Connection,
        exchange::Sending,
        framing::{Framing, Step},
        upload::Broken,
    },
};

/// A response's body.
pub(crate) struct Answered {
    content: Content,
    end: End,
}

enum Content {
    /// Known whole.
    Whole(Option<Bytes>),
    /// From an instance.
    Relayed(Box<Relayed>),
    /// The same, in a stream of HTTP/2.
    Streamed(Box<Streamed>),
    /// Any of them on its way into a stream of HTTP/2.
    Watched(Rc<Watched>),
    /// It breaks off with this.
    Broken(Option<io::Error>),
}

/// A body that is arriving from an instance.
pub(crate) struct Relayed {
    local: Rc<Local>,
    /// Gone once the body is complete.
    source: Option<Source>,
    framing: Framing,
    keep: bool,
    sending: Option<Sending>,
    /// Resolves when a stream shall end; `None`: it isn't one.
    ending: Option<Pin<Box<dyn Future<Output = ()>>>>,
    /// Why the body breaks off, to be said at the next poll: hyper sends what it has only when it
    /// has to wait, and the client shall have all that arrived.
    broken: Option<io::Error>,
    /// Whether a stream was ended before its time.
    cut: bool,
    /// Until when something has to arrive; set while nothing does.
    patience: Option<Pin<Box<Sleep>>>,
}

struct Source {
    connection: Connection,
    lease: Lease,
}

impl Answered {
    pub(crate) fn whole(content: Bytes, end: End) -> Self {
        Self { content: Content::Whole(Some(content).filter(|content| !content.is_empty())), end }
    }

    pub(crate) fn relayed(mut relayed: Relayed, end: End) -> Self {
        match relayed.take_whole() {
            Some(content) => Self::whole(content, end),
            None => Self { content: Content::Relayed(Box::new(relayed)), end },
        }
    }

    pub(crate) fn streamed(streamed: Streamed, end: End) -> Self {
        if streamed.is_over() {
            return Self::whole(Bytes::new(), end);
        }
        Self { content: Content::Streamed(Box::new(streamed)), end }
    }
}

impl Answered {
    /// The same, on its way into a stream of HTTP/2.
    pub(crate) fn watched(mut self, bodies: &Bodies) -> Self {
        if matches!(self.content, Content::Relayed(_) | Content::Streamed(_)) {
            let content = std::mem::replace(&mut self.content, Content::Whole(None));
            self.content = Content::Watched(bodies.add(content, self.end.local.shared.clock));
        }
        self
    }
}

impl Drop for Answered {
    fn drop(&mut self) {
        if let Some(flag) = self.content.cut_short() {
            self.end.flag(flag);
        }
    }
}

impl Content {
    /// What it is called that it didn't come to its end, if it didn't.
    fn cut_short(&self) -> Option<&'static str> {
        let (cut, over) = match self {
            Self::Whole(_) => (false, true),
            Self::Relayed(relayed) => (relayed.cut, relayed.source.is_none()),
            Self::Streamed(streamed) => (streamed.cut, streamed.is_over()),
            Self::Watched(watched) => return watched.content.borrow().cut_short(),
            Self::Broken(_) => (false, false),
        };
        if cut { Some(flag::STREAM_ENDED) } else { (!over).then_some(flag::CLIENT_GONE) }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self {
            Self::Whole(content) => Poll::Ready(content.take().map(|content| Ok(Frame::data(content)))),
            Self::Relayed(relayed) => relayed.poll_or_break(cx),
            Self::Streamed(streamed) => streamed.poll_frame(cx),
            Self::Watched(watched) => {
                watched.note(false);
                let frame = ready!(watched.content.borrow_mut().poll_frame(cx));
                watched.note(true);
                Poll::Ready(frame)
            }
            Self::Broken(error) => Poll::Ready(error.take().map(Err)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(content) => content.is_none(),
            Self::Relayed(relayed) => relayed.source.is_none(),
            Self::Streamed(streamed) => streamed.is_over(),
            Self::Watched(watched) => watched.content.borrow().is_end_stream(),
            Self::Broken(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        let exact = |length: usize| SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX));
        match self {
            Self::Whole(content) => exact(content.as_ref().map_or(0, Bytes::len)),
            Self::Relayed(relayed) => match relayed.framing {
                Framing::Length(left) => SizeHint::with_exact(left),
                Framing::Done => SizeHint::with_exact(0),
                Framing::Chunked(_) | Framing::Close => SizeHint::default(),
            },
            Self::Streamed(streamed) => streamed.size_hint(),
            Self::Watched(watched) => watched.content.borrow().size_hint(),
            Self::Broken(_) => SizeHint::default(),
        }
    }
}

impl Relayed {
    pub(crate) fn new(
        local: Rc<Local>,
        connection: Connection,
        lease: Lease,
        framing: Framing,
        keep: bool,
        sending: Option<Sending>,
        stream: bool,
    ) -> Self {
        let ending = stream.then(|| {
            let target = Arc::clone(lease.target());
            Box::pin(async move { target.streams_end().await }) as Pin<Box<dyn Future<Output = ()>>>
        });
        let mut relayed = Self {
            local,
            source: Some(Source { connection, lease }),
            framing,
            keep,
            sending,
            ending,
            broken: None,
            cut: false,
            patience: None,
        };
        if matches!(framing, Framing::Done | Framing::Length(0)) {
            relayed.finish();
        }
        relayed
    }

    /// The body, if all of it came with the head, as that of most answers does.
    fn take_whole(&mut self) -> Option<Bytes> {
        let Some(source) = self.source.as_mut() else { return Some(Bytes::new()) };
        let Framing::Length(length) = self.framing else { return None };
        let length =
            usize::try_from(length).ok().filter(|length| *length <= source.connection.buffer.len())?;
        if self.sending.is_some() {
            return None;
        }
        let content = source.connection.buffer.split_to(length).freeze();
        self.finish();
        Some(content)
    }

    /// The body is complete: gives the connection and the place back.
    fn finish(&mut self) {
        self.framing = Framing::Done;
        let Some(Source { connection, lease }) = self.source.take() else { return };
        // What is left of the request would be taken for the next one.
        if self.keep && self.sending.is_none() && connection.buffer.is_empty() {
            self.local.pool.put(lease.target(), connection);
        }
    }

    /// Goes on sending the request's body, as some answers begin before it ended.
    fn poll_sending(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(sending) = self.sending.as_mut() else { return Ok(()) };
        match sending.as_mut().poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(sent) => {
                self.sending = None;
                match sent {
                    Ok(()) => Ok(()),
                    Err(Broken::Instance) => {
                        self.keep = false;
                        Ok(())
                    }
                    Err(Broken::Paused | Broken::TooLarge | Broken::Client) => {
                        // The only error of this kind.
                        Err(io::Error::other("the request's body broke off"))
                    }
                }
            }
        }
    }

    /// Whether a stream had to end now: its body is complete then, and the client comes again.
    fn poll_ending(&mut self, cx: &mut Context<'_>) -> bool {
        // A body of a stated length has no other end.
        let may_end = matches!(self.framing, Framing::Chunked(_) | Framing::Close);
        let Some(ending) = self.ending.as_mut().filter(|_| may_end) else { return false };
        if ending.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.ending = None;
        self.cut = true;
        self.keep = false;
        self.local.shared.totals.streams_ended.fetch_add(1, Relaxed);
        self.finish();
        true
    }

    fn poll_or_break(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        match ready!(self.poll_next(cx)) {
            Some(Err(error)) => {
                self.broken = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            frame => Poll::Ready(frame),
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Err(error) = self.poll_sending(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        if self.poll_ending(cx) {
            return Poll::Ready(None);
        }
        loop {
            let Some(source) = self.source.as_mut() else { return Poll::Ready(None) };
            let frame = match self.framing.step(&mut source.connection.buffer) {
                Ok(Step::Data(data)) => Frame::data(data),
                Ok(Step::Trailers(mut trailers)) => {
                    crate::headers::clean_trailers(&mut trailers);
                    Frame::trailers(trailers)
                }
                Ok(Step::Done) => {
                    self.finish();
                    return Poll::Ready(None);
                }
                Ok(Step::More) => match ready!(self.poll_fill(cx)) {
                    Ok(()) => continue,
                    Err(error) => return Poll::Ready(Some(Err(error))),
                },
                Err(_) => return Poll::Ready(Some(Err(io::ErrorKind::InvalidData.into()))),
            };
            self.patience = None;
            if matches!(self.framing, Framing::Done | Framing::Length(0)) {
                self.finish();
            }
            return Poll::Ready(Some(Ok(frame)));
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(source) = self.source.as_mut() else { return Poll::Ready(Ok(())) };
        match source.connection.poll_fill(cx) {
            Poll::Ready(Ok(true)) => Poll::Ready(Ok(())),
            Poll::Ready(Ok(false)) if self.framing == Framing::Close => {
                self.finish();
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(false)) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                let limit = self.local.shared.limits.stream_idle;
                let patience = self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
                ready!(patience.as_mut().poll(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl Body for Answered {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Self { content, end } = &mut *self;
        let frame = ready!(content.poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    end.fields(trailers);
                }
                end.bytes += frame.data_ref().map_or(0, |data| u64::try_from(data.len()).unwrap_or(0));
            }
            Some(Err(error)) => end.broke(error),
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.content.size_hint()
    }
}
