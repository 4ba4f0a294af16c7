//! One request and the head of its answer, over one connection to an instance.

use std::{future::Future, io, pin::Pin, rc::Rc, task::Poll, time::Duration};

use http::{HeaderMap, Method, StatusCode};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use minato_identity::client::Distrust;
use tokio::time::Instant;

use super::{
    connection::Connection,
    framing::Framing,
    head::{self, Head},
    http2::Share,
    upload::{Broken, Upload},
};
use crate::{grpc, headers::Length};

/// A request as it is sent.
pub(crate) struct Message<'a> {
    pub(crate) method: &'a Method,
    /// Its head.
    pub(crate) head: &'a [u8],
    pub(crate) body: Option<(&'a Rc<Upload>, Length)>,
    /// Whether it may be answered by a change of protocol.
    pub(crate) upgrade: bool,
    /// Until the answer's head, counted from here or from the body's last part.
    pub(crate) deadline: Instant,
    pub(crate) head_max: usize,
}

/// The body on its way, which may last beyond the answer's head.
pub(crate) type Sending = Pin<Box<dyn Future<Output = Result<(), Broken>>>>;

/// An answer has begun.
pub(crate) struct Begun {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) source: Source,
}

/// Where an answer's body comes from.
pub(crate) enum Source {
    /// A connection of its own.
    Connection {
        connection: Connection,
        framing: Framing,
        /// Whether it can carry another request after the body.
        keep: bool,
        /// What is left of the request's body.
        sending: Option<Sending>,
    },
    /// A stream of HTTP/2.
    Stream {
        body: Incoming,
        share: Share,
        upload: Option<Rc<Upload>>,
        /// What it became, where it was to become something else.
        on_upgrade: Option<OnUpgrade>,
    },
}

impl Begun {
    /// Whether another protocol follows.
    pub(crate) fn switches(&self) -> bool {
        match &self.source {
            Source::Connection { .. } => self.status == StatusCode::SWITCHING_PROTOCOLS,
            Source::Stream { on_upgrade, .. } => on_upgrade.is_some(),
        }
    }

    /// The status as the instance is judged by it: a call of gRPC fails with 200.
    pub(crate) fn judged(&self) -> StatusCode {
        let called = matches!(self.source, Source::Stream { .. }) && self.status == StatusCode::OK;
        let unavailable = called && grpc::is_unavailable(&self.headers);
        if unavailable { StatusCode::SERVICE_UNAVAILABLE } else { self.status }
    }
}

/// Why no answer began.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The connection ended before anything arrived.
    Broke {
        /// It had carried requests before: the instance may have closed it while it was unused.
        reused: bool,
        /// Something of the request may have reached the instance.
        sent: bool,
    },
    /// What arrived is no answer.
    NoAnswer,
    /// Nothing arrived in time.
    Late,
    /// The client's body broke off.
    Client(Broken),
    /// The instance takes no WebSocket.
    NoUpgrade,
    /// The instance doesn't take the edge for what it is, and has looked at nothing.
    Distrusted(Distrust),
}

/// Interim answers to one request that are read before it is given up: none is passed on.
const INTERIM_MAX: u32 = 100;

/// What comes next on the way to the head.
enum Event {
    Filled(io::Result<bool>),
    Sent(Result<(), Broken>),
    Late,
}

/// Sends a request and waits for the head of its answer.
pub(crate) async fn exchange(mut connection: Connection, message: &Message<'_>) -> Result<Begun, Failure> {
    let reused = connection.reused;
    let wire = connection.wire.clone();
    // Mostly the kernel takes it at once. The instance may take long to read, or may have answered and gone
    // before it has read all.
    let first = wire.write_first(message.head);
    if let Some(rest) = message.head.get(first..).filter(|rest| !rest.is_empty() || wire.is_due()) {
        match tokio::time::timeout_at(message.deadline, wire.write_all(rest)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let broke = Failure::Broke { reused, sent: first > 0 };
                return Err(refusal(&error, reused).map_or(broke, Failure::Distrusted));
            }
            Err(_) => return Err(Failure::Late),
        }
    }
    let mut deadline = message.deadline;
    let mut interim = 0;
    let mut budget = Duration::ZERO;
    let mut sending: Option<Sending> = message.body.map(|(upload, length)| {
        budget = deadline.saturating_duration_since(Instant::now());
        Box::pin(Rc::clone(upload).send(wire.clone(), length)) as Sending
    });
    loop {
        if let Some(head) = next_head(&mut connection, message, &mut interim)? {
            if let Framing::Length(length) = head.framing {
                connection.expect(length);
            }
            let Head { status, headers, framing, keep } = head;
            return Ok(Begun {
                status,
                headers,
                source: Source::Connection { connection, framing, keep, sending },
            });
        }
        let empty = connection.buffer.is_empty();
        let event = std::future::poll_fn(|cx| {
            if let Poll::Ready(filled) = connection.poll_fill(cx) {
                return Poll::Ready(Event::Filled(filled));
            }
            if let Some(Poll::Ready(sent)) = sending.as_mut().map(|sending| sending.as_mut().poll(cx)) {
                return Poll::Ready(Event::Sent(sent));
            }
            connection.poll_alarm(deadline, cx).map(|()| Event::Late)
        });
        match event.await {
            Event::Filled(Ok(true)) => {}
            Event::Filled(filled @ (Ok(false) | Err(_))) if empty => {
                // In TLS 1.3 the edge hears only now what came of its own part of the handshake.
                let distrust = filled.err().and_then(|error| refusal(&error, reused));
                let broke = Failure::Broke { reused, sent: true };
                return Err(distrust.map_or(broke, Failure::Distrusted));
            }
            Event::Filled(Ok(false) | Err(_)) => return Err(Failure::NoAnswer),
            Event::Sent(sent) => {
                sending = None;
                match sent {
                    // It may have answered before it stopped reading.
                    Ok(()) | Err(Broken::Instance) => deadline = Instant::now() + budget,
                    Err(broken) => return Err(Failure::Client(broken)),
                }
            }
            Event::Late => {
                // While the body moves there is no reason to expect an answer.
                let moved = message.body.map(|(upload, _)| upload.progress() + budget);
                match moved.filter(|moved| *moved > Instant::now()) {
                    Some(moved) => deadline = moved,
                    None => return Err(Failure::Late),
                }
            }
        }
    }
}

/// Whether a connection that carried nothing before broke because the instance refuses the edge.
fn refusal(error: &io::Error, reused: bool) -> Option<Distrust> {
    if reused { None } else { Distrust::in_io(error) }
}

/// The final head, if it has arrived. Interim ones are dropped: hyper's server sends its own 100.
fn next_head(
    connection: &mut Connection,
    message: &Message<'_>,
    interim: &mut u32,
) -> Result<Option<Head>, Failure> {
    loop {
        if connection.buffer.is_empty() {
            return Ok(None);
        }
        let head = head::parse(&mut connection.buffer, message.method).map_err(|_| Failure::NoAnswer)?;
        match head {
            None if connection.buffer.len() >= message.head_max => return Err(Failure::NoAnswer),
            None => return Ok(None),
            Some(head) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
                return if message.upgrade { Ok(Some(head)) } else { Err(Failure::NoAnswer) };
            }
            Some(head) if head.status.is_informational() => {
                *interim += 1;
                if *interim > INTERIM_MAX {
                    return Err(Failure::NoAnswer);
                }
            }
            Some(head) => return Ok(Some(head)),
        }
    }
}
