//! A connection that became another protocol's: bytes both ways until one side ends it, or it has to
//! end. Then a WebSocket is closed in its own words, as soon as no frame is under way; anything else
//! is cut.

use std::{cell::Cell, io, pin::pin, rc::Rc, sync::atomic::Ordering::Relaxed, time::Duration};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::Instant,
};

use crate::{
    frames::{self, Frames},
    inbound::Inbound,
    log::{Line, flag},
    release::Lease,
    serve::Local,
    target::Target,
    upstream::{exchange::Source, io::Io},
};

/// Large enough that bulk transfers need few system calls.
const BUFFER: usize = 64 * 1024;
/// How long the client has to close after the instance did, and both when it has to end.
const FAREWELL: Duration = Duration::from_secs(1);

/// Two ends of an upgraded connection.
pub(crate) struct Tunnel {
    pub(crate) local: Rc<Local>,
    pub(crate) inbound: Rc<Inbound>,
    pub(crate) instance: Source,
    /// The place on the instance, held until the end.
    pub(crate) lease: Lease,
    /// What will be logged at its end, if there is a log.
    pub(crate) line: Option<Line>,
    /// Whether WebSocket frames are spoken.
    pub(crate) websocket: bool,
}

impl Tunnel {
    /// Copies until either side ends, nothing moves for too long, or the instance's streams end.
    pub(crate) async fn run(self, client: OnUpgrade) {
        let Self { local, inbound, instance, lease, line, websocket } = self;
        // A connection of HTTP/2 isn't idle meanwhile.
        let busy = Busy::of(&inbound);
        let Ok(client) = client.await else { return };
        let client = TokioIo::new(client);
        let talk = Talk { local, lease, line, websocket };
        match instance {
            Source::Connection { connection, .. } => {
                talk.between(client, Io { wire: connection.wire, first: connection.buffer }).await;
            }
            Source::Stream { on_upgrade: Some(instance), share, .. } => {
                if let Ok(instance) = instance.await {
                    talk.between(client, TokioIo::new(instance)).await;
                }
                drop(share);
            }
            Source::Stream { on_upgrade: None, .. } => {}
        }
        drop(busy);
    }
}

/// A connection that is in use until this is dropped.
struct Busy(Rc<Inbound>);

impl Busy {
    fn of(inbound: &Rc<Inbound>) -> Self {
        inbound.phase.begin();
        Self(Rc::clone(inbound))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.phase.end_now();
    }
}

/// What lasts as long as both sides talk.
struct Talk {
    local: Rc<Local>,
    lease: Lease,
    line: Option<Line>,
    websocket: bool,
}

impl Talk {
    async fn between(self, client: impl AsyncRead + AsyncWrite, instance: impl AsyncRead + AsyncWrite) {
        let (read, write) = tokio::io::split(client);
        let (from, to) = tokio::io::split(instance);
        let target = self.lease.target();
        let moved = Moved::default();
        let end = || Ending { target, frames: self.websocket.then(Frames::default) };
        let up = upwards(read, to, &moved, end());
        let down = downwards(from, write, &moved, end());
        let talk = async {
            let (mut up, mut down) = (pin!(up), pin!(down));
            tokio::select! {
                // What the client still sends is taken, so that it can read to the end.
                _ = &mut down => drop(tokio::time::timeout(FAREWELL, up).await),
                // After an error it is cut.
                sent = &mut up => if sent.is_ok() { drop(down.await) },
            }
        };
        let ended = async {
            target.streams_end().await;
            tokio::time::sleep(FAREWELL).await;
        };
        tokio::select! {
            () = talk => {}
            () = ended => {}
            () = moved.stands_still(self.local.shared.limits.stream_idle) => {}
        }
        if let Some(mut line) = self.line {
            (line.bytes, line.received) = (moved.down.get(), moved.up.get());
            line.flag = target.must_streams_end().then_some(flag::STREAM_ENDED);
        }
        if target.must_streams_end() {
            self.local.shared.totals.streams_ended.fetch_add(1, Relaxed);
        }
    }
}

/// When something moved last, and how many bytes did each way.
struct Moved {
    at: Cell<Instant>,
    up: Cell<u64>,
    down: Cell<u64>,
}

