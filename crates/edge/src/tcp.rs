//! Plain TCP: a connection is given to an instance whole, for as long as it lasts.
//!
//! It counts as a stream: an instance that drains keeps it for `drain_streams`. There is no answer that
//! the edge could give by itself: whoever can't be connected is reset, so that it knows of it.

use std::{
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use http::{HeaderMap, StatusCode};
use minato_model::{manifest::Protocol, traffic::Balance};
use socket2::{SockRef, TcpKeepalive};
use tokio::{net::TcpStream, time::Instant};

use crate::{
    hold::{Entrance, Grant},
    inbound::Entry,
    key::Client,
    log::{Line, flag},
    release::Lease,
    route,
    serve::{Life, Local},
    snapshot::Service,
    upstream::{connection::Connection, io::Io},
};

/// Large enough that bulk transfers need few system calls.
const BUFFER: usize = 64 * 1024;
/// Who says nothing for so long is asked whether it is still there, and then again; a connection may be
/// idle for days.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_AGAIN: Duration = Duration::from_secs(15);

/// The service that a connection is for, if that is spoken to over plain TCP.
pub(crate) fn service(local: &Local, entry: Entry) -> Option<Arc<Service>> {
    let offset = match entry {
        Entry::Public { .. } => return None,
        Entry::Virtual { offset, .. } | Entry::Outer { offset } => offset,
    };
    let snapshot = local.shared.snapshot.load();
    snapshot.at(offset).filter(|service| service.route.protocol == Protocol::Tcp).cloned()
}

/// Serves one connection.
pub(crate) async fn serve(
    local: &Rc<Local>,
    mut stream: TcpStream,
    peer: SocketAddr,
    entry: Entry,
    service: Arc<Service>,
) {
    let peer = peer.ip().to_canonical();
    let began = local.shared.clock.now();
    let mut line = Line::begin(local, || peer, began);
    if let Some(line) = &mut line {
        line.set_service(service.key.app.as_str(), service.key.service.as_str());
    }
    if let Err(why) = may_connect(local, peer, entry, &service) {
        tracing::warn!(%peer, service = %service.key, %why, "a connection was refused");
        flag(&mut line, "denied");
        return reset(&stream);
    }
    let deadline = Instant::now() + service.route.timeout;
    let Some((connection, mut lease)) = connect(local, peer, service, deadline).await else {
        flag(&mut line, "start_failed");
        return reset(&stream);
    };
    lease.begin_stream();
    if let Some(line) = &mut line {
        line.attempts += 1;
        line.set_release(Some(&lease.release().key));
        line.set_instance(lease.target().endpoint.instance.as_str());
    }
    keep_alive(&stream);
    keep_alive(&connection.wire.stream);
    let mut instance = Io { wire: connection.wire, first: connection.buffer };
    let counts = &lease.release().tcp;
    counts.connections.fetch_add(1, Relaxed);
    let copied = tokio::select! {
        copied = tokio::io::copy_bidirectional_with_sizes(&mut stream, &mut instance, BUFFER, BUFFER) => Some(copied),
        () = lease.target().streams_end() => None,
    };
    match copied {
        Some(Ok((received, bytes))) => {
            counts.received.fetch_add(received, Relaxed);
            counts.sent.fetch_add(bytes, Relaxed);
            if let Some(line) = &mut line {
                (line.received, line.bytes) = (received, bytes);
            }
        }
        // Which of the two went, nobody can tell for sure.
        Some(Err(_)) => flag(&mut line, flag::UPSTREAM_BROKE),
        None => {
            local.shared.totals.streams_ended.fetch_add(1, Relaxed);
            flag(&mut line, flag::STREAM_ENDED);
        }
    }
}

fn flag(line: &mut Option<Line>, flag: &'static str) {
    if let Some(line) = line {
        line.flag = Some(flag);
    }
}

/// Whether who calls from inside may do so.
fn may_connect(local: &Local, peer: IpAddr, entry: Entry, service: &Service) -> Result<(), String> {
    let Entry::Virtual { .. } = entry else { return Ok(()) };
    let caller = match peer {
        IpAddr::V4(address) => local.shared.caller(address),
        IpAddr::V6(_) => None,
    };
    let snapshot = local.shared.snapshot.load();
    route::may_call(&snapshot, caller.as_ref(), service).map_err(|answer| answer.detail().to_owned())
}

/// A connection to an instance, with a place on it. Nothing has been sent yet, so any instance will do.
async fn connect(
    local: &Rc<Local>,
    peer: IpAddr,
    mut service: Arc<Service>,
    deadline: Instant,
) -> Option<(Connection, Lease)> {
    let headers = HeaderMap::new();
    let client = Client { headers: &headers, peer, trusted: false, proxies: &[] };
    let mut avoid = None;
    loop {
        let lease = place(local, &client, &mut service, deadline, avoid).await?;
        let left = deadline.saturating_duration_since(Instant::now());
        match Connection::open(lease.target(), local.shared.limits.connect.min(left)).await {
            Ok(connection) => {
                local.pool.opened(lease.target(), &connection);
                lease.answered(StatusCode::OK);
                return Some((connection, lease));
            }
            Err(_) if left.is_zero() => return None,
            Err(_) => {
                avoid = Some(lease.target().serial);
                lease.refused();
            }
        }
    }
}

/// A place on an instance, waited for where there is none.
async fn place(
    local: &Rc<Local>,
    client: &Client<'_>,
    service: &mut Arc<Service>,
    deadline: Instant,
    avoid: Option<u64>,
) -> Option<Lease> {
    let mut life = local.life.clone();
    let mut number = None;
    loop {
        let key = match &service.route.traffic.balance {
            Balance::Hash(key) => client.hash(key),
            Balance::LeastRequest | Balance::Ewma | Balance::RoundRobin => None,
        };
        let release = Arc::clone(service.choose(client)?);
        if let Some(lease) = release.lease(avoid, key) {
            return Some(lease);
        }
        let grant = match release.enter(service.route.traffic.breaker.pending, number, key) {
            Entrance::Place(lease) => return Some(lease),
            Entrance::Refused(_) | Entrance::Full => return None,
            Entrance::Again => Grant::Again,
            Entrance::Waiting(mut waiter) => {
                let grant = tokio::select! {
                    biased;
                    grant = waiter.granted() => grant,
                    () = tokio::time::sleep_until(deadline) => return None,
                    _ = life.wait_for(|life| matches!(life, Life::Ending | Life::Ended)) => return None,
                };
                number = Some(waiter.number);
                grant
            }
        };
        match grant {
            Grant::Place(lease) if !lease.target().is_withdrawn() => return Some(lease),
            Grant::Place(lease) => lease.return_unused(),
            Grant::Refused(_) | Grant::Shed => return None,
            Grant::Again => {
                number = None;
                *service = Arc::clone(local.shared.snapshot.load().service(&service.key)?);
            }
        }
        if Instant::now() >= deadline {
            return None;
        }
    }
}

/// An error says that the connection is gone, which the next use tells.
fn keep_alive(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_AGAIN);
    drop(SockRef::from(stream).set_tcp_keepalive(&keepalive));
}

/// Closes it so that the other side sees an error, not an end.
fn reset(stream: &TcpStream) {
    drop(SockRef::from(stream).set_linger(Some(Duration::ZERO)));
}
