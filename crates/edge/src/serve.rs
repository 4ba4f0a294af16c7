//! An edge thread: its connections, from the first byte to the last.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    rc::{Rc, Weak},
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Poll,
    time::Duration,
};

pub(crate) mod http2;
mod secure;

use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use minato_model::code::Code;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot, watch},
    time::MissedTickBehavior,
};

use crate::{
    balance::mix,
    clock::{Micros, micros},
    digits::hex,
    end::End,
    handover::{self, CLAIM, Listening, Name, duplicate},
    inbound::{Entry, First, Inbound, Overdue, Phase, Stream, late, linger},
    listen,
    log::{Ink, Pen},
    relay::watched::Bodies,
    scratch::Scratch,
    shared::{Counted, Shared},
    tcp,
    tls::session::Session,
    upstream::{http2::Links, pool::Pool},
    vigil::{self, Vigil, Watched, Word},
    waits::Waits,
    walk,
};

/// What an edge thread is asked to do.
pub(crate) enum Command {
    /// Say that everything before this is done: what was in force before isn't any more.
    Confirm(oneshot::Sender<()>),
    /// Close unused connections to a target.
    Withdraw(u64),
    /// Cut all connections to a target.
    Cut(u64),
    /// Accept connections for a service, until told to stop.
    Listen {
        name: Name,
        address: SocketAddr,
        entry: Entry,
        /// `None`: the address is taken yet, or not there; it is tried again and again.
        listener: Option<std::net::TcpListener>,
        stop: oneshot::Receiver<()>,
    },
    /// Duplicate all listening sockets.
    Listeners(oneshot::Sender<io::Result<Vec<Listening>>>),
    /// Serve a connection that another thread accepted.
    Serve { stream: std::net::TcpStream, peer: SocketAddr, entry: Entry, counted: Counted },
}

/// Where the edge is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// It takes no connections yet.
    Preparing,
    /// It takes connections.
    Serving,
    /// It takes no more, as a successor does, and ends each that it has after its next answer.
    Retiring,
    /// It takes no more, and ends those that it has after their answer.
    Draining,
    /// Whoever still waits is told so.
    Ending,
    /// Nothing is left to do.
    Ended,
}

/// What the tasks of one edge thread share.
pub(crate) struct Local {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: Pool,
    pub(crate) links: Links,
    pub(crate) waits: Waits,
    pub(crate) vigil: Vigil,
    pub(crate) life: watch::Receiver<Life>,
    pub(crate) pen: Pen,
    /// Room for the heads of requests.
    pub(crate) scratch: Scratch,
    /// What this thread listens at.
    listeners: RefCell<Vec<(Name, Weak<TcpListener>)>>,
    /// Since when the edge retires; 0: it doesn't.
    retired_at: Cell<Micros>,
    pub(crate) index: usize,
    ids: Cell<u64>,
}

impl Local {
    pub(crate) fn new(
        shared: Arc<Shared>,
        index: usize,
        life: watch::Receiver<Life>,
        seed: u64,
        ink: Option<Ink>,
    ) -> Self {
        Self {
            pool: Pool::new(shared.clock, &shared.limits),
            links: Links::new(shared.clock, &shared.limits),
            waits: Waits::new(shared.clock, index),
            vigil: Vigil::default(),
            pen: Pen::new(ink, shared.clock, seed),
            shared,
            life,
            scratch: Scratch::default(),
            listeners: RefCell::default(),
            retired_at: Cell::new(0),
            index,
            ids: Cell::new(seed),
        }
    }

    /// Since when there is a successor, if there is one.
    pub(crate) fn retired_at(&self) -> Option<Micros> {
        Some(self.retired_at.get()).filter(|at| *at != 0)
    }

    fn duplicates(&self) -> io::Result<Vec<Listening>> {
        let listeners = self.listeners.borrow();
        let alive = listeners.iter().filter_map(|(name, listener)| Some((*name, listener.upgrade()?)));
        alive.map(|(name, listener)| duplicate(name, &*listener)).collect()
    }

