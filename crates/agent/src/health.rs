//! How an instance is while it serves: its health check, and what the edge found suspicious. Who is
//! not well leaves routing and is left alive. Who stays so is replaced, which is decided elsewhere.

mod http2;
mod secured;

use std::{io, net::Ipv4Addr, sync::Arc, time::Duration};

use minato_identity::client::{Distrust, Terms, TermsError};
use minato_model::{
    code::Code,
    ids::{InstanceId, ReleaseKey},
    manifest::{Health, Protocol},
    route::Endpoint,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    backoff::WELL,
    decide::DrainCause,
    drain,
    life::{Fault, Stop},
    look::{self, Seen, Unseen},
    node::Node,
    prepare::whole,
    rehearsal, start,
    table::{Orders, Phase},
};

/// After so many failures in a row it leaves routing.
const FAILURES: u32 = 2;
/// A check takes no longer than this, however seldom it is made.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How often one that is out of routing is looked at; every check may take as long.
const RETRY: Duration = Duration::from_secs(1);
/// How often it is looked whether the port is listening where there is no health check. Who is refused
/// a connection asks for a look at once.
const LISTENING: Duration = Duration::from_secs(2);
/// The pauses between the checks of a start: from the first to the longest.
const FIRST: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(250));

/// Why a health check isn't well.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckError {
    #[error("it doesn't answer")]
    Io(#[from] io::Error),
    #[error("it doesn't answer within {0:?}")]
    Timeout(Duration),
    #[error("it answers `{0}`")]
    Answer(String),
    #[error("it is not trusted: {}", .0.reason)]
    Distrusted(Distrust),
    #[error("it can't be asked over TLS")]
    Terms(#[from] TermsError),
}

/// How an instance is asked.
#[derive(Debug)]
enum Speech {
    Plain(Protocol),
    Secured(Terms),
}

impl Speech {
    /// As it is now; sessions go on if nothing has changed since.
    fn of(node: &Node, id: &InstanceId, key: &ReleaseKey, before: Option<&Self>) -> Result<Self, TermsError> {
        let protocol = protocol(node, key).unwrap_or(Protocol::Http);
        if protocol != Protocol::Https {
            return Ok(Self::Plain(protocol));
        }
        let before = before.and_then(|before| match before {
            Self::Plain(_) => None,
            Self::Secured(terms) => Some(terms),
        });
        node.client.terms(&key.service, id, before).map(Self::Secured)
    }
}

impl CheckError {
    /// Whether it is the server that couldn't ask.
    fn is_want(&self) -> bool {
        matches!(self, Self::Terms(_)) || matches!(self, Self::Io(error) if look::is_want(error))
    }
}

/// The checks of a start: until the first that is well.
pub(crate) async fn first(
    node: &Node,
    (id, key): (&InstanceId, &ReleaseKey),
    address: Ipv4Addr,
    port: u16,
    deadline: Instant,
    orders: &mut watch::Receiver<Orders>,
) -> Result<(), Stop> {
    let Some(health) = configured(node, key) else { return Ok(()) };
    let mut kept = None;
    let (mut pause, longest) = FIRST;
    loop {
        let asked = tokio::select! {
            asked = ask_as(node, (id, key), (address, port), &mut kept, &health) => asked,
            stop = start::unwanted(orders) => return Err(stop),
        };
        let Err(error) = asked else { return Ok(()) };
        if Instant::now() >= deadline && !error.is_want() {
            let reason = format!("it listens, but its health check {} is not well: {error}", health.path);
            return Err(Stop::Fault(Fault::new(Code::Unhealthy, reason)));
        }
        start::pause_for(pause, orders).await?;
        pause = longest.min(pause * 2);
    }
}

/// Watches an instance that serves, until it ends or is told to.
pub(crate) async fn serve(
    node: &Arc<Node>,
    id: &InstanceId,
    key: &ReleaseKey,
    orders: &mut watch::Receiver<Orders>,
) -> Stop {
    let mut watched = Watched::new(node, id, key, orders.borrow().suspected);
    let mut is_well = false;
    loop {
        let (ended, suspected) = {
            let now = orders.borrow_and_update();
            (now.ended.is_some() || now.drain.is_some(), now.suspected)
        };
        if ended {
            return start::stop_of(orders);
        }
        if watched.suspected != suspected {
            watched.suspected = suspected;
            watched.examine(true, orders).await;
            continue;
        }
        let (next, well) = (watched.next(), watched.judgement.well_at());
        tokio::select! {
            changed = orders.changed() => if changed.is_err() {
                return Stop::Drain(DrainCause::Retired);
            },
            () = sleep_until(next) => watched.examine(false, orders).await,
            () = sleep_until(well.unwrap_or(next)), if !is_well && well.is_some() => {
                is_well = true;
                if let Some(state) = node.table().releases.get_mut(key) {
                    state.backoff.well();
                }
            }
        }
    }
}

/// An instance under watch.
struct Watched<'a> {
    node: &'a Arc<Node>,
    id: &'a InstanceId,
    key: &'a ReleaseKey,
    /// How often it had been suspected when it was last looked at.
    suspected: u32,
    /// It is to be looked at closely, and hasn't been yet.
    closely: bool,
    looked: Instant,
    /// How it was asked last.
    speech: Option<Speech>,
    judgement: Judgement,
}

