//! A request's body on its way to the instance: read only when the instance is there, bounded in
//! size, and in how long its client may pause.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::wire::Wire;
use crate::{headers::Length, waits::Wait};

/// A request's body.
#[derive(Debug)]
pub(crate) struct Upload {
    /// Gone when nobody wants the rest.
    body: RefCell<Option<Incoming>>,
    /// Whether anything of it was taken already: then it can't be sent a second time.
    begun: Cell<bool>,
    /// When the last part of it was passed on.
    progress: Cell<Instant>,
    /// Told whether it is the client or the instance that is waited for.
    wait: RefCell<Option<Rc<Wait>>>,
    /// The most that it may hold.
    bytes_max: u64,
    /// How long the client may pause.
    pause_max: Duration,
    /// Whether it may pause for as long as the answer may: one to the other, both may go on.
    patient: Cell<bool>,
    /// Whether its sender could take more than the client has sent.
    starved: Cell<bool>,
    /// Why it could not be passed on, where its sender isn't who waits for the answer.
    broken: Cell<Option<Broken>>,
    waker: RefCell<Option<Waker>>,
}

/// Why a body could not be passed on whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The client paused for too long.
    Paused,
    /// It holds more than it may.
    TooLarge,
    /// The client is gone, or what it sent is no body.
    Client,
    /// The instance takes no more of it.
    Instance,
}

impl Upload {
    pub(crate) fn new(body: Incoming, bytes_max: u64, pause_max: Duration) -> Rc<Self> {
        Rc::new(Self {
            body: RefCell::new(Some(body)),
            begun: Cell::new(false),
            progress: Cell::new(Instant::now()),
            wait: RefCell::default(),
            bytes_max,
            pause_max,
            patient: Cell::new(false),
            starved: Cell::new(false),
            broken: Cell::new(None),
            waker: RefCell::default(),
        })
    }

    /// An instance gets it.
    pub(crate) fn waits_with(&self, wait: &Rc<Wait>) {
        self.wait.replace(Some(Rc::clone(wait)));
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.begun.get()
    }

    pub(crate) fn progress(&self) -> Instant {
        self.progress.get()
    }

    pub(crate) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// The answer has begun: from now on it is what shows whether something still happens.
    pub(crate) fn be_patient(&self) {
        self.patient.set(true);
    }

    pub(crate) fn fail(&self, broken: Broken) {
        self.broken.set(Some(broken));
    }

    /// Whether it is the client that is waited for, which has its own time.
    pub(crate) fn is_starved(&self) -> bool {
        self.starved.get()
    }

    /// Why it could not be passed on whole.
    pub(crate) fn broken(&self) -> Option<Broken> {
        self.broken.get()
    }

    /// Nobody wants the rest.
    pub(crate) fn stop(&self) {
        self.body.take();
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Whether all of it was taken.
    pub(crate) fn is_over(&self) -> bool {
        self.body.borrow().as_ref().is_none_or(Body::is_end_stream)
    }

    /// The next part, or the trailers. `pause` is the sender's own.
    pub(crate) fn poll_next(
        &self,
        cx: &mut Context<'_>,
        pause: &mut Option<Pin<Box<Sleep>>>,
    ) -> Poll<Result<Option<Frame<Bytes>>, Broken>> {
        self.begun.set(true);
        let polled = match self.body.borrow_mut().as_mut() {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => return Poll::Ready(Err(Broken::Instance)),
        };
        let wait = self.wait.borrow();
        self.starved.set(polled.is_pending());
        let Poll::Ready(next) = polled else {
            wait.as_deref().inspect(|wait| wait.pause());
            self.waker.replace(Some(cx.waker().clone()));
            let pause = pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.pause_max)));
            ready!(pause.as_mut().poll(cx));
            return if self.patient.get() { Poll::Pending } else { Poll::Ready(Err(Broken::Paused)) };
        };
        wait.as_deref().inspect(|wait| wait.resume());
        *pause = None;
        self.progress.set(Instant::now());
        Poll::Ready(next.transpose().map_err(|_| Broken::Client))
    }

    /// Passes all of it on.
    pub(crate) async fn send(self: Rc<Self>, wire: Wire, length: Length) -> Result<(), Broken> {
        let mut left = self.bytes_max;
        while let Some(data) = self.next().await? {
            let size = u64::try_from(data.len()).unwrap_or(u64::MAX);
            left = left.checked_sub(size).ok_or(Broken::TooLarge)?;
            if data.is_empty() {
                continue;
            }
            if length == Length::Chunked {
                self.write(&wire, format!("{size:x}\r\n").as_bytes()).await?;
            }
            self.write(&wire, &data).await?;
            if length == Length::Chunked {
                self.write(&wire, b"\r\n").await?;
            }
        }
        if length == Length::Chunked {
            self.write(&wire, b"0\r\n\r\n").await?;
        }
        Ok(())
    }

    async fn write(&self, wire: &Wire, bytes: &[u8]) -> Result<(), Broken> {
        wire.write_all(bytes).await.map_err(|_| Broken::Instance)?;
        self.progress.set(Instant::now());
        Ok(())
    }

    /// The next part; trailers are left out.
    async fn next(&self) -> Result<Option<Bytes>, Broken> {
        self.begun.set(true);
        let wait = self.wait.borrow().clone();
        let wait = wait.as_deref();
        wait.inspect(|wait| wait.pause());
        let next = self.frame().await;
        wait.inspect(|wait| wait.resume());
        next
    }

    async fn frame(&self) -> Result<Option<Bytes>, Broken> {
        let mut pause = pin!(tokio::time::sleep(self.pause_max));
        std::future::poll_fn(|cx| {
            loop {
                let frame = match self.body.borrow_mut().as_mut() {
                    Some(body) => Pin::new(body).poll_frame(cx),
                    None => return Poll::Ready(Err(Broken::Instance)),
                };
                let frame = match frame {
                    Poll::Ready(frame) => frame,
                    Poll::Pending => {
                        return pause.as_mut().poll(cx).map(|()| Err(Broken::Paused));
                    }
                };
                match frame {
                    None => return Poll::Ready(Ok(None)),
                    Some(Err(_)) => return Poll::Ready(Err(Broken::Client)),
                    Some(Ok(frame)) => {
                        if let Ok(data) = frame.into_data() {
                            return Poll::Ready(Ok(Some(data)));
                        }
                    }
                }
            }
        })
        .await
    }
}