    /// A new request id.
    pub(crate) fn next_id(&self) -> HeaderValue {
        let id = Bytes::from([hex(self.draw()), hex(self.draw())].concat());
        HeaderValue::from_maybe_shared(id).unwrap_or_else(|_| HeaderValue::from_static("none"))
    }

    /// A number that looks random, and that this thread never drew before.
    pub(crate) fn draw(&self) -> u64 {
        let id = self.ids.get().wrapping_add(1);
        self.ids.set(id);
        mix(id)
    }
}

/// Runs an edge thread until the edge has ended.
pub(crate) async fn run(
    local: Rc<Local>,
    listeners: Vec<(Name, std::net::TcpListener)>,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    for (name, listener) in listeners {
        listen(&local, name, listener, Entry::Public { tls: name == Name::Https }, None);
    }
    let mut life = local.life.clone();
    let mut sweep = tokio::time::interval(Duration::from_secs(1));
    let mut look = tokio::time::interval(vigil::every(&local.shared.limits));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            command = commands.recv() => match command {
                Some(command) => obey(&local, command),
                None => return,
            },
            changed = life.changed() => {
                let now = if changed.is_ok() { *life.borrow_and_update() } else { Life::Ended };
                match now {
                    Life::Ended => return,
                    Life::Retiring => local.retired_at.set(local.shared.clock.now()),
                    Life::Draining | Life::Ending => local.vigil.drain(),
                    Life::Preparing | Life::Serving => {}
                }
            }
            _ = sweep.tick() => clear(&local),
            _ = look.tick() => {
                local.vigil.look(local.shared.clock.now(), &local.shared.limits, local.retired_at());
            }
        }
    }
}

/// What is done once a second.
fn clear(local: &Local) {
    local.pool.sweep();
    local.shared.totals.set_upstream(local.index, local.pool.open() + local.links.open_now());
    local.links.sweep();
    local.pen.sweep();
    local.waits.sweep();
    local.listeners.borrow_mut().retain(|(_, listener)| listener.strong_count() > 0);
    if local.index == 0 {
        local.shared.look();
    }
    if local.index == 0 && local.shared.clock.now() > micros(CLAIM) {
        handover::close_unclaimed(&local.shared);
    }
}

fn spawn(future: impl Future<Output = ()> + 'static) {
    // Its end needs no looking after: it owns what it uses, and the runtime's end is its own.
    drop(tokio::task::spawn_local(future));
}

fn obey(local: &Rc<Local>, command: Command) {
    match command {
        // Nobody waits any more: fine.
        Command::Confirm(done) => drop(done.send(())),
        Command::Withdraw(serial) => {
            local.pool.withdraw(serial);
            local.links.withdraw(serial);
        }
        Command::Cut(serial) => {
            local.pool.cut(serial);
            local.links.cut(serial);
        }
        Command::Listen { name, entry, listener: Some(listener), stop, .. } => {
            listen(local, name, listener, entry, Some(stop));
        }
        Command::Listen { name, address, entry, listener: None, stop } => {
            spawn(listen_later(Rc::clone(local), name, address, entry, stop));
        }
        // Nobody waits any more: fine.
        Command::Listeners(answer) => drop(answer.send(local.duplicates())),
        Command::Serve { stream, peer, entry, counted } => match TcpStream::from_std(stream) {
            Ok(stream) => spawn(serve(Rc::clone(local), stream, peer, entry, counted)),
            Err(error) => tracing::warn!(%error, "a connection could not be registered"),
        },
    }
}

fn listen(
    local: &Rc<Local>,
    name: Name,
    listener: std::net::TcpListener,
    entry: Entry,
    stop: Option<oneshot::Receiver<()>>,
) {
    match TcpListener::from_std(listener) {
        Ok(listener) => {
            let listener = Rc::new(listener);
            local.listeners.borrow_mut().push((name, Rc::downgrade(&listener)));
            spawn(accept(Rc::clone(local), listener, entry, stop));
        }
        Err(error) => tracing::error!(%error, "a listener could not be registered"),
    }
}