/// What follows from what looks found. Pure: the time is an argument.
#[derive(Debug)]
struct Judgement {
    failures: u32,
    /// Since when it has been well; `None`: it isn't.
    well: Option<Instant>,
    unseen: Unseen,
}

/// What a look found.
#[derive(Debug)]
enum Found {
    Well,
    Unwell {
        /// Whether one look is enough to say so.
        sure: bool,
        reason: String,
    },
    /// The server couldn't look, and why.
    Unknown(String),
}

/// What is to be done.
#[derive(Debug, PartialEq)]
enum Verdict {
    Nothing,
    Withdraw(String),
    Readmit,
    /// Say that it can't be looked at.
    Say(String),
}

impl Judgement {
    fn new(now: Instant) -> Self {
        Self { failures: 0, well: Some(now), unseen: Unseen::default() }
    }

    fn judge(&mut self, found: Found, closely: bool, now: Instant) -> Verdict {
        let say = self.unseen.note(!matches!(found, Found::Unknown(_)), now);
        match found {
            Found::Well => {
                self.failures = 0;
                if self.well.is_some() {
                    return Verdict::Nothing;
                }
                self.well = Some(now);
                Verdict::Readmit
            }
            Found::Unwell { sure, reason } => {
                self.failures += 1;
                let sure = closely || sure || self.failures >= FAILURES;
                if !sure || self.well.take().is_none() {
                    return Verdict::Nothing;
                }
                Verdict::Withdraw(reason)
            }
            Found::Unknown(why) if say => Verdict::Say(why),
            Found::Unknown(_) => Verdict::Nothing,
        }
    }

    /// When it will have been well for as long as clears its release's record.
    fn well_at(&self) -> Option<Instant> {
        self.well.map(|since| since + WELL)
    }

    /// It is looked at more often than it asks for.
    fn is_urgent(&self) -> bool {
        self.well.is_none() || self.unseen.is_now()
    }
}

impl<'a> Watched<'a> {
    fn new(node: &'a Arc<Node>, id: &'a InstanceId, key: &'a ReleaseKey, suspected: u32) -> Self {
        let looked = Instant::now();
        Self {
            node,
            id,
            key,
            suspected,
            closely: false,
            looked,
            speech: None,
            judgement: Judgement::new(looked),
        }
    }

    /// When it is to be looked at next.
    fn next(&self) -> Instant {
        let every = configured(self.node, self.key).map_or(LISTENING, |health| health.every);
        self.looked + if self.judgement.is_urgent() { every.min(RETRY) } else { every }
    }

    /// Looks at it once. One that the edge suspects is looked at closely, and leaves at the first
    /// failure: a request has failed already. Orders don't wait behind a check that hangs.
    async fn examine(&mut self, closely: bool, orders: &mut watch::Receiver<Orders>) {
        self.closely |= closely;
        let closest = self.closely || self.judgement.well.is_none();
        let found = tokio::select! {
            biased;
            _ = drain::wait(orders, |orders| orders.drain.is_some()) => return,
            found = self.look(closest) => found,
        };
        self.looked = Instant::now();
        let closely = self.closely;
        self.closely &= matches!(found, Found::Unknown(_));
        match self.judgement.judge(found, closely, self.looked) {
            Verdict::Nothing => {}
            Verdict::Withdraw(reason) => self.withdraw(&reason).await,
            Verdict::Readmit => self.readmit(),
            Verdict::Say(why) => look::say_unseen(self.node, self.id, self.key, &why),
        }
    }

