//! HTTP/2 to instances, by prior knowledge (RFC 9113, 3.3): few connections for each edge thread and
//! instance, shared by many requests.
//!
//! Kept by the target's serial number, as the others are. Invariant: a link that is in no pool any
//! more is used by those who have it, and closed when the last of them is through.

pub(crate) mod exchange;
pub(crate) mod outgoing;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    future::poll_fn,
    io,
    pin::Pin,
    rc::{Rc, Weak},
    time::Duration,
};

use bytes::BytesMut;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use minato_identity::client::Distrust;
use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::net::TcpStream;

use self::outgoing::Outgoing;
use super::{connection::Connection, exchange::Failure, io::Io, session::Failed, wire::Wire};
use crate::{
    clock::{Clock, Micros, micros},
    config::Limits,
    serve::http2::Here,
    target::Target,
};

/// Requests at once on one connection; more get another one.
const STREAMS: usize = 64;
/// What an instance may send ahead of what its client takes. A client that takes nothing holds up to
/// this much, so there is room for all streams of a connection to be held.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * 64;
/// What is sent ahead of what the instance takes, for each stream.
const SEND_AHEAD: usize = 64 * 1024;
/// An instance that is there but dead is found out while requests wait for it.
const PING: Duration = Duration::from_secs(20);
const PONG: Duration = Duration::from_secs(10);

type Driver = http2::Connection<TokioIo<Io>, Outgoing, Here>;

/// The connections of one edge thread.
#[derive(Debug)]
pub(crate) struct Links {
    clock: Clock,
    idle_max: Micros,
    head_max: u32,
    targets: RefCell<BTreeMap<u64, Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Those that new requests may use.
    links: Vec<Rc<Link>>,
    /// All, for cutting them.
    all: Vec<Weak<TcpStream>>,
}

/// A connection.
pub(crate) struct Link {
    sender: SendRequest<Outgoing>,
    driver: Weak<RefCell<Pin<Box<Driver>>>>,
    stream: Weak<TcpStream>,
    /// What was wrong with its session, if it is over TLS.
    session: Option<Failed>,
    clock: Clock,
    /// Requests that it carries.
    carries: Cell<usize>,
    /// Whether it has carried one that ended.
    reused: Cell<bool>,
    idle_since: Cell<Micros>,
}

/// A request's part of a link.
#[derive(Debug)]
pub(crate) struct Share(Rc<Link>);

impl Links {
    pub(crate) fn new(clock: Clock, limits: &Limits) -> Self {
        Self {
            clock,
            idle_max: micros(limits.pool_idle),
            head_max: u32::try_from(limits.head_bytes).unwrap_or(u32::MAX),
            targets: RefCell::default(),
        }
    }

    /// A part of a connection that is there; `surely`: for a request that can't be repeated.
    pub(crate) fn take(&self, target: &Target, surely: bool) -> Option<Share> {
        let mut targets = self.targets.borrow_mut();
        let links = &mut targets.get_mut(&target.serial)?.links;
        links.retain(|link| link.is_alive(surely));
        links.iter().find(|link| link.has_room()).map(Share::new)
    }

    /// A part of a new one.
    pub(crate) async fn open(&self, target: &Target, within: Duration) -> io::Result<Share> {
        let wire = Connection::open(target, within).await?.wire;
        self.begin(target, wire).await
    }

