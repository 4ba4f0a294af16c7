//! A netlink socket: requests that go out together and their acknowledgements, or one dump, each
//! bounded in size and in time.

mod message;

use std::{io, time::Duration};

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    io::Errno,
    net::{
        AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink,
        recv, sendto, socket_with, sockopt,
    },
    thread::{NanosleepRelativeResult, Timespec, nanosleep},
};

pub(crate) use message::{Attributes, Messages, attribute, attributes, network_number, number, text};
use message::{Received, received};

/// The kernel answers at once; what takes longer than this is a fault, and must not hang the keeper.
const PATIENCE: Duration = Duration::from_secs(5);
/// What one acknowledgement, which repeats the request that it refuses, or one answer has at most.
const ANSWER: usize = 8 * 1024;
/// What one datagram of a dump has at most.
const DATAGRAM: usize = 32 * 1024;
/// How often a list is asked for that changes while it is read: with the pauses between, some three
/// seconds, as another node on this machine may start hundreds of instances meanwhile.
const DUMPS: u32 = 60;
/// The longest pause between two of them; the first is a sixteenth of it.
const DUMP_PAUSE: Duration = Duration::from_millis(64);

const ERROR: u16 = 2;
const DONE: u16 = 3;
const DUMP_INTERRUPTED: u16 = 0x10;

/// Asks for all there is.
pub(crate) const DUMP: u16 = 0x300;
/// Makes what isn't there.
pub(crate) const CREATE: u16 = 0x400;
/// Refuses if it is there.
pub(crate) const EXCLUSIVE: u16 = 0x200;
/// Replaces what is there.
pub(crate) const REPLACE: u16 = 0x100;
/// Puts it behind what is there.
pub(crate) const APPEND: u16 = 0x800;

/// Why the kernel wasn't reached, or what it refused.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// A system call failed.
    #[error("netlink: could not {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The kernel refused a request.
    #[error("the kernel refused to {what}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// Its answer.
        source: io::Error,
    },
    /// A request doesn't fit, or an answer isn't whole.
    #[error("netlink: {0}")]
    Malformed(&'static str),
}

impl NetlinkError {
    fn system(action: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::System { action, source: errno.into() }
    }

    /// What was refused, and with which number.
    pub(crate) fn refused(&self) -> Option<(&'static str, Errno)> {
        match self {
            Self::Refused { what, source } => Some((what, Errno::from_io_error(source)?)),
            Self::System { .. } | Self::Malformed(_) => None,
        }
    }

    /// Whether the kernel refused for this reason.
    pub(crate) fn is(&self, errno: Errno) -> bool {
        self.refused().is_some_and(|(_, found)| found == errno)
    }
}

/// A netlink socket in the namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Socket {
    socket: OwnedFd,
    next: u32,
}

