//! A body that arrives in a stream of HTTP/2.

use std::{
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use crate::{
    grpc, headers,
    release::Lease,
    serve::Local,
    upstream::{http2::Share, upload::Upload},
};

/// The body, with what it holds on to until its end.
pub(crate) struct Streamed {
    local: Rc<Local>,
    body: Incoming,
    /// Gone once the body is complete.
    held: Option<Held>,
    /// Resolves when a stream shall end; `None`: it isn't one.
    ending: Option<Pin<Box<dyn Future<Output = ()>>>>,
    /// Whether the end is told as a call's outcome.
    grpc: bool,
    /// Whether it was ended before its time.
    pub(super) cut: bool,
    broken: Option<io::Error>,
    /// Until when something has to move; set while nothing arrives.
    patience: Option<Pin<Box<Sleep>>>,
}

struct Held {
    _lease: Lease,
    _share: Share,
    upload: Option<Rc<Upload>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        // The instance has said all that it will, or the client is gone.
        if let Some(upload) = self.upload.take() {
            upload.stop();
        }
    }
}

impl Streamed {
    /// `stream`: it may last, and ends with its instance; `grpc`: a call's outcome follows it.
    pub(crate) fn new(
        local: Rc<Local>,
        lease: Lease,
        (body, share, upload): (Incoming, Share, Option<Rc<Upload>>),
        stream: bool,
        grpc: bool,
    ) -> Self {
        let ending = (stream && body.size_hint().exact().is_none()).then(|| {
            let target = Arc::clone(lease.target());
            Box::pin(async move { target.streams_end().await }) as Pin<Box<dyn Future<Output = ()>>>
        });
        let held = (!body.is_end_stream()).then_some(Held { _lease: lease, _share: share, upload });
        Self { local, body, held, ending, grpc, cut: false, broken: None, patience: None }
    }

    pub(super) fn is_over(&self) -> bool {
        self.held.is_none()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        if self.is_over() { SizeHint::with_exact(0) } else { self.body.size_hint() }
    }

    /// A break is said at the next poll, as it is in HTTP/1: what arrived before it shall be sent.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
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
        if self.is_over() {
            return Poll::Ready(None);
        }
        if let Some(Poll::Ready(())) = self.ending.as_mut().map(|ending| ending.as_mut().poll(cx)) {
            return Poll::Ready(self.end().map(Ok));
        }
        let Poll::Ready(next) = Pin::new(&mut self.body).poll_frame(cx) else {
            return self.poll_patience(cx).map(|()| Some(Err(io::ErrorKind::TimedOut.into())));
        };
        self.patience = None;
        let frame = match next {
            Some(Ok(frame)) => match frame.into_trailers() {
                Ok(mut trailers) => {
                    headers::clean_trailers(&mut trailers);
                    self.held = None;
                    Frame::trailers(trailers)
                }
                Err(frame) => frame,
            },
            Some(Err(_)) => {
                let client = self.held.as_ref().and_then(|held| held.upload.as_ref()?.broken()).is_some();
                // The request's body broke off: the only error of its kind.
                let kind = if client { io::ErrorKind::Other } else { io::ErrorKind::UnexpectedEof };
                return Poll::Ready(Some(Err(kind.into())));
            }
            None => {
                self.held = None;
                return Poll::Ready(None);
            }
        };
        if self.body.is_end_stream() {
            self.held = None;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    /// The instance is being taken away: the client comes again.
    fn end(&mut self) -> Option<Frame<Bytes>> {
        (self.ending, self.held, self.cut) = (None, None, true);
        self.local.shared.totals.streams_ended.fetch_add(1, Relaxed);
        self.grpc.then(|| {
            let mut trailers = HeaderMap::with_capacity(2);
            grpc::Status::Unavailable.tell("the instance is being taken away", &mut trailers);
            Frame::trailers(trailers)
        })
    }

    /// Resolves when nothing has moved for too long, either way.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.local.shared.limits.stream_idle;
        let patience = self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        loop {
            ready!(patience.as_mut().poll(cx));
            let upload = self.held.as_ref().and_then(|held| held.upload.as_ref());
            match upload.map(|upload| upload.progress() + limit).filter(|until| *until > Instant::now()) {
                Some(until) => patience.as_mut().reset(until),
                None => return Poll::Ready(()),
            }
        }
    }
}
