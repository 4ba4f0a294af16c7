//! What all edge threads share: the snapshot in force, and who is who.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
};

use arc_swap::ArcSwap;
use minato_identity::client::Client;
use minato_model::{
    ids::{InstanceId, ReleaseKey, ServiceKey},
    network::AddressPlan,
    routing::Wake,
};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::{
    admit,
    clock::Clock,
    config::{Limits, Prefix},
    handover::{Inherited, Name},
    inbound::Entry,
    observe::{self, Figures, Gauges, Totals},
    release::Release,
    serve::Command,
    snapshot::Snapshot,
    target::Target,
    tls::Tls,
};

pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) limits: Limits,
    pub(crate) trusted: Vec<Prefix>,
    pub(crate) plan: Option<AddressPlan>,
    /// The failure domain that the edge is in.
    zone: Option<Arc<str>>,
    pub(crate) snapshot: ArcSwap<Snapshot>,
    pub(crate) tls: Tls,
    /// `None`: no instance is spoken to over TLS.
    pub(crate) credentials: Option<Client>,
    /// Where TLS is spoken at the public address.
    pub(crate) https: Option<u16>,
    pub(crate) totals: Totals,
    pub(crate) wake: Arc<dyn Wake>,
    pub(crate) instances: Mutex<BTreeMap<InstanceId, Known>>,
    /// Listeners of services: what each is for, whose it is, and how it is spoken at.
    pub(crate) listening: Mutex<BTreeMap<(Name, Entry), oneshot::Sender<()>>>,
    /// Where the public listeners are: services of plain TCP have their ports there.
    pub(crate) public: Option<IpAddr>,
    callers: RwLock<BTreeMap<Ipv4Addr, (InstanceId, ServiceKey)>>,
    releases: Mutex<BTreeMap<ReleaseKey, Arc<Release>>>,
    /// Sockets of a predecessor that no service has claimed yet.
    inherited: Mutex<Inherited>,
    retired: AtomicBool,
    threads: Vec<Thread>,
    serials: AtomicU64,
    accepting: AtomicUsize,
    /// A connection has ended, or those who accept them.
    pub(crate) ended: Notify,
}

/// An instance that the agent told of.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) target: Option<Arc<Target>>,
    /// What it was before it was admitted anew, as far as that still carries something.
    pub(crate) former: Vec<Arc<Target>>,
    pub(crate) address: Option<Ipv4Addr>,
    /// Its network namespace.
    pub(crate) namespace: Option<Arc<OwnedFd>>,
}

impl Known {
    /// What it is, after all that it was and has not finished.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.former.iter().chain(&self.target)
    }
}

struct Thread {
    /// Unbounded, because those who tell must not wait; they are the agent's steps, a few for each
    /// instance, and connections that were counted.
    commands: mpsc::UnboundedSender<Command>,
    connections: AtomicUsize,
}

/// A connection that counts for its thread until this is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    shared: Arc<Shared>,
    index: usize,
}

/// A listener that connections are accepted from until this is dropped.
#[derive(Debug)]
pub(crate) struct Accepting(Arc<Shared>);

/// A thread takes over connections only if the difference is worth it.
const IMBALANCE: usize = 8;

impl Shared {
    pub(crate) fn new(
        config: (Limits, Vec<Prefix>, Option<AddressPlan>, Option<String>, Option<IpAddr>),
        wake: Arc<dyn Wake>,
        commands: Vec<mpsc::UnboundedSender<Command>>,
        inherited: Inherited,
        (tls, https): (Tls, Option<u16>),
        credentials: Option<Client>,
    ) -> Self {
        let (limits, trusted, plan, zone, public) = config;
        let thread = |commands| Thread { commands, connections: AtomicUsize::new(0) };
        Self {
            clock: Clock::start(),
            limits,
            trusted,
            plan,
            zone: zone.map(Arc::from),
            snapshot: ArcSwap::default(),
            tls,
            credentials,
            https,
            totals: Totals::new(commands.len()),
            wake,
            instances: Mutex::default(),
            listening: Mutex::default(),
            public,
            callers: RwLock::default(),
            releases: Mutex::default(),
            inherited: Mutex::new(inherited),
            retired: AtomicBool::new(false),
            threads: commands.into_iter().map(thread).collect(),
            serials: AtomicU64::new(1),
            accepting: AtomicUsize::new(0),
            ended: Notify::new(),
        }
    }

    pub(crate) fn next_serial(&self) -> u64 {
        self.serials.fetch_add(1, SeqCst)
    }

