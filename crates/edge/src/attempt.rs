//! Tries a request on instances until one begins to answer.
//!
//! A request is tried again only where that can't do anything twice: nothing of it was sent, or its
//! method is idempotent and its body, if any, still unread; and never once an answer has begun.

mod secured;

use std::{rc::Rc, sync::Arc, time::Duration};

use http::Method;
use minato_identity::client::Distrust;
use minato_model::{code::Code, manifest::Protocol, node::Phases, routing::Refusal, traffic::Balance};
use tokio::time::Instant;

use crate::{
    admit,
    answer::Answer,
    clock::{Micros, micros},
    end::End,
    headers::{self, Asked, Length},
    hold::{Entrance, Grant, Waiter},
    inbound::Inbound,
    key::Client,
    outlier::is_gateway_failure,
    release::{Lease, Release, Shortage},
    route,
    serve::{Life, Local},
    shed,
    snapshot::Service,
    upstream::{
        connection::Connection,
        exchange::{self, Begun, Failure, Message},
        http2,
        upload::{Broken, Upload},
    },
    waits::Wait,
    walk::{Refused, too_large},
};

/// How often a client that was told to wait is looked after, while it has a body to send.
const LOOK: Duration = Duration::from_millis(250);

/// What is to be tried.
pub(crate) struct Task<'a> {
    pub(crate) local: &'a Rc<Local>,
    pub(crate) inbound: &'a Rc<Inbound>,
    pub(crate) method: &'a Method,
    pub(crate) client: Client<'a>,
    /// The head as an instance of HTTP/1.1 gets it, and what it is made of.
    pub(crate) head: &'a [u8],
    pub(crate) asked: Asked<'a>,
    pub(crate) body: Option<(&'a Rc<Upload>, Length)>,
    pub(crate) idempotent: bool,
    pub(crate) upgrade: bool,
    /// Whether it is another edge's further try.
    pub(crate) is_repeated: bool,
    /// How long the client waits, by its own account.
    pub(crate) patience: Option<Duration>,
    /// What the request comes to.
    pub(crate) end: &'a mut End,
}

/// An instance began to answer.
pub(crate) struct Attempt {
    pub(crate) begun: Begun,
    pub(crate) lease: Lease,
    /// How long it waited for the instance's start, and the start's phases.
    pub(crate) waited: Option<(Duration, Phases)>,
}

/// A request on its way, from instance to instance.
struct Walk<'a> {
    task: Task<'a>,
    service: Arc<Service>,
    /// Which it has waited for, or been tried with.
    release: Option<Arc<Release>>,
    /// How long the answer may take to begin, and until when that is.
    timeout: Duration,
    deadline: Instant,
    /// The instance that broke last.
    avoid: Option<u64>,
    /// An instance that isn't who it should be, and what is wrong.
    distrusted: Option<(u64, Distrust)>,
    /// How often an instance has failed it.
    failures: u32,
    waiting_since: Option<Micros>,
    /// Its place in the release's queue, while it has no other.
    number: Option<u64>,
}

/// What one connection came to.
#[expect(clippy::large_enum_variant, reason = "nearly every one is the large one")]
enum Outcome {
    Begun(Begun),
    /// Not with this instance; elsewhere, perhaps.
    Elsewhere,
}

/// Tries until an instance begins to answer, or the answer is the edge's own.
pub(crate) async fn run(task: Task<'_>, service: Arc<Service>) -> Result<Attempt, Refused> {
    let mut walk = Walk::new(task, service);
    loop {
        let lease = match walk.balance() {
            Some(lease) => lease,
            // Seldom, and large: not in every request's own state.
            None => Box::pin(walk.hold()).await?,
        };
        let serial = lease.target().serial;
        let wait = walk.task.local.waits.begin(lease.release(), lease.target());
        walk.task.end.attempt(&lease, wait.line());
        let asked = walk.task.local.shared.clock.recent();
        let outcome = match walk.protocol(&lease) {
            Protocol::Http | Protocol::Tcp => {
                let kept = walk.task.local.pool.take(lease.target(), !walk.task.idempotent);
                walk.exchange(kept, &lease, &wait).await
            }
            // Larger, and not to be paid for by others.
            Protocol::H2c | Protocol::Grpc => Box::pin(walk.exchange_stream(&lease, &wait)).await,
            Protocol::Https => Box::pin(walk.exchange_secured(&lease, &wait)).await,
        };
        if let Ok(Outcome::Begun(_)) | Err(Stop::Failed(_)) = &outcome {
            lease.took(asked, outcome.is_ok());
        }
        wait.over();
        if !matches!(outcome, Ok(Outcome::Begun(_))) {
            walk.stay(&lease);
        }
        match outcome {
            Ok(Outcome::Begun(begun)) => {
                let judged = begun.judged();
                lease.answered(judged);
                if is_gateway_failure(judged) && walk.goes_elsewhere(&lease, &begun) {
                    walk.stay(&lease);
                    walk.avoid = Some(serial);
                    walk.task.end.retried();
                    walk.look_again()?;
                    continue;
                }
                walk.task.end.answered();
                let waited = walk.waited(&lease);
                return Ok(Attempt { begun, lease, waited });
            }
            Ok(Outcome::Elsewhere) => {
                walk.avoid = Some(serial);
                walk.task.end.retried();
                lease.target().failed();
                lease.failed();
                drop(lease);
            }
            Err(Stop::Refused) => {
                walk.task.end.retried();
                lease.refused();
            }
            Err(Stop::Failed(answer)) => {
                lease.target().failed();
                if walk.had_time(asked) {
                    lease.failed();
                }
                return Err(walk.own(answer));
            }
            Err(Stop::Answer(answer)) => return Err(walk.own(answer)),
        }
        walk.look_again()?;
    }
}

