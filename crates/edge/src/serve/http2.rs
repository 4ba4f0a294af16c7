//! A connection that speaks HTTP/2: many requests at once, each in a task of its own.

use std::{convert::Infallible, future::poll_fn, pin::pin, rc::Rc, task::Poll, time::Duration};

use hyper::{rt::Executor, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Local, spawn};
use crate::{
    clock::micros,
    inbound::{Inbound, Overdue},
    vigil::{Watched, Word},
    walk,
};

/// Requests at once on one connection: what browsers and gRPC clients count on.
const STREAMS: u32 = 128;
/// What one client may send ahead of what an instance takes, for each stream and for all.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// What an instance may be ahead of what its client takes, for each stream.
const SEND_AHEAD: usize = 64 * 1024;
/// Streams that the client took back before they were looked at, and that were refused for what was
/// wrong with them: a client that means well comes to a few.
const RESETS: usize = 32;
const ERRORS: usize = 128;
/// More requests taken back than answered than this, and the connection is cut: who goes on asking
/// only to take it back (rapid reset) costs instances more than itself.
const TAKEN_BACK: u32 = 200;
/// Whether the client is still there is asked so often, and waited for so long.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(20);
/// How long a client that was told to go has to agree, once nothing is under way.
const FAREWELL: Duration = Duration::from_secs(1);

/// Runs what hyper begins on the edge's own thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Here;

impl<F: Future<Output = ()> + 'static> Executor<F> for Here {
    fn execute(&self, future: F) {
        spawn(future);
    }
}

/// Reads requests and writes answers, until the connection's end.
pub(super) async fn converse<S>(
    local: &Rc<Local>,
    inbound: &Rc<Inbound>,
    stream: S,
    watched: &Watched<'_>,
    mut leaving: bool,
) where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    inbound.phase.multiplex();
    let service = {
        let (local, inbound) = (Rc::clone(local), Rc::clone(inbound));
        service_fn(move |request| {
            let (local, inbound) = (Rc::clone(&local), Rc::clone(&inbound));
            async move { Ok::<_, Infallible>(walk::answer(&local, &inbound, request).await) }
        })
    };
    let head_max = u32::try_from(local.shared.limits.head_bytes).unwrap_or(u32::MAX);
    let connection = http2::Builder::new(Here)
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(head_max)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_AHEAD)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(ERRORS)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .enable_connect_protocol()
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let stalled_max = local.shared.limits.stream_idle;
    let mut look = tokio::time::interval((stalled_max / 4).max(Duration::from_millis(10)));
    let mut farewell = pin!(tokio::time::sleep(FAREWELL));
    if leaving {
        connection.as_mut().graceful_shutdown();
    }
    poll_fn(|cx| {
        let leave = match watched.poll_word(cx) {
            Some(Word::Overdue(Overdue::Blocked)) => return Poll::Ready(()),
            Some(Word::Overdue(Overdue::Head | Overdue::Idle) | Word::Drain) => true,
            // The client finds the successor with its next request.
            None => local.retired_at().is_some(),
        };
        if leave && !leaving {
            leaving = true;
            farewell.as_mut().reset(tokio::time::Instant::now() + FAREWELL);
            connection.as_mut().graceful_shutdown();
        }
        while look.poll_tick(cx).is_ready() {
            let oldest = local.shared.clock.now().saturating_sub(micros(stalled_max));
            let stalled = inbound.bodies.let_go(oldest);
            if stalled > 0 && inbound.phase.requests() <= stalled {
                return Poll::Ready(());
            }
        }
        if inbound.phase.taken_back() > TAKEN_BACK || connection.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        // Who doesn't agree to go is cut when nothing is under way.
        while leaving && farewell.as_mut().poll(cx).is_ready() {
            if !inbound.phase.in_request() {
                return Poll::Ready(());
            }
            farewell.as_mut().reset(tokio::time::Instant::now() + FAREWELL);
        }
        Poll::Pending
    })
    .await;
}