    /// The release, made if it isn't known yet.
    pub(crate) fn release(&self, key: &ReleaseKey) -> Arc<Release> {
        let mut releases = self.releases.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            let release = Release::new(key.clone(), self.clock, Arc::clone(&self.wake));
            Arc::new(release.seen_from(self.zone.clone()))
        };
        Arc::clone(releases.entry(key.clone()).or_insert_with(make))
    }

    /// Takes note of what came of each release's requests. Called once a second.
    pub(crate) fn look(&self) {
        let releases: Vec<_> =
            self.releases.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        releases.iter().filter(|release| release.given() > 0).for_each(|release| release.look());
    }

    pub(crate) fn known_release(&self, key: &ReleaseKey) -> Option<Arc<Release>> {
        self.releases.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// Forgets releases that `keep` doesn't name and that carry nothing.
    pub(crate) fn prune(&self, mut keep: impl FnMut(&Arc<Release>) -> bool) {
        let mut releases = self.releases.lock().unwrap_or_else(PoisonError::into_inner);
        releases.retain(|_, release| keep(release) || !release.is_empty());
    }

    /// Whose instance has this address.
    pub(crate) fn caller(&self, address: Ipv4Addr) -> Option<ServiceKey> {
        let callers = self.callers.read().unwrap_or_else(PoisonError::into_inner);
        callers.get(&address).map(|(_, service)| service.clone())
    }

    /// The instance that has this address.
    pub(crate) fn instance(&self, address: Ipv4Addr) -> Option<(InstanceId, ServiceKey)> {
        self.callers.read().unwrap_or_else(PoisonError::into_inner).get(&address).cloned()
    }

    pub(crate) fn introduce(&self, instance: &InstanceId, service: &ServiceKey, address: Ipv4Addr) {
        let mut callers = self.callers.write().unwrap_or_else(PoisonError::into_inner);
        callers.insert(address, (instance.clone(), service.clone()));
    }

    /// Forgets the address, unless it is another instance's by now.
    pub(crate) fn dismiss(&self, instance: &InstanceId, address: Ipv4Addr) {
        let mut callers = self.callers.write().unwrap_or_else(PoisonError::into_inner);
        if callers.get(&address).is_some_and(|(other, _)| other == instance) {
            callers.remove(&address);
        }
    }

    pub(crate) fn inherited(&self) -> MutexGuard<'_, Inherited> {
        self.inherited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A successor listens now: nothing is to be listened at from here any more.
    pub(crate) fn retire(&self) {
        self.retired.store(true, SeqCst);
        self.listening.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(SeqCst)
    }

    /// Ends the streams of every instance.
    pub(crate) fn end_all_streams(&self) {
        let instances = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
        for target in instances.values().flat_map(Known::all) {
            target.end_streams();
        }
    }

    pub(crate) fn threads(&self) -> usize {
        self.threads.len()
    }

    /// Tells one thread.
    pub(crate) fn tell(&self, index: usize, command: Command) {
        if let Some(thread) = self.threads.get(index) {
            // A thread that has ended has nothing left to do.
            drop(thread.commands.send(command));
        }
    }

    /// Tells every thread.
    pub(crate) fn tell_all(&self, command: impl Fn() -> Command) {
        for index in 0..self.threads.len() {
            self.tell(index, command());
        }
    }

    /// Resolves when every thread is through with what it was told, and with what it was doing.
    /// The threads are told at once, not when this is first polled.
    pub(crate) fn confirmed(&self) -> impl Future<Output = ()> + Send + 'static {
        let confirmations: Vec<_> = (0..self.threads.len())
            .map(|index| {
                let (done, confirmation) = oneshot::channel();
                self.tell(index, Command::Confirm(done));
                confirmation
            })
            .collect();
        async move {
            for confirmation in confirmations {
                // A thread that has ended picks nothing any more.
                drop(confirmation.await);
            }
        }
    }

    /// Whether the thread has as many connections as it may.
    pub(crate) fn is_full(&self, index: usize) -> bool {
        self.threads.get(index).is_some_and(|t| t.connections.load(SeqCst) >= self.limits.connections)
    }

    /// A thread that has far fewer connections than this one.
    pub(crate) fn less_busy_than(&self, index: usize) -> Option<usize> {
        let count = |thread: &Thread| thread.connections.load(SeqCst);
        let (other, thread) = self.threads.iter().enumerate().min_by_key(|(_, thread)| count(thread))?;
        (count(thread) + IMBALANCE <= count(self.threads.get(index)?)).then_some(other)
    }

    pub(crate) fn count_connection(self: &Arc<Self>, index: usize) -> Counted {
        if let Some(thread) = self.threads.get(index) {
            thread.connections.fetch_add(1, SeqCst);
        }
        Counted { shared: Arc::clone(self), index }
    }

    pub(crate) fn accepts(self: &Arc<Self>) -> Accepting {
        self.accepting.fetch_add(1, SeqCst);
        Accepting(Arc::clone(self))
    }

    /// Whether connections may still come.
    pub(crate) fn is_accepting(&self) -> bool {
        self.accepting.load(SeqCst) > 0
    }

    pub(crate) fn connections(&self) -> usize {
        self.threads.iter().map(|thread| thread.connections.load(SeqCst)).sum()
    }

    pub(crate) fn metrics(&self) -> String {
        let releases: Vec<_> =
            self.releases.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let gauges = Gauges {
            connections: u64::try_from(self.connections()).unwrap_or(u64::MAX),
            held: releases.iter().map(|release| u64::from(release.load().waiting)).sum(),
        };
        let figures: Vec<_> = releases
            .iter()
            .filter_map(|release| {
                Some(Figures {
                    key: &release.key,
                    stats: release.stats_if_any().or_else(|| {
                        // Of plain TCP there are no requests.
                        (release.tcp.figures()[0] > 0).then(|| release.stats(self.threads()))
                    })?,
                    streams: release.streams(),
                    in_flight: release.load().in_flight,
                    ejections: release.ejections.load(Relaxed),
                    tripped: release.flow().tripped,
                    over_budget: release.over_budget.load(Relaxed),
                    tcp: release.tcp.figures(),
                })
            })
            .collect();
        let mut text = observe::render(&self.totals, gauges, &figures);
        match admit::write_figures(&mut text, &self.snapshot.load()) {
            // Writing to a string can't fail.
            Ok(()) | Err(std::fmt::Error) => text,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(thread) = self.shared.threads.get(self.index) {
            thread.connections.fetch_sub(1, SeqCst);
        }
        self.shared.ended.notify_waiters();
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.accepting.fetch_sub(1, SeqCst);
        self.0.ended.notify_waiters();
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("connections", &self.connections()).finish_non_exhaustive()
    }
}