impl Default for Moved {
    fn default() -> Self {
        Self { at: Cell::new(Instant::now()), up: Cell::new(0), down: Cell::new(0) }
    }
}

impl Moved {
    fn note(&self, bytes: &Cell<u64>, length: usize) {
        self.at.set(Instant::now());
        bytes.set(bytes.get() + u64::try_from(length).unwrap_or(0));
    }

    async fn stands_still(&self, limit: Duration) {
        while self.at.get().elapsed() < limit {
            tokio::time::sleep_until(self.at.get() + limit).await;
        }
    }
}

/// How one direction comes to its end before its sender wants it.
struct Ending<'a> {
    target: &'a Target,
    /// `None`: what is spoken has no such end.
    frames: Option<Frames>,
}

/// What is to be done next in one direction.
enum Next {
    /// Pass this many bytes on.
    Pass(usize),
    /// It is time to end, and now is a good moment.
    End,
}

impl Ending<'_> {
    /// Looks at what came next.
    fn next(&mut self, bytes: &[u8]) -> Next {
        let ends = self.target.must_streams_end();
        match &mut self.frames {
            None if ends => Next::End,
            Some(frames) if ends && frames.is_between() => Next::End,
            Some(frames) if ends => Next::Pass(frames.pass_one(bytes)),
            Some(frames) => {
                frames.pass(bytes);
                Next::Pass(bytes.len())
            }
            None => Next::Pass(bytes.len()),
        }
    }

    /// Whether this is a moment to end: the rest of a frame comes first.
    fn may_end(&self) -> bool {
        self.frames.as_ref().is_none_or(Frames::is_between)
    }

    /// Whether a close frame is to be said: not after one.
    fn closes(&self) -> bool {
        self.frames.as_ref().is_some_and(|frames| !frames.is_closed())
    }
}

async fn upwards(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: &Moved,
    mut ending: Ending<'_>,
) -> io::Result<()> {
    let mut buffer = vec![0_u8; BUFFER];
    let copied = async {
        let mut ends = pin!(ending.target.streams_end());
        loop {
            let length = tokio::select! {
                biased;
                () = &mut ends, if ending.may_end() => break,
                length = from.read(&mut buffer) => length?,
            };
            if length == 0 {
                return io::Result::Ok(());
            }
            let bytes = buffer.get(..length).unwrap_or_default();
            let Next::Pass(length) = ending.next(bytes) else { break };
            to.write_all(bytes.get(..length).unwrap_or_default()).await?;
            to.flush().await?;
            moved.note(&moved.up, length);
        }
        if !ending.closes() {
            return Ok(());
        }
        // The mask needn't be secret: no page chose what it hides.
        to.write_all(&frames::close_to_instance([0x5a; 4])).await?;
        to.flush().await?;
        // The client's own close is its last word.
        let mut said = ending.frames.take().unwrap_or_default();
        while !said.is_closed() {
            let length = from.read(&mut buffer).await?;
            if length == 0 {
                break;
            }
            said.pass(buffer.get(..length).unwrap_or_default());
        }
        Ok(())
    }
    .await;
    // The instance learns that nothing more comes, and may still finish what it has to say.
    copied.and(to.shutdown().await)
}

async fn downwards(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: &Moved,
    mut ending: Ending<'_>,
) -> io::Result<()> {
    let mut buffer = vec![0_u8; BUFFER];
    let mut ends = pin!(ending.target.streams_end());
    loop {
        let length = tokio::select! {
            biased;
            () = &mut ends, if ending.may_end() => break,
            length = from.read(&mut buffer) => length?,
        };
        let bytes = buffer.get(..length).unwrap_or_default();
        if bytes.is_empty() {
            return to.shutdown().await;
        }
        let Next::Pass(length) = ending.next(bytes) else { break };
        to.write_all(bytes.get(..length).unwrap_or_default()).await?;
        to.flush().await?;
        moved.note(&moved.down, length);
    }
    if ending.closes() {
        to.write_all(&frames::close_to_client()).await?;
        to.flush().await?;
    }
    // The instance may say its own farewell, which nobody needs any more.
    while ending.frames.is_some() && from.read(&mut buffer).await? > 0 {}
    to.shutdown().await
}
