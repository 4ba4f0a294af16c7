//! A request on its way to an instance over TLS: HTTP/2 or HTTP/1.1, as the instance chose.

use std::{rc::Rc, sync::atomic::Ordering::Relaxed};

use minato_identity::client::Distrust;
use minato_model::code::Code;
use tokio::time::Instant;

use super::{Outcome, Stop, Walk};
use crate::{
    answer::Answer,
    headers,
    release::Lease,
    upstream::{
        connection::Connection,
        exchange::{self, Failure, Message},
        http2::{self, Share},
        tls::{self, Offer, OpenError, Opened},
    },
    waits::Wait,
};

/// What a request is sent over.
enum Way {
    Connection(Connection),
    Share(Share),
}

impl Walk<'_> {
    /// Sends the request to an instance, over a connection that was used before if there is one.
    pub(super) async fn exchange_secured(&mut self, lease: &Lease, wait: &Rc<Wait>) -> Result<Outcome, Stop> {
        if let Some((_, distrust)) = self.distrusted.take_if(|(serial, _)| *serial == lease.target().serial) {
            // There is no other one, and this one is as it was.
            return Err(refuse(&distrust));
        }
        if let Some((body, _)) = self.task.body {
            body.waits_with(wait);
        }
        self.task.asked.added.tried.set(self.failures);
        let again = (self.failures > 0).then(|| headers::tried_again(self.task.head, self.failures));
        let offer = if self.task.upgrade { Offer::Http1 } else { Offer::Any };
        let mut kept = self.kept(lease);
        loop {
            let opened = match kept.take() {
                Some(way) => Ok(way),
                // Seldom, and large: not in every request's own state.
                None => Box::pin(self.open(lease, offer)).await?,
            };
            let deadline = self.deadline.max(self.soon());
            let exchanged = match opened {
                Ok(Way::Connection(connection)) => {
                    let message = Message {
                        method: self.task.method,
                        head: again.as_deref().unwrap_or(self.task.head),
                        body: self.task.body,
                        upgrade: self.task.upgrade,
                        deadline,
                        head_max: self.task.local.shared.limits.head_bytes,
                    };
                    exchange::exchange(connection, &message).await
                }
                Ok(Way::Share(share)) => {
                    let message =
                        http2::exchange::Message { asked: self.task.asked, body: self.task.body, deadline };
                    let refusal = share.refusal();
                    http2::exchange::exchange(share, &message).await.map_err(|failure| refusal.or(failure))
                }
                Err(failure) => Err(failure),
            };
            match exchanged {
                Ok(begun) => return Ok(Outcome::Begun(begun)),
                Err(failure) => {
                    if let Some(outcome) = self.failed(lease, &failure)? {
                        return Ok(outcome);
                    }
                }
            }
        }
    }

    /// A connection that is there. A change of protocol has one of its own: HTTP/2 knows only WebSockets, and
    /// few servers know them there.
    fn kept(&self, lease: &Lease) -> Option<Way> {
        let (local, surely) = (self.task.local, !self.task.idempotent);
        let share = || local.links.take(lease.target(), surely).map(Way::Share);
        let connection = || local.pool.take(lease.target(), surely).map(Way::Connection);
        if self.task.upgrade { connection() } else { share().or_else(connection) }
    }

    /// A new one.
    async fn open(&self, lease: &Lease, offer: Offer) -> Result<Result<Way, Failure>, Stop> {
        let (local, target) = (self.task.local, lease.target());
        let Some(client) = &local.shared.credentials else { return Err(unnamed()) };
        let within = local.shared.limits.connect.min(self.left()?);
        let broke = Failure::Broke { reused: false, sent: false };
        let opened = tls::open(client, target, offer, within).await;
        let [full, resumed, failed] = &local.shared.totals.handshakes;
        let counter = opened.as_ref().map_or(failed, |opened| if opened.resumed { resumed } else { full });
        counter.fetch_add(1, Relaxed);
        let Opened { wire, http2, .. } = match opened {
            Ok(opened) => opened,
            Err(OpenError::Refused) => return Err(Stop::Refused),
            Err(OpenError::Broke) => return Ok(Err(broke)),
            // There it may be a WebSocket in a stream, or none. It is no fault of the instance's.
            Err(OpenError::NoHttp1) => return Box::pin(self.open(lease, Offer::Any)).await,
            Err(OpenError::Distrusted(distrust)) => return Ok(Err(Failure::Distrusted(distrust))),
            Err(OpenError::Unnamed) => return Err(unnamed()),
        };
        if http2 {
            let share = local.links.begin(target, wire).await;
            return Ok(share.map(Way::Share).map_err(|_| broke));
        }
        let connection = Connection::over(wire);
        local.pool.opened(target, &connection);
        Ok(Ok(Way::Connection(connection)))
    }

    /// An instance isn't who it should be: nothing of the request was looked at, and nothing more is sent to
    /// it. Another one may be who it should be.
    pub(super) fn distrusted(&mut self, lease: &Lease, distrust: &Distrust) -> Result<Outcome, Stop> {
        lease.distrusted(&distrust.reason);
        let another = lease.release().has_another(lease.target()) && Instant::now() < self.deadline;
        if another && self.may_repeat(false) && self.may_try_again(lease) {
            self.distrusted = Some((lease.target().serial, distrust.clone()));
            return Ok(Outcome::Elsewhere);
        }
        Err(refuse(distrust))
    }
}

fn refuse(distrust: &Distrust) -> Stop {
    Stop::Failed(Answer::new(Code::Upstream, format!("the instance is not trusted: {}", distrust.kind)))
}

/// The edge can't say who it is.
fn unnamed() -> Stop {
    Stop::Answer(Answer::new(Code::Upstream, "the edge has no certificate to show to instances"))
}