    /// The same over a wire that is there.
    pub(crate) async fn begin(&self, target: &Target, wire: Wire) -> io::Result<Share> {
        let (stream, secured) = (Rc::clone(&wire.stream), wire.failed());
        let io = Io { wire, first: BytesMut::new() };
        let handshake = http2::Builder::new(Here)
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(self.head_max)
            .max_send_buf_size(SEND_AHEAD)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PONG)
            .handshake(TokioIo::new(io));
        let (sender, driver) = handshake.await.map_err(io::Error::other)?;
        let driver = Rc::new(RefCell::new(Box::pin(driver)));
        let link = Rc::new(Link {
            sender,
            driver: Rc::downgrade(&driver),
            stream: Rc::downgrade(&stream),
            session: secured,
            clock: self.clock,
            carries: Cell::new(0),
            reused: Cell::new(false),
            idle_since: Cell::new(0),
        });
        // It ends with the connection, or when nobody has a part of it any more.
        drop(tokio::task::spawn_local(async move {
            drop(poll_fn(|cx| driver.borrow_mut().as_mut().poll(cx)).await);
        }));
        let share = Share::new(&link);
        let mut targets = self.targets.borrow_mut();
        let kept = targets.entry(target.serial).or_default();
        kept.all.retain(|stream| stream.strong_count() > 0);
        kept.all.push(Rc::downgrade(&stream));
        if !target.is_withdrawn() {
            kept.links.push(link);
        }
        Ok(share)
    }

    /// How many connections there are, in use or kept.
    pub(crate) fn open_now(&self) -> usize {
        let alive = |kept: &Kept| kept.all.iter().filter(|stream| stream.strong_count() > 0).count();
        self.targets.borrow().values().map(alive).sum()
    }

    /// Gives no more of the target's connections away: they close when what they carry has ended.
    pub(crate) fn withdraw(&self, serial: u64) {
        if let Some(kept) = self.targets.borrow_mut().get_mut(&serial) {
            kept.links.clear();
        }
    }

    /// Cuts all, used or not.
    pub(crate) fn cut(&self, serial: u64) {
        let kept = self.targets.borrow_mut().remove(&serial).unwrap_or_default();
        for stream in kept.all.iter().filter_map(Weak::upgrade) {
            // An error says that it was cut already.
            drop(socket2::SockRef::from(&*stream).shutdown(std::net::Shutdown::Both));
        }
    }

    /// Closes what has been unused for too long. Called from time to time.
    pub(crate) fn sweep(&self) {
        let oldest = self.clock.now().saturating_sub(self.idle_max);
        self.targets.borrow_mut().retain(|_, kept| {
            kept.links.retain(|link| link.is_alive(false) && !link.is_idle_since(oldest));
            kept.all.retain(|stream| stream.strong_count() > 0);
            !kept.all.is_empty()
        });
    }
}

impl Link {
    /// Whether it may be used, as far as was noticed by now; `surely` asks the kernel whether the
    /// instance has closed it.
    fn is_alive(&self, surely: bool) -> bool {
        if self.sender.is_closed() {
            return false;
        }
        let Some(stream) = self.stream.upgrade().filter(|_| surely) else { return !surely };
        let mut asked = [PollFd::new(&*stream, PollFlags::RDHUP)];
        matches!(rustix::event::poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
    }

    fn has_room(&self) -> bool {
        let most = self.driver.upgrade().map_or(0, |driver| driver.borrow().current_max_send_streams());
        self.carries.get() < most.min(STREAMS)
    }

    fn is_idle_since(&self, oldest: Micros) -> bool {
        self.carries.get() == 0 && self.idle_since.get() < oldest
    }

    /// Whether the instance takes an extended CONNECT (RFC 8441, 3), as far as it has told.
    fn takes_connect(&self) -> bool {
        self.driver.upgrade().is_some_and(|driver| driver.borrow().is_extended_connect_protocol_enabled())
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("carries", &self.carries).finish_non_exhaustive()
    }
}

impl Share {
    fn new(link: &Rc<Link>) -> Self {
        link.carries.set(link.carries.get() + 1);
        Self(Rc::clone(link))
    }

    /// Whether others have been carried before: the instance may have closed it since.
    pub(crate) fn is_reused(&self) -> bool {
        self.0.reused.get()
    }

    /// What will be known of why the instance refused the edge, should it do so.
    pub(crate) fn refusal(&self) -> Refusal {
        Refusal(self.0.session.clone().filter(|_| !self.is_reused()))
    }

    /// How its requests are said to come (RFC 9113, 8.3.1).
    pub(crate) fn scheme(&self) -> &'static str {
        if self.0.session.is_some() { "https" } else { "http" }
    }

    /// Resolves with whether the instance takes an extended CONNECT, when it has told.
    pub(crate) async fn takes_connect(&self, within: Duration) -> bool {
        let told = async {
            while !self.0.takes_connect() {
                // Its settings are its first word, and nobody else tells when they are there.
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(within, told).await.is_ok()
    }
}

/// Why an instance refused the edge. In TLS 1.3 that is heard only with what should be an answer.
#[derive(Debug)]
pub(crate) struct Refusal(Option<Failed>);

impl Refusal {
    /// That, if it is why a request failed.
    pub(crate) fn or(&self, failure: Failure) -> Failure {
        let distrust = self.0.as_ref().and_then(|session| Distrust::in_alert(session.get()?));
        match (failure, distrust) {
            (Failure::Broke { .. }, Some(distrust)) => Failure::Distrusted(distrust),
            (failure, _) => failure,
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let link = &self.0;
        link.carries.set(link.carries.get().saturating_sub(1));
        link.reused.set(true);
        link.idle_since.set(link.clock.recent());
    }
}
