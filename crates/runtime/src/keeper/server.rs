//! The server as the keeper sees it: requests in, and a queue of what goes out. The keeper never
//! waits for a server that doesn't read: both would wait for each other.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{RecvFlags, SendFlags},
};

use super::protocol::{Reply, Request};
use crate::wire;

/// More than this is a server that has stopped reading: 1,024 sandboxes say a few things each.
const QUEUE_MAX: usize = 16_384;

/// A connection.
#[derive(Debug)]
pub(super) struct Server {
    socket: OwnedFd,
    queue: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    /// Whether the loop waits for room to send.
    waiting: bool,
    /// What is spoken since it has said hello: before, it is told nothing.
    pub version: Option<u32>,
}

impl Server {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket, queue: VecDeque::new(), waiting: false, version: None }
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// One request and its blob; `None`: there is none now.
    pub(super) fn receive(&self) -> io::Result<Option<(Request, Vec<u8>)>> {
        match wire::receive(&self.socket, RecvFlags::DONTWAIT) {
            Ok(Some(message)) => {
                let (request, blob) = wire::decode(&message.bytes)?;
                Ok(Some((request, blob.to_vec())))
            }
            Ok(None) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn send(&mut self, reply: &Reply, blob: &[u8], fds: Vec<OwnedFd>) -> io::Result<()> {
        if self.queue.len() >= QUEUE_MAX {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        self.queue.push_back((wire::encode(reply, blob)?, fds));
        self.flush()
    }

    /// Sends what there is room for.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while let Some((bytes, fds)) = self.queue.front() {
            let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            match wire::send(&self.socket, bytes, &borrowed, SendFlags::DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                result => result?,
            }
            self.queue.pop_front();
        }
        Ok(())
    }

    /// Sends the rest before the keeper ends; a second for a server that reads.
    pub(super) fn flush_all(&mut self) {
        let Ok(pause) = Timespec::try_from(Duration::from_millis(10)) else { return };
        for _ in 0..100 {
            if self.flush().is_err() || self.queue.is_empty() {
                return;
            }
            let mut waiting = [PollFd::new(&self.socket, PollFlags::OUT)];
            poll(&mut waiting, Some(&pause)).ok();
        }
    }

    /// Whether room is waited for, if that changed.
    pub(super) fn changed(&mut self) -> Option<bool> {
        let waiting = !self.queue.is_empty();
        (self.waiting != waiting).then(|| {
            self.waiting = waiting;
            waiting
        })
    }
}
