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
    net::{RecvFlags, SendFlags, Shutdown, shutdown},
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
    /// It can't be told anything any more; what it had sent is still obeyed.
    parted: bool,
    /// What is spoken since it has said hello: before, it is told nothing.
    pub version: Option<u32>,
}

impl Server {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket, queue: VecDeque::new(), waiting: false, parted: false, version: None }
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Nothing more is told to it, and nothing more can be sent by it: what was sent can be received, and
    /// has an end.
    pub(super) fn part(&mut self) {
        self.parted = true;
        self.queue.clear();
        // It can only be closed already.
        shutdown(&self.socket, Shutdown::Read).ok();
    }

    /// One request and its blob; `None`: there is none now.
    pub(super) fn receive(&self) -> io::Result<Option<(Request, Vec<u8>)>> {
        let mut received = wire::receive(&self.socket, RecvFlags::DONTWAIT);
        if matches!(&received, Err(error) if error.kind() == io::ErrorKind::ConnectionReset) {
            // Said once of a server that died with something unread: what it had sent comes after.
            received = wire::receive(&self.socket, RecvFlags::DONTWAIT);
        }
        match received {
            Ok(Some(message)) => {
                let (request, blob) = wire::decode(&message.bytes)?;
                Ok(Some((request, blob.to_vec())))
            }
            Ok(None) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Tells it, now or when there is room; it is parted with if it can't be told.
    pub(super) fn send(&mut self, reply: &Reply, blob: &[u8], fds: Vec<OwnedFd>) {
        if self.parted {
            return;
        }
        match wire::encode(reply, blob) {
            Ok(bytes) if self.queue.len() < QUEUE_MAX => {
                self.queue.push_back((bytes, fds));
                self.flush();
            }
            Ok(_) | Err(_) => self.part(),
        }
    }

    /// Sends what there is room for.
    pub(super) fn flush(&mut self) {
        while let Some((bytes, fds)) = self.queue.front() {
            let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            match wire::send(&self.socket, bytes, &borrowed, SendFlags::DONTWAIT) {
                Ok(()) => drop(self.queue.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.part(),
            }
        }
    }

    /// Sends the rest before the keeper ends; a second for a server that reads.
    pub(super) fn flush_all(&mut self) {
        let Ok(pause) = Timespec::try_from(Duration::from_millis(10)) else { return };
        for _ in 0..100 {
            self.flush();
            if self.queue.is_empty() {
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
