//! A request's body on its way to the instance: read only when the instance is there, bounded in
//! size, and in how long its client may pause.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    pin::{Pin, pin},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use http_body::Body;
use hyper::body::Incoming;
use tokio::{net::TcpStream, time::Instant};

use super::connection::write_all;
use crate::{headers::Length, waits::Wait};

/// A request's body.
#[derive(Debug)]
pub(crate) struct Upload {
    body: RefCell<Incoming>,
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
}

/// Why a body could not be passed on whole.
#[derive(Debug)]
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
            body: RefCell::new(body),
            begun: Cell::new(false),
            progress: Cell::new(Instant::now()),
            wait: RefCell::default(),
            bytes_max,
            pause_max,
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

    /// Passes all of it on.
    pub(crate) async fn send(self: Rc<Self>, stream: Rc<TcpStream>, length: Length) -> Result<(), Broken> {
        let mut left = self.bytes_max;
        while let Some(data) = self.next().await? {
            let size = u64::try_from(data.len()).unwrap_or(u64::MAX);
            left = left.checked_sub(size).ok_or(Broken::TooLarge)?;
            if data.is_empty() {
                continue;
            }
            if length == Length::Chunked {
                self.write(&stream, format!("{size:x}\r\n").as_bytes()).await?;
            }
            self.write(&stream, &data).await?;
            if length == Length::Chunked {
                self.write(&stream, b"\r\n").await?;
            }
        }
        if length == Length::Chunked {
            self.write(&stream, b"0\r\n\r\n").await?;
        }
        Ok(())
    }

    async fn write(&self, stream: &TcpStream, bytes: &[u8]) -> Result<(), Broken> {
        write_all(stream, bytes).await.map_err(|_| Broken::Instance)?;
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
                let frame = Pin::new(&mut *self.body.borrow_mut()).poll_frame(cx);
                let frame = match frame {
                    std::task::Poll::Ready(frame) => frame,
                    std::task::Poll::Pending => {
                        return pause.as_mut().poll(cx).map(|()| Err(Broken::Paused));
                    }
                };
                match frame {
                    None => return std::task::Poll::Ready(Ok(None)),
                    Some(Err(_)) => return std::task::Poll::Ready(Err(Broken::Client)),
                    Some(Ok(frame)) => {
                        if let Ok(data) = frame.into_data() {
                            return std::task::Poll::Ready(Ok(Some(data)));
                        }
                    }
                }
            }
        })
        .await
    }
}