/// Listens as soon as that can be done: a predecessor may still do so itself.
async fn listen_later(
    local: Rc<Local>,
    name: Name,
    address: SocketAddr,
    entry: Entry,
    mut stop: oneshot::Receiver<()>,
) {
    let mut life = local.life.clone();
    loop {
        tokio::select! {
            _ = &mut stop => return,
            _ = life.wait_for(|life| !matches!(life, Life::Preparing | Life::Serving)) => return,
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
        if let Ok(listener) = listen::single(address) {
            return listen(&local, name, listener, entry, Some(stop));
        }
    }
}

/// Accepts connections until told to stop, or until the edge drains.
async fn accept(
    local: Rc<Local>,
    listener: Rc<TcpListener>,
    entry: Entry,
    stop: Option<oneshot::Receiver<()>>,
) {
    let mut life = local.life.clone();
    let mut stop = pin!(async {
        match stop {
            Some(stop) => drop(stop.await),
            None => std::future::pending().await,
        }
    });
    tokio::select! {
        _ = life.wait_for(|life| *life != Life::Preparing) => {}
        () = &mut stop => return,
    }
    // Until this ends a connection may come that is not counted yet.
    let _accepting = local.shared.accepts();
    loop {
        while local.shared.is_full(local.index) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // The successor accepts what comes now, even if there is no end to it.
        if *life.borrow() == Life::Retiring {
            return;
        }
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            // Whoever was in the kernel's queue by now has been accepted.
            _ = life.wait_for(|life| *life != Life::Serving) => return,
            () = &mut stop => return,
        };
        match accepted {
            Ok((stream, peer)) => place(&local, stream, peer, entry),
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                // Out of descriptors, most likely: some will be given back.
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn is_the_clients(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted)
}

/// Serves a connection here, or on a thread that has far fewer.
fn place(local: &Rc<Local>, stream: TcpStream, peer: SocketAddr, entry: Entry) {
    let shared = &local.shared;
    shared.totals.accepted.fetch_add(1, Relaxed);
    if let Some(other) = shared.less_busy_than(local.index) {
        match stream.into_std() {
            Ok(stream) => {
                let counted = shared.count_connection(other);
                shared.tell(other, Command::Serve { stream, peer, entry, counted });
            }
            Err(error) => tracing::warn!(%error, "a connection could not be handed over"),
        }
    } else {
        spawn(serve(Rc::clone(local), stream, peer, entry, shared.count_connection(local.index)));
    }
}

/// Serves one connection.
async fn serve(local: Rc<Local>, stream: TcpStream, peer: SocketAddr, entry: Entry, counted: Counted) {
    // An error means that the connection is gone, which reading will tell.
    drop(stream.set_nodelay(true));
    if let Some(service) = tcp::service(&local, entry) {
        tcp::serve(&local, stream, peer, entry, service).await;
        return drop::<Counted>(counted);
    }
    let stream = Arc::new(stream);
    if entry.is_tls() {
        // Its own, so that who speaks no TLS has no room for it.
        return Box::pin(serve_secure(local, stream, peer, entry, counted)).await;
    }
    let phase = Arc::new(Phase::new(local.shared.clock));
    let inbound = inbound(&local, stream, phase, peer, entry, counted, None);
    converse(&local, &inbound).await;
    finish(&local, &inbound).await;
}

/// The same over TLS.
async fn serve_secure(
    local: Rc<Local>,
    stream: Arc<TcpStream>,
    peer: SocketAddr,
    entry: Entry,
    counted: Counted,
) {
    let phase = Arc::new(Phase::new(local.shared.clock));
    let Some((secure, session)) = secure::agree(&local, &stream, &phase, entry, peer.ip()).await else {
        return;
    };
    let http2 = session.http2;
    let inbound = inbound(&local, stream, phase, peer, entry, counted, Some(session));
    let watched = local.vigil.watch(&inbound.phase);
    if http2 {
        http2::converse(&local, &inbound, secure, &watched, false).await;
    } else if http1(&local, &inbound, secure, &watched, false).await == Some(Overdue::Head) {
        inbound.phase.refuse(Code::ClientTimeout);
    }
    drop(watched);
    finish(&local, &inbound).await;
}

fn inbound(
    local: &Local,
    stream: Arc<TcpStream>,
    phase: Arc<Phase>,
    peer: SocketAddr,
    entry: Entry,
    counted: Counted,
    tls: Option<Session>,
) -> Rc<Inbound> {
    let (shared, peer) = (&local.shared, peer.ip().to_canonical());
    let caller = match (entry, peer) {
        (Entry::Virtual { .. }, IpAddr::V4(address)) => shared.caller(address),
        (Entry::Virtual { .. }, IpAddr::V6(_)) | (Entry::Public { .. } | Entry::Outer { .. }, _) => None,
    };
    Rc::new(Inbound {
        stream,
        phase,
        entry,
        peer,
        peer_text: peer.to_string(),
        caller,
        tls,
        trusted: entry.is_public() && shared.trusted.iter().any(|prefix| prefix.contains(peer)),
        bodies: Bodies::default(),
        _counted: counted,
    })
}

/// What is left to do when nothing is spoken any more.
async fn finish(local: &Rc<Local>, inbound: &Inbound) {
    if let Some(code) = inbound.phase.refused() {
        End::unread(local, inbound, code);
    }
    if inbound.phase.lingers() {
        linger(&inbound.stream).await;
    }
}

/// Reads requests and writes answers, until the connection's end.
async fn converse(local: &Rc<Local>, inbound: &Rc<Inbound>) {
    let watched = local.vigil.watch(&inbound.phase);
    let mut draining = false;
    let mut first = BytesMut::new();
    let told = poll_fn(|cx| {
        match watched.poll_word(cx) {
            Some(Word::Overdue(overdue)) => return Poll::Ready(Err(Some(overdue))),
            Some(Word::Drain) => draining = true,
            None => {}
        }
        inbound.poll_first(cx, &mut first).map_err(|_| None)
    });
    let overdue = match told.await {
        Err(overdue) => overdue,
        Ok(told) => {
            let first = first.freeze();
            let (stream, phase) = (Arc::clone(&inbound.stream), Arc::clone(&inbound.phase));
            let stream = Stream { first, stream, phase };
            match told {
                First::Http1 => http1(local, inbound, stream, &watched, draining).await,
                First::Http2 => return http2::converse(local, inbound, stream, &watched, draining).await,
            }
        }
    };
    if overdue == Some(Overdue::Head) {
        let answer = late();
        inbound.phase.refuse(answer.code);
        // Who doesn't take it gets none.
        drop(inbound.stream.try_write(&answer.to_wire()));
    }
}

/// Speaks HTTP/1; returns what it had been at for too long, if that ended it.
async fn http1<S>(
    local: &Rc<Local>,
    inbound: &Rc<Inbound>,
    stream: S,
    watched: &Watched<'_>,
    draining: bool,
) -> Option<Overdue>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service =
        service_fn(|request| async move { Ok::<_, Infallible>(walk::answer(local, inbound, request).await) });
    let connection = http1::Builder::new()
        // Who leaves is seen below: hyper would hold another 8 KiB ready to see it, for every request. By TLS
        // a last word is sealed, and only reading tells it from a request.
        .half_close(inbound.tls.is_none())
        .header_read_timeout(None)
        .max_buf_size(local.shared.limits.head_bytes)
        .writev(true)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    if draining {
        connection.as_mut().graceful_shutdown();
    }
    poll_fn(|cx| {
        match watched.poll_word(cx) {
            Some(Word::Overdue(overdue)) => {
                if overdue == Overdue::Head && inbound.tls.is_some() {
                    // Only what TLS seals can be said.
                    inbound.phase.set_late();
                    drop(connection.as_mut().poll(cx));
                }
                return Poll::Ready(Some(overdue));
            }
            Some(Word::Drain) => connection.as_mut().graceful_shutdown(),
            None => {}
        }
        let ended = connection.as_mut().poll(cx).map(|_| None);
        if ended.is_pending() && inbound.poll_left(cx) { Poll::Ready(None) } else { ended }
    })
    .await
}