/// Why an instance gives no answer.
enum Stop {
    /// It takes no connections.
    Refused,
    /// It failed, and the edge has to answer.
    Failed(Answer),
    /// The edge has to answer.
    Answer(Answer),
}

impl<'a> Walk<'a> {
    fn new(task: Task<'a>, service: Arc<Service>) -> Self {
        let begin = task.local.shared.clock.instant(task.end.began);
        let most = service.route.timeout;
        let timeout = task.patience.map_or(most, |patience| patience.min(most));
        Self {
            task,
            service,
            release: None,
            timeout,
            deadline: begin + timeout,
            avoid: None,
            distrusted: None,
            failures: 0,
            waiting_since: None,
            number: None,
        }
    }

    /// A place on an instance, if one can be had at once.
    fn balance(&mut self) -> Option<Lease> {
        if let Some(release) = self.release.take().filter(|release| self.keeps(release)) {
            let lease = release.lease(self.avoid, self.key());
            self.release = Some(release);
            return lease;
        }
        let release = self.service.choose(&self.task.client)?;
        let lease = release.lease(self.avoid, self.key());
        if lease.is_none() {
            self.release = Some(Arc::clone(release));
        }
        lease
    }

    /// What comes next is the same release's, where that may be: whose instance had the request.
    fn stay(&mut self, lease: &Lease) {
        if self.release.is_none() {
            self.release = Some(Arc::clone(lease.release()));
        }
    }

    fn keeps(&self, release: &Arc<Release>) -> bool {
        self.service.keeps(release, &self.task.client)
    }

    /// What tells the client apart, where that decides which instance it gets.
    fn key(&self) -> Option<u64> {
        match &self.service.route.traffic.balance {
            Balance::Hash(key) => self.task.client.hash(key),
            Balance::LeastRequest | Balance::Ewma | Balance::RoundRobin => None,
        }
    }

    /// Waits for a place.
    async fn hold(&mut self) -> Result<Lease, Refused> {
        let mut life = self.task.local.life.clone();
        loop {
            let release = match &self.release {
                Some(release) => Arc::clone(release),
                None => {
                    Arc::clone(self.service.choose(&self.task.client).ok_or_else(|| self.nothing_serves())?)
                }
            };
            self.release = Some(Arc::clone(&release));
            self.task.end.held(&release);
            if Instant::now() >= self.deadline {
                return Err(self.never_ready(&release));
            }
            self.waiting_since.get_or_insert_with(|| self.task.local.shared.clock.now());
            let mut waiter =
                match release.enter(self.service.route.traffic.breaker.pending, self.number, self.key()) {
                    Entrance::Place(lease) => return Ok(lease),
                    Entrance::Refused(refusal) => return Err(self.refused(&refusal)),
                    Entrance::Full => return Err(self.shed("too many requests wait for an instance already")),
                    Entrance::Again => {
                        self.look_again()?;
                        continue;
                    }
                    Entrance::Waiting(waiter) => waiter,
                };
            let grant = tokio::select! {
                biased;
                grant = waiter.granted() => grant,
                () = tokio::time::sleep_until(self.deadline) => return Err(self.never_ready(&release)),
                () = self.hung_up() => return Err(self.own(gone())),
                _ = life.wait_for(|life| matches!(life, Life::Ending | Life::Ended)) => {
                    let answer = Answer::new(Code::Draining, "this node is being stopped");
                    return Err(self.own(answer.retry_after(Duration::from_secs(1))));
                }
            };
            self.number = Some(waiter.number);
            drop::<Waiter>(waiter);
            if let Some(lease) = self.accept(grant)? {
                return Ok(lease);
            }
        }
    }

