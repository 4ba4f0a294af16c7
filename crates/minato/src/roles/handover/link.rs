//! The new server's hold on the old one's edge, for as long as that has connections: what it is told
//! goes over in order, what it carries is known here as of its last report.
//!
//! Invariant: nobody waits for an old server that is gone or doesn't answer any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use minato_model::{
    ids::{InstanceId, ReleaseKey},
    routing::{Load, Traffic, Wake},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    line::{Reader, Writer},
    protocol::{Call, FromNew, FromOld},
};

/// How long the old server may take to read what it is told. After that it is as good as gone.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long is waited until it has done something that is done at once.
const DONE: Duration = Duration::from_secs(5);

/// A link to the server whose connections are still open.
#[derive(Debug)]
pub(super) struct Link {
    /// Unbounded, as the agent's calls must not wait; they are its steps, a few for each instance,
    /// and the link ends if they aren't read.
    out: mpsc::UnboundedSender<Letter>,
    known: Mutex<Known>,
    over: CancellationToken,
    /// It ended as the other didn't read, and may yet.
    stuck: AtomicBool,
}

/// What is said; who wants to know is told when it is on its way.
type Letter = (FromNew, Option<oneshot::Sender<()>>);

#[derive(Debug, Default)]
struct Known {
    next: u64,
    waiting: BTreeMap<u64, oneshot::Sender<()>>,
    loads: BTreeMap<ReleaseKey, (Load, Instant)>,
    traffic: BTreeMap<InstanceId, (Traffic, Instant)>,
    /// A report that was on its way may still name them.
    forgotten: BTreeSet<InstanceId>,
}

impl Link {
    /// A link over this connection; what the old edge asks for goes to `wake`.
    #[expect(clippy::disallowed_methods, reason = "see `out`")]
    pub(super) fn new(reader: Reader, writer: Writer, wake: Arc<dyn Wake>) -> Arc<Self> {
        let (out, queue) = mpsc::unbounded_channel();
        let (known, over) = (Mutex::default(), CancellationToken::new());
        let link = Arc::new(Self { out, known, over, stuck: AtomicBool::new(false) });
        // Both end with the connection.
        drop(tokio::spawn(Arc::clone(&link).read(reader, wake)));
        drop(tokio::spawn(Arc::clone(&link).write(writer, queue)));
        link
    }

    /// Tells the old edge.
    pub(super) fn tell(&self, call: Call) {
        self.say(FromNew::Call { number: None, call });
    }

    /// Says that this server serves. `false`: the old one is there, was not told, and will take
    /// everything back.
    pub(super) async fn ready(&self) -> bool {
        let (sent, told) = oneshot::channel();
        drop(self.out.send((FromNew::Ready, Some(sent))));
        told.await.is_ok() || !self.stuck.load(Ordering::Relaxed)
    }

    /// Tells the old edge at once; resolves when it says that it is done, or is gone, and for what is
    /// `quick` after a while.
    pub(super) fn ask(&self, call: Call, quick: bool) -> impl Future<Output = ()> + Send + 'static {
        let (done, told) = oneshot::channel();
        let number = {
            let mut known = self.known();
            known.next += 1;
            let number = known.next;
            known.waiting.insert(number, done);
            number
        };
        self.say(FromNew::Call { number: Some(number), call });
        if self.over.is_cancelled() {
            self.known().waiting.clear();
        }
        async move {
            if !quick {
                drop(told.await);
            } else if timeout(DONE, told).await.is_err() {
                tracing::warn!(
                    "the server before this one doesn't answer; what it was told isn't waited for"
                );
            }
        }
    }

    /// What the old edge has of a release.
    pub(super) fn load(&self, release: &ReleaseKey) -> Load {
        let known = self.known();
        known.loads.get(release).map_or_else(Load::default, |(load, at)| Load {
            idle: load.idle.map(|idle| idle + at.elapsed()),
            ..*load
        })
    }

    /// What the old edge gave to an instance.
    pub(super) fn traffic(&self, instance: &InstanceId) -> Traffic {
        let known = self.known();
        known.traffic.get(instance).map_or_else(Traffic::default, |(traffic, at)| Traffic {
            oldest: traffic.oldest.map(|age| age + at.elapsed()),
            answered: traffic.answered.map(|age| age + at.elapsed()),
            ..*traffic
        })
    }

    /// The instance is gone.
    pub(super) fn forget(&self, instance: InstanceId) {
        let mut known = self.known();
        known.traffic.remove(&instance);
        if !self.is_over() {
            known.forgotten.insert(instance.clone());
        }
        drop(known);
        self.tell(Call::Forget { instance });
    }

    /// Resolves when the old server is gone.
    pub(super) async fn over(&self) {
        self.over.cancelled().await;
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    fn say(&self, message: FromNew) {
        // After its end there is nobody to be told.
        drop(self.out.send((message, None)));
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears the old server until it is gone.
    async fn read(self: Arc<Self>, mut reader: Reader, wake: Arc<dyn Wake>) {
        loop {
            let message = tokio::select! {
                message = reader.next::<FromOld>() => message,
                () = self.over.cancelled() => break,
            };
            match message {
                Ok(Some((message, _))) => self.hear(message, &*wake),
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, "the server before this one can't be understood");
                    break;
                }
            }
        }
        self.end();
    }

    fn hear(&self, message: FromOld, wake: &dyn Wake) {
        let now = Instant::now();
        match message {
            FromOld::Done { number } => drop(self.known().waiting.remove(&number)),
            FromOld::Wake { release, need, load } => {
                self.known().loads.insert(release.clone(), (load, now));
                wake.wake(&release, need);
            }
            FromOld::Suspect { instance } => wake.suspect(&instance),
            FromOld::Report { loads, traffic } => {
                let mut known = self.known();
                known.loads.extend(loads.into_iter().map(|(release, load)| (release, (load, now))));
                for (instance, traffic) in traffic {
                    if !known.forgotten.contains(&instance) {
                        known.traffic.insert(instance, (traffic, now));
                    }
                }
            }
            FromOld::Welcome { .. } | FromOld::Refused { .. } | FromOld::Sockets { .. } | FromOld::Handed => {
                tracing::debug!("the server before this one repeats itself");
            }
        }
    }

    /// What it has carried stays known; what it carried last, nobody carries now.
    fn end(&self) {
        self.over.cancel();
        let mut known = self.known();
        known.waiting.clear();
        known.loads.clear();
        known.forgotten.clear();
        for (traffic, _) in known.traffic.values_mut() {
            *traffic = Traffic { requests: traffic.requests, errors: traffic.errors, ..Traffic::default() };
        }
    }

    async fn write(self: Arc<Self>, mut writer: Writer, mut queue: mpsc::UnboundedReceiver<Letter>) {
        loop {
            let letter = tokio::select! {
                letter = queue.recv() => letter,
                () = self.over.cancelled() => return,
            };
            let Some((message, sent)) = letter else { return };
            let written = timeout(PATIENCE, writer.send(&message, &[])).await;
            self.stuck.store(written.is_err(), Ordering::Relaxed);
            if !matches!(written, Ok(Ok(()))) {
                self.over.cancel();
                return;
            }
            sent.map(|sent| sent.send(()));
        }
    }
}
