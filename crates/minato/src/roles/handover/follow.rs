//! The old server's edge in the hands of the new one's agent: it does what it is told, says when it is
//! done, and tells what it carries and needs.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use minato_model::{
    BoxFuture,
    code::Code,
    ids::{InstanceId, ReleaseKey},
    routing::{Load, Refusal, Routing, Traffic, Wake},
};
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    line::{Reader, Writer},
    link::PATIENCE,
    protocol::{Call, FromNew, FromOld},
};

/// How often the new server is told what has changed.
const REPORT: Duration = Duration::from_millis(100);
/// Ages that differ by less are the same: both sides let them grow by themselves.
const SAME: Duration = Duration::from_millis(200);
/// When to come again, for those who waited while the new server went down.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What the old edge asks the new agent for, merged: bounded by what there is.
#[derive(Debug, Default)]
pub(super) struct Asked {
    waiting: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    wakes: BTreeMap<ReleaseKey, u32>,
    suspects: BTreeSet<InstanceId>,
}

impl Asked {
    fn change(&self, change: impl FnOnce(&mut Waiting)) {
        change(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }

    fn take(&self) -> Waiting {
        std::mem::take(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Wake for Asked {
    fn wake(&self, release: &ReleaseKey, need: u32) {
        self.change(|waiting| match waiting.wakes.get_mut(release) {
            Some(known) => *known = need.max(*known),
            None => {
                waiting.wakes.insert(release.clone(), need);
            }
        });
    }

    fn suspect(&self, instance: &InstanceId) {
        self.change(|waiting| {
            waiting.suspects.insert(instance.clone());
        });
    }

    /// The other server would know.
    fn is_starting(&self, _: &ReleaseKey) -> bool {
        true
    }
}

/// The connection to the new server, and what it has told so far.
pub(super) struct Follower {
    reader: Reader,
    writer: Writer,
    routing: Arc<dyn Routing>,
    asked: Arc<Asked>,
    releases: BTreeMap<ReleaseKey, (Load, Instant)>,
    instances: BTreeMap<InstanceId, (Traffic, Instant)>,
}

/// Calls whose effect is waited for.
type Pending<'a> = FuturesUnordered<BoxFuture<'a, u64>>;

impl Follower {
    pub(super) fn new(reader: Reader, writer: Writer, routing: Arc<dyn Routing>, asked: Arc<Asked>) -> Self {
        let (releases, instances) = (BTreeMap::new(), BTreeMap::new());
        Self { reader, writer, routing, asked, releases, instances }
    }

    /// Obeys until the new server is gone; then nothing of what it told holds any more. Once it serves,
    /// `ready` is cancelled. Stopped, it tells a last time what was carried.
    pub(super) async fn run(mut self, ready: CancellationToken, stop: CancellationToken) {
        if let Err(error) = self.follow(&ready, &stop).await {
            tracing::debug!(%error, "the other server is gone");
        }
        if !ready.is_cancelled() || stop.is_cancelled() {
            // This edge ends, or its own agent tells it everything anew.
            return;
        }
        // Addresses may be others' soon. What is under way goes on; who waits is told.
        let withdrawn: Vec<_> = self.instances.keys().map(|id| self.routing.withdraw(id)).collect();
        let refusal = Refusal { code: Code::Draining, instance: None, retry_after: RETRY_AFTER };
        for release in self.releases.keys() {
            self.routing.refuse(release, Some(refusal.clone()));
        }
        futures_util::future::join_all(withdrawn).await;
    }

    async fn follow(&mut self, ready: &CancellationToken, stop: &CancellationToken) -> io::Result<()> {
        let routing = Arc::clone(&self.routing);
        let mut pending = Pending::new();
        let mut report = tokio::time::interval(REPORT);
        report.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = self.reader.next::<FromNew>() => match message?.map(|(message, _)| message) {
                    Some(FromNew::Call { number, call }) => {
                        self.note(&call);
                        let done = obey(&*routing, call);
                        if let (Some(done), Some(number)) = (done, number) {
                            pending.push(Box::pin(async move {
                                done.await;
                                number
                            }));
                        }
                    }
                    Some(FromNew::Ready) => ready.cancel(),
                    Some(FromNew::Hello { .. } | FromNew::Go) => {
                        return Err(io::ErrorKind::InvalidData.into());
                    }
                    None => return Err(io::ErrorKind::UnexpectedEof.into()),
                },
                Some(number) = pending.next() => self.say(FromOld::Done { number }).await?,
                () = self.asked.changed.notified() => self.ask().await?,
                _ = report.tick() => self.report().await?,
                () = stop.cancelled() => return self.report().await,
            }
        }
    }

    /// Which releases and instances there are to be told of.
    fn note(&mut self, call: &Call) {
        let now = Instant::now();
        match call {
            Call::Publish { table } => {
                // Others are told of again when they need something.
                self.releases.retain(|_, (load, _)| load.in_flight + load.waiting > 0);
                for entry in &table.services {
                    for weight in &entry.weights {
                        let key = ReleaseKey { service: entry.service.clone(), number: weight.number };
                        self.releases.entry(key).or_insert_with(|| (Load::default(), now));
                    }
                }
            }
            Call::Admit { endpoint } => {
                self.releases.entry(endpoint.release.clone()).or_insert_with(|| (Load::default(), now));
                self.instances.entry(endpoint.instance.clone()).or_insert_with(|| (Traffic::default(), now));
            }
            Call::Introduce { instance, .. } => {
                self.instances.entry(instance.clone()).or_insert_with(|| (Traffic::default(), now));
            }
            Call::Forget { instance } => drop(self.instances.remove(instance)),
            Call::Withdraw { .. }
            | Call::Quiet { .. }
            | Call::StreamsOver { .. }
            | Call::EndStreams { .. }
            | Call::Refuse { .. } => {}
        }
    }

    /// Asks for what requests here need.
    async fn ask(&mut self) -> io::Result<()> {
        let Waiting { wakes, suspects } = self.asked.take();
        for (release, need) in wakes {
            let load = self.routing.load(&release);
            self.releases.insert(release.clone(), (load, Instant::now()));
            self.say(FromOld::Wake { release, need, load }).await?;
        }
        for instance in suspects {
            self.say(FromOld::Suspect { instance }).await?;
        }
        Ok(())
    }

    /// Tells what has changed since it was told last.
    async fn report(&mut self) -> io::Result<()> {
        let now = Instant::now();
        let (mut loads, mut all) = (Vec::new(), Vec::new());
        for (release, (known, at)) in &mut self.releases {
            let load = self.routing.load(release);
            if !is_same_load(known, &load, now - *at) {
                (*known, *at) = (load, now);
                loads.push((release.clone(), load));
            }
        }
        for (instance, (known, at)) in &mut self.instances {
            let traffic = self.routing.traffic(instance);
            if !is_same_traffic(known, &traffic, now - *at) {
                (*known, *at) = (traffic, now);
                all.push((instance.clone(), traffic));
            }
        }
        if loads.is_empty() && all.is_empty() {
            return Ok(());
        }
        self.say(FromOld::Report { loads, traffic: all }).await
    }

    async fn say(&mut self, message: FromOld) -> io::Result<()> {
        timeout(PATIENCE, self.writer.send(&message, &[])).await?
    }
}

/// Does what is asked, at once; what is then to be waited for.
fn obey(routing: &dyn Routing, call: Call) -> Option<BoxFuture<'_, ()>> {
    match call {
        Call::Publish { table } => Some(routing.publish(Arc::new(table))),
        Call::Withdraw { instance } => Some(routing.withdraw(&instance)),
        Call::Quiet { instance } => Some(routing.quiet(&instance)),
        Call::StreamsOver { instance } => Some(routing.streams_over(&instance)),
        Call::EndStreams { instance } => Some(routing.end_streams(&instance)),
        Call::Admit { endpoint } => {
            routing.admit(*endpoint);
            None
        }
        Call::Introduce { instance, service, address } => {
            routing.introduce(&instance, &service, address);
            None
        }
        Call::Forget { instance } => {
            routing.forget(&instance);
            None
        }
        Call::Refuse { release, refusal } => {
            routing.refuse(&release, refusal);
            None
        }
    }
}

/// Whether a load is what was told that long ago, and has only grown older.
fn is_same_load(known: &Load, load: &Load, since: Duration) -> bool {
    Load { idle: None, ..*known } == Load { idle: None, ..*load } && is_same_age(known.idle, load.idle, since)
}

fn is_same_traffic(known: &Traffic, traffic: &Traffic, since: Duration) -> bool {
    let ageless = |traffic: &Traffic| Traffic { oldest: None, answered: None, ..*traffic };
    ageless(known) == ageless(traffic)
        && is_same_age(known.oldest, traffic.oldest, since)
        && is_same_age(known.answered, traffic.answered, since)
}

fn is_same_age(known: Option<Duration>, age: Option<Duration>, since: Duration) -> bool {
    match (known, age) {
        (Some(known), Some(age)) => (known + since).abs_diff(age) < SAME,
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}