    /// Whether it listens, if nothing else tells or `closely`; then its health check, if it has one.
    async fn look(&mut self, closely: bool) -> Found {
        let sure = |reason: String| Found::Unwell { sure: true, reason };
        let known = self.node.table().instances.get(self.id).map(|r| (r.pid, r.address, r.port));
        let Some((Some(pid), address, port)) = known else { return sure("it has no process".to_owned()) };
        let health = configured(self.node, self.key);
        if closely || health.is_none() {
            match look::look(pid, address, port).await {
                Seen::Listens => {}
                Seen::Silent => return sure(format!("it doesn't listen on port {port} any more")),
                Seen::Gone => return sure("its process is gone".to_owned()),
                Seen::Unknown(why) => return Found::Unknown(why),
            }
        }
        let Some(health) = health else { return Found::Well };
        match ask_as(self.node, (self.id, self.key), (address, port), &mut self.speech, &health).await {
            Ok(()) => Found::Well,
            Err(error) if error.is_want() => Found::Unknown(whole(&error)),
            Err(error) => {
                let reason = format!("its health check {} is not well: {error}", health.path);
                Found::Unwell { sure: false, reason }
            }
        }
    }

    async fn withdraw(&self, reason: &str) {
        rehearsal::withdrawn(self.node, self.id, self.key);
        self.enter(Phase::Unhealthy { since: Instant::now() }, reason);
        self.node.routing.withdraw(self.id).await;
        self.node.record("instance_unhealthy", self.key, self.id, reason, serde_json::Value::Null);
        self.node.signals.changed(&self.key.service);
    }

    fn readmit(&self) {
        let reason = "it is well again, and requests go to it";
        self.enter(Phase::Ready { since: Instant::now() }, reason);
        let place = self.node.table().instances.get(self.id).map(|record| (record.address, record.port));
        let Some((address, port)) = place else { return };
        let (instance, release) = (self.id.clone(), self.key.clone());
        let (protocol, zone) = (protocol(self.node, self.key), self.node.zone.clone());
        let endpoint =
            Endpoint { instance, release, address, port, cold: None, pooled: None, zone, protocol };
        self.node.routing.admit(endpoint);
        self.node.record("instance_healthy", self.key, self.id, reason, serde_json::Value::Null);
        self.node.signals.changed(&self.key.service);
    }

    fn enter(&self, phase: Phase, reason: &str) {
        if let Some(record) = self.node.table().instances.get_mut(self.id) {
            record.phase = phase;
            reason.clone_into(&mut record.reason);
            if record.is_ready() {
                record.withdrawn = None;
            }
        }
    }
}

/// How its health is asked for, if it is.
pub(crate) fn configured(node: &Node, key: &ReleaseKey) -> Option<Health> {
    node.table().slices.get(&key.service).and_then(|slice| slice.health.clone())
}

/// How instances of a release are spoken to, if it is known here.
pub(crate) fn protocol(node: &Node, key: &ReleaseKey) -> Option<Protocol> {
    node.table().releases.get(key).map(|state| state.release.spec.protocol)
}

/// Asks an instance once, as it is spoken to now.
async fn ask_as(
    node: &Node,
    (id, key): (&InstanceId, &ReleaseKey),
    place: (Ipv4Addr, u16),
    kept: &mut Option<Speech>,
    health: &Health,
) -> Result<(), CheckError> {
    let speech = Speech::of(node, id, key, kept.as_ref())?;
    ask(place, kept.insert(speech), health).await
}

