//! The door for TLS: from a connection's first byte to the end of its handshake.

use std::{
    future::poll_fn,
    io,
    net::{IpAddr, Shutdown},
    pin::pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Poll,
};

use bytes::BytesMut;
use minato_model::code::Code;
use rustls::{AlertDescription, server::Acceptor};
use tokio::net::TcpStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::Local;
use crate::{
    answer::Answer,
    inbound::{Entry, Phase, Stream, linger, poll_take},
    tls::{
        Shown,
        session::Session,
        stream::{Ahead, Secure},
    },
};

/// As much as is read at first.
const FIRST_READ: usize = 4096;
/// What every handshake begins with (RFC 8446, 5.1).
const HANDSHAKE: u8 = 22;

/// Why there is no agreement.
enum Failed {
    /// It was said, or there is nobody to say it to.
    Said(io::Error),
    /// It is to be said before TLS begins.
    Say(Vec<u8>),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Said(error)
    }
}

/// Agrees with a client; `None`: nothing comes of it, or it takes too long.
pub(super) async fn agree(
    local: &Rc<Local>,
    stream: &Arc<TcpStream>,
    phase: &Arc<Phase>,
    entry: Entry,
    peer: IpAddr,
) -> Option<(Secure, Session)> {
    let watched = local.vigil.watch(phase);
    let mut handshake = pin!(handshake(local, stream, phase, entry, peer));
    let agreed = poll_fn(|cx| match watched.poll_word(cx) {
        Some(super::Word::Overdue(_)) => Poll::Ready(None),
        // Whoever was taken is answered.
        Some(super::Word::Drain) | None => handshake.as_mut().poll(cx).map(Some),
    });
    let agreed = agreed.await;
    let kind = match &agreed {
        Some(Ok((_, session))) => usize::from(session.resumed),
        Some(Err(_)) | None => 2,
    };
    if let Some(count) = local.shared.totals.at_door.get(kind) {
        count.fetch_add(1, Relaxed);
    }
    match agreed? {
        Ok(agreed) => {
            phase.agreed();
            return Some(agreed);
        }
        Err(Failed::Said(error)) => tracing::debug!(%peer, %error, "no TLS was agreed upon"),
        // Who doesn't take it gets none.
        Err(Failed::Say(bytes)) => drop(stream.try_write(&bytes)),
    }
    // An error says that it is closed already.
    drop(socket2::SockRef::from(&**stream).shutdown(Shutdown::Write));
    linger(stream).await;
    None
}

async fn handshake(
    local: &Rc<Local>,
    stream: &Arc<TcpStream>,
    phase: &Arc<Phase>,
    entry: Entry,
    peer: IpAddr,
) -> Result<(Secure, Session), Failed> {
    let mut first = BytesMut::with_capacity(FIRST_READ);
    poll_fn(|cx| poll_take(stream, phase, cx, &mut first)).await?;
    match first.first() {
        None => return Err(Failed::Said(io::ErrorKind::UnexpectedEof.into())),
        Some(byte) if *byte != HANDSHAKE && byte.is_ascii_uppercase() => {
            let answer = Answer::new(Code::BadRequest, "TLS is spoken here: use https");
            return Err(Failed::Say(answer.to_wire()));
        }
        Some(_) => {}
    }
    let below = Stream { first: first.freeze(), stream: Arc::clone(stream), phase: Arc::clone(phase) };
    let begun = LazyConfigAcceptor::new(Acceptor::default(), Ahead::new(below)).await?;
    let shown = choose(local, stream, entry, &begun).ok_or_else(|| Failed::Say(unknown_name()))?;
    let stream = begun.into_stream(Arc::clone(&shown.config)).await?;
    let session = Session::new(&local.shared, entry, peer, stream.get_ref().1, shown);
    Ok((Secure::new(stream), session))
}

/// What the client is shown; `None`: nothing that is here is meant.
fn choose(local: &Local, stream: &TcpStream, entry: Entry, begun: &StartHandshake<Ahead>) -> Option<Shown> {
    let (shared, hello) = (&local.shared, begun.client_hello());
    let snapshot = shared.snapshot.load();
    let here = || stream.local_addr().map(|address| address.ip().to_canonical()).ok();
    match (entry, hello.server_name()) {
        (Entry::Public { .. }, Some(host)) => match shared.tls.challenged(&hello) {
            Some(config) => Some(Shown { config, roots: None }),
            None => shared.tls.host(&snapshot, host),
        },
        (Entry::Public { .. }, None) => shared.tls.address(here()?),
        // Whoever is there is its service, by whatever name it was found.
        (Entry::Virtual { offset, .. }, _) => match here()? {
            IpAddr::V4(address) => shared.tls.service(&snapshot.at(offset)?.key, address),
            IpAddr::V6(_) => None,
        },
        (Entry::Outer { .. }, _) => None,
    }
}

/// The name isn't known (RFC 6066, 3), as it is said before anything was agreed upon.
fn unknown_name() -> Vec<u8> {
    const ALERT: u8 = 21;
    const FATAL: u8 = 2;
    vec![ALERT, 3, 3, 0, 2, FATAL, AlertDescription::UnrecognisedName.into()]
}