    /// Goes by the routes that are in force now; whether they still name the release.
    fn look_again(&mut self) -> Result<bool, Refused> {
        let snapshot = self.task.local.shared.snapshot.load();
        let service = snapshot.service(&self.service.key);
        self.service = Arc::clone(service.ok_or_else(|| self.own(route::no_route()))?);
        let stays = self.release.as_ref().is_some_and(|release| self.keeps(release));
        if !stays {
            self.release = None;
            self.number = None;
        }
        Ok(stays)
    }

    /// Looks at what has been granted by the routes that are in force now.
    fn accept(&mut self, grant: Grant) -> Result<Option<Lease>, Refused> {
        let stays = self.look_again()?;
        match grant {
            Grant::Place(lease) if stays && !lease.target().is_withdrawn() => Ok(Some(lease)),
            Grant::Place(lease) => {
                lease.return_unused();
                Ok(None)
            }
            Grant::Refused(refusal) if stays => Err(self.refused(&refusal)),
            Grant::Shed if stays => Err(self.shed("more requests come than the instances can answer")),
            Grant::Refused(_) | Grant::Shed | Grant::Again => Ok(None),
        }
    }

    /// Sends the request to an instance, over a connection that was used before if there is one.
    async fn exchange(
        &mut self,
        mut kept: Option<Connection>,
        lease: &Lease,
        wait: &Rc<Wait>,
    ) -> Result<Outcome, Stop> {
        let local = self.task.local;
        if let Some((body, _)) = self.task.body {
            body.waits_with(wait);
        }
        let again = (self.failures > 0).then(|| headers::tried_again(self.task.head, self.failures));
        loop {
            let connection = match kept.take() {
                Some(connection) => connection,
                None => {
                    let within = local.shared.limits.connect.min(self.left()?);
                    let opened = Connection::open(lease.target(), within).await;
                    let connection = opened.map_err(|_| Stop::Refused)?;
                    local.pool.opened(lease.target(), &connection);
                    connection
                }
            };
            let message = Message {
                method: self.task.method,
                head: again.as_deref().unwrap_or(self.task.head),
                body: self.task.body,
                upgrade: self.task.upgrade,
                deadline: self.deadline.max(self.soon()),
                head_max: local.shared.limits.head_bytes,
            };
            match exchange::exchange(connection, &message).await {
                Ok(begun) => return Ok(Outcome::Begun(begun)),
                Err(failure) => {
                    if let Some(outcome) = self.failed(lease, &failure)? {
                        return Ok(outcome);
                    }
                }
            }
        }
    }

    /// A moment from now, for who came too late to wait for longer.
    fn soon(&self) -> Instant {
        let clock = self.task.local.shared.clock;
        clock.instant(clock.recent()) + Duration::from_millis(1)
    }

    fn protocol(&self, lease: &Lease) -> Protocol {
        lease.target().endpoint.protocol.unwrap_or(self.service.route.protocol)
    }

    /// The same in a stream of HTTP/2.
    async fn exchange_stream(&mut self, lease: &Lease, wait: &Rc<Wait>) -> Result<Outcome, Stop> {
        let local = self.task.local;
        if let Some((body, _)) = self.task.body {
            body.waits_with(wait);
        }
        self.task.asked.added.tried.set(self.failures);
        let mut kept = local.links.take(lease.target(), !self.task.idempotent);
        loop {
            let share = match kept.take() {
                Some(share) => share,
                None => {
                    let within = local.shared.limits.connect.min(self.left()?);
                    local.links.open(lease.target(), within).await.map_err(|_| Stop::Refused)?
                }
            };
            let message = http2::exchange::Message {
                asked: self.task.asked,
                body: self.task.body,
                deadline: self.deadline.max(self.soon()),
            };
            match http2::exchange::exchange(share, &message).await {
                Ok(begun) => return Ok(Outcome::Begun(begun)),
                Err(failure) => {
                    if let Some(outcome) = self.failed(lease, &failure)? {
                        return Ok(outcome);
                    }
                }
            }
        }
    }

    /// What follows from a failure; `None`: a fresh connection to the same instance will tell.
    fn failed(&mut self, lease: &Lease, failure: &Failure) -> Result<Option<Outcome>, Stop> {
        match failure {
            Failure::Broke { sent, .. } if !self.may_repeat(*sent) => {
                Err(self.broke(lease, "the connection to the instance broke"))
            }
            // It was closed while it was unused.
            Failure::Broke { reused: true, .. } => {
                self.task.end.retried();
                Ok(None)
            }
            Failure::Broke { reused: false, .. } => {
                lease.broke();
                // It may be the request that breaks them.
                if !self.may_try_again(lease) {
                    return Err(
                        self.broke(lease, "the instance broke the connection, as others may have before")
                    );
                }
                Ok(Some(Outcome::Elsewhere))
            }
            Failure::NoAnswer => {
                Err(Stop::Failed(Answer::new(Code::Upstream, "what the instance answered is not HTTP")))
            }
            Failure::Late => Err(Stop::Failed(self.late("the instance didn't answer in time"))),
            Failure::Client(broken) => Err(Stop::Answer(self.broken(broken))),
            Failure::Distrusted(distrust) => self.distrusted(lease, distrust).map(Some),
            Failure::NoUpgrade => {
                Err(Stop::Answer(Answer::new(Code::Upstream, "the instance takes no WebSocket over HTTP/2")))
            }
        }
    }