impl Socket {
    /// Opens a socket to a part of the kernel; none is the one for routes.
    pub(crate) fn open(protocol: Option<Protocol>) -> Result<Self, NetlinkError> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
            .map_err(NetlinkError::system("open a socket"))?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))
            .map_err(NetlinkError::system("bound the wait for answers"))?;
        Ok(Self { socket, next: 1 })
    }

    /// Sends the requests together and takes all acknowledgements. All are tried; the error is the
    /// first refusal.
    pub(crate) fn exchange(&mut self, messages: Messages) -> Result<(), NetlinkError> {
        let first = self.next;
        let (bytes, requests) = messages
            .numbered(first)
            .map_err(|_| NetlinkError::Malformed("the requests are too long to be sent together"))?;
        self.send(&bytes, requests.len())?;
        let mut waiting = requests.iter().filter(|r| r.acknowledged).count();
        let mut refusal = None;
        let mut buffer = [0; ANSWER];
        while waiting > 0 {
            let datagram = self.receive(&mut buffer)?;
            for answer in received(datagram) {
                let Some(request) = index(answer.number, first).and_then(|at| requests.get(at)) else {
                    continue;
                };
                if answer.kind != ERROR {
                    continue;
                }
                waiting = waiting.saturating_sub(usize::from(request.acknowledged));
                if let Some(errno) = errno(answer) {
                    refusal.get_or_insert((request.what, errno));
                    if !request.acknowledged {
                        // A batch that isn't even begun: nothing else will be answered.
                        waiting = 0;
                    }
                }
            }
        }
        match refusal {
            Some((what, errno)) => Err(NetlinkError::Refused { what, source: errno.into() }),
            None => Ok(()),
        }
    }

    /// Sends one request and gives its answer: the payload of the first message that isn't an
    /// acknowledgement.
    pub(crate) fn ask<T>(
        &mut self,
        messages: Messages,
        mut read: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, NetlinkError> {
        let mut found = None;
        self.answers(messages, &mut [0; ANSWER], |payload| found = found.take().or_else(|| read(payload)))?;
        Ok(found)
    }

    /// Sends a request for all there is; `request` is built anew when a change interrupted the dump,
    /// and what was read until then is dropped.
    pub(crate) fn dump<T>(
        &mut self,
        request: impl Fn(&mut Messages),
        mut read: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        let mut buffer = vec![0; DATAGRAM];
        for tried in 0..DUMPS {
            if tried > 0 {
                let pause = DUMP_PAUSE / (1 << 5_u32.saturating_sub(tried).min(4));
                let pause = Timespec { tv_sec: 0, tv_nsec: i64::from(pause.subsec_nanos()) };
                // A signal may cut it short: then the next try comes sooner.
                let (NanosleepRelativeResult::Ok
                | NanosleepRelativeResult::Interrupted(_)
                | NanosleepRelativeResult::Err(_)) = nanosleep(&pause);
            }
            let mut messages = Messages::default();
            request(&mut messages);
            let mut all = Vec::new();
            if self.answers(messages, &mut buffer, |payload| all.extend(read(payload)))? {
                return Ok(all);
            }
        }
        Err(NetlinkError::Malformed("what was listed kept changing"))
    }

    /// Reads until the acknowledgement or the end of the dump. Says whether the answer is consistent.
    fn answers(
        &mut self,
        messages: Messages,
        buffer: &mut [u8],
        mut each: impl FnMut(&[u8]),
    ) -> Result<bool, NetlinkError> {
        let first = self.next;
        let (bytes, requests) =
            messages.numbered(first).map_err(|_| NetlinkError::Malformed("the request is too long"))?;
        self.send(&bytes, requests.len())?;
        let mut consistent = true;
        loop {
            let datagram = self.receive(buffer)?;
            for answer in received(datagram) {
                let Some(request) = index(answer.number, first).and_then(|at| requests.get(at)) else {
                    continue;
                };
                consistent &= answer.flags & DUMP_INTERRUPTED == 0;
                match answer.kind {
                    DONE | ERROR => {
                        return match errno(answer) {
                            Some(errno) => {
                                Err(NetlinkError::Refused { what: request.what, source: errno.into() })
                            }
                            None => Ok(consistent),
                        };
                    }
                    _ => each(answer.payload),
                }
            }
        }
    }

    fn send(&mut self, bytes: &[u8], requests: usize) -> Result<(), NetlinkError> {
        // Numbers stay unique on this socket, so that a late answer is never taken for another's.
        let requests = u32::try_from(requests).unwrap_or(u32::MAX);
        self.next = self.next.wrapping_add(requests).max(1);
        let kernel = SocketAddrNetlink::new(0, 0);
        let sent = sendto(&self.socket, bytes, SendFlags::empty(), &kernel)
            .map_err(NetlinkError::system("send a request"))?;
        if sent == bytes.len() { Ok(()) } else { Err(NetlinkError::Malformed("a request was cut")) }
    }

    fn receive<'a>(&self, buffer: &'a mut [u8]) -> Result<&'a [u8], NetlinkError> {
        let length = loop {
            match recv(&self.socket, &mut *buffer, RecvFlags::TRUNC) {
                Err(Errno::INTR) => {}
                other => break other.map_err(NetlinkError::system("receive an answer"))?.1,
            }
        };
        buffer.get(..length).ok_or(NetlinkError::Malformed("an answer is too long"))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Which request a number belongs to.
fn index(number: u32, first: u32) -> Option<usize> {
    usize::try_from(number.wrapping_sub(first)).ok()
}

/// The error that an acknowledgement or the end of a dump carries.
fn errno(answer: Received<'_>) -> Option<Errno> {
    let code = number(answer.payload, 0)?.cast_signed();
    (code < 0).then(|| Errno::from_raw_os_error(code.saturating_neg()))
}