/// Asks once.
async fn ask(place: (Ipv4Addr, u16), speech: &Speech, health: &Health) -> Result<(), CheckError> {
    let limit = health.every.clamp(RETRY, ANSWER_MAX);
    let host = format!("{}:{}", place.0, place.1);
    let asked = async {
        let stream = TcpStream::connect(place).await?;
        match speech {
            // Larger than all of the instance's life beside it.
            Speech::Secured(terms) => Box::pin(secured::exchange(stream, terms, &host, &health.path)).await,
            Speech::Plain(Protocol::H2c) => {
                http2::exchange(stream, ("http", &host), &health.path, false).await
            }
            Speech::Plain(Protocol::Grpc) => {
                http2::exchange(stream, ("http", &host), &health.path, true).await
            }
            Speech::Plain(Protocol::Http | Protocol::Https | Protocol::Tcp) => {
                exchange(stream, &host, &health.path).await
            }
        }
    };
    timeout(limit, asked).await.unwrap_or(Err(CheckError::Timeout(limit)))
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    host: &str,
    path: &str,
) -> Result<(), CheckError> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: minato-health\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    // The status line is all that counts.
    let mut head = [0_u8; 256];
    let mut filled = 0;
    while let Some(rest) = head.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        let read = stream.read(rest).await?;
        filled += read;
        if read == 0 || head.iter().take(filled).any(|byte| *byte == b'\n') {
            break;
        }
    }
    let text = String::from_utf8_lossy(head.get(..filled).unwrap_or_default()).into_owned();
    let line = text.lines().next().unwrap_or_default();
    let mut words = line.split_ascii_whitespace();
    match (words.next(), words.next()) {
        (Some(version), Some("200")) if version.starts_with("HTTP/1.") => Ok(()),
        _ => Err(CheckError::Answer(line.chars().take(80).flat_map(char::escape_debug).collect())),
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A server that answers every connection with these bytes and closes.
    async fn check(answer: &'static str) -> Result<(), CheckError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1024];
            let read = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        let health = Health { path: "/healthz".to_owned(), every: Duration::from_secs(2) };
        let result = ask((Ipv4Addr::LOCALHOST, port), &Speech::Plain(Protocol::Http), &health).await;
        assert!(served.await.unwrap().starts_with("GET /healthz HTTP/1.1\r\n"));
        result
    }

    fn unwell() -> Found {
        Found::Unwell { sure: false, reason: "no".to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_server_cannot_see_changes_nothing() {
        let begun = Instant::now();
        let mut judgement = Judgement::new(begun);
        let mut judge =
            |seconds, found, closely| judgement.judge(found, closely, begun + Duration::from_secs(seconds));
        let unknown = || Found::Unknown("too many open files".to_owned());
        assert_eq!(judge(0, unwell(), false), Verdict::Nothing);
        assert_eq!(judge(1, unknown(), true), Verdict::Nothing);
        assert_eq!(judge(6, unknown(), true), Verdict::Say("too many open files".to_owned()));
        assert_eq!(judge(60, unknown(), false), Verdict::Nothing);
        assert_eq!(judge(61, unwell(), false), Verdict::Withdraw("no".to_owned()));
        assert_eq!(judge(62, unknown(), false), Verdict::Nothing, "nor is it well");
        assert_eq!(judge(63, Found::Well, false), Verdict::Readmit);
    }

    #[tokio::test(start_paused = true)]
    async fn only_who_is_well_for_a_minute_clears_the_record() {
        let begun = Instant::now();
        let now = |seconds| begun + Duration::from_secs(seconds);
        let mut judgement = Judgement::new(begun);
        assert_eq!(judgement.well_at(), Some(now(60)));
        judgement.judge(unwell(), true, now(20));
        assert_eq!(judgement.well_at(), None);
        judgement.judge(Found::Well, false, now(50));
        assert_eq!(judgement.well_at(), Some(now(110)));
    }

    #[tokio::test]
    async fn only_200_is_well() {
        assert!(check("HTTP/1.1 200 OK\r\n\r\n").await.is_ok());
        assert!(check("HTTP/1.0 200\n\n").await.is_ok());
        for answer in ["HTTP/1.1 503 Busy\r\n\r\n", "", "hello", "HTTP/2 200\r\n"] {
            let error = check(answer).await.unwrap_err().to_string();
            assert!(error.starts_with("it answers `"), "{error}");
        }
    }
}