    /// Whether an answer that says that nobody answered is thrown away for another instance's. Not where the
    /// instance says when to come again: it is no accident then.
    fn goes_elsewhere(&mut self, lease: &Lease, begun: &Begun) -> bool {
        self.may_repeat(true)
            && !begun.headers.contains_key(http::header::RETRY_AFTER)
            && lease.release().has_another(lease.target())
            && self.may_try_again(lease)
    }

    /// Whether the service's rules let the request be tried once more. Where another edge has tried it again
    /// already, it isn't: tries would multiply.
    fn may_try_again(&mut self, lease: &Lease) -> bool {
        self.failures += 1;
        !self.task.is_repeated && lease.release().may_try_again(self.failures)
    }

    /// Whether the instance had a fair part of the time: it is no failure of its own if the request had waited
    /// for nearly all of it before.
    fn had_time(&self, asked: Micros) -> bool {
        let now = self.task.local.shared.clock.now();
        now.saturating_sub(asked) >= micros(self.service.route.timeout) / 2 || Instant::now() < self.deadline
    }

    fn may_repeat(&self, sent: bool) -> bool {
        let body_is_whole = self.task.body.is_none_or(|(body, _)| !body.has_begun());
        body_is_whole && (self.task.idempotent || !sent)
    }

    fn broke(&self, lease: &Lease, detail: &str) -> Stop {
        lease.broke();
        Stop::Failed(Answer::new(Code::Upstream, detail))
    }

    fn left(&self) -> Result<Duration, Stop> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let late = || Stop::Answer(self.late("no instance could be reached in time"));
        if left.is_zero() { Err(late()) } else { Ok(left) }
    }

    fn late(&self, what: &str) -> Answer {
        Answer::new(Code::Timeout, format!("{what} ({:?})", self.timeout))
    }

    /// Waited in vain, and says what for.
    fn never_ready(&self, release: &Release) -> Refused {
        let key = &self.service.key;
        let late = |why: &str| self.late(&format!("no instance of {key} was ready in time: {why}"));
        let answer = match release.shortage() {
            Shortage::Starting => late("its start had not ended"),
            Shortage::Failed(refusal) => late("its last start failed").because(&refusal),
            Shortage::Refusing => late("its instances refuse connections"),
            Shortage::Busy(1) => late("its one instance had as many requests as it may"),
            Shortage::Busy(n) => late(&format!("its {n} instances had as many requests as they may")),
        };
        self.own(answer.of(key))
    }

    fn broken(&self, broken: &Broken) -> Answer {
        match broken {
            Broken::Paused => Answer::new(Code::ClientTimeout, "the request's body didn't arrive in time"),
            Broken::TooLarge => too_large(self.service.route.body_max),
            Broken::Client | Broken::Instance => {
                Answer::new(Code::BadRequest, "the request's body broke off")
            }
        }
    }

    /// One of too many.
    fn shed(&self, detail: &str) -> Refused {
        self.own(admit::shed(&self.service, detail, shed::come_again(self.waiting_since.unwrap_or(0))))
    }

    fn own(&self, answer: Answer) -> Refused {
        Refused { answer, release: self.release.clone() }
    }

    fn refused(&self, refusal: &Refusal) -> Refused {
        self.own(Answer::start_failed(&self.service.key, refusal))
    }

    fn nothing_serves(&self) -> Refused {
        let retry_after = Duration::from_secs(5);
        self.refused(&Refusal { code: Code::ReleaseRefused, instance: None, retry_after })
    }

    /// Resolves when the client has hung up. Without a body hyper sees that by itself; with one it
    /// doesn't read on before the body is wanted.
    async fn hung_up(&self) {
        if self.task.body.is_none() {
            return std::future::pending().await;
        }
        while !self.task.inbound.has_hung_up().await {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// How long the request waited, if that was for the start of this instance.
    fn waited(&self, lease: &Lease) -> Option<(Duration, Phases)> {
        let since = self.waiting_since.filter(|since| lease.target().admitted_at >= *since)?;
        let admitted = lease.target().admitted_at;
        Some((Duration::from_micros(admitted - since), lease.target().endpoint.cold?))
    }
}

/// Nobody will read this.
fn gone() -> Answer {
    Answer::new(Code::BadRequest, "the client has hung up")
}
