//! The server's side of the keeper's socket. Cheap to clone, shared by threads.

use std::{
    collections::BTreeMap,
    io,
    net::Ipv4Addr,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{RecvTimeoutError, Sender, SyncSender, channel, sync_channel},
    },
    time::Duration,
};

use minato_model::ids::InstanceId;
use rustix::net::{
    RecvFlags, SendFlags, Shutdown, shutdown,
    sockopt::{Timeout, set_socket_timeout},
};

mod connect;

use connect::{START_MAX, connect_to, first_words, start};

use super::{
    Config, Connection,
    protocol::{BINDS, FIRST, Failure, IDENTIFIES, Reply, Request, VERSION},
};
use crate::{
    cgroup,
    protection::Without,
    sandbox::Sandbox,
    spec::{Binding, Event, SandboxSpec},
    wire,
};

/// The longest that a sandbox may take to be made: hundreds of them, one after another.
const MAKE_MAX: Duration = Duration::from_secs(30);
/// How many hundredths of a second a keeper whose socket ended may take to end.
const END_TRIES: u32 = 100;
/// Keepers that may die while they greet this server before that is an error.
const LOST_MAX: u32 = 3;

/// The keeper can't be reached.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// It could not be started.
    #[error("the keeper could not be started: {reason}")]
    Start {
        /// What it said.
        reason: String,
    },
    /// It speaks another version of the protocol.
    #[error(
        "the running keeper speaks version {theirs} of its protocol, this server version {ours}: stop its instances with the server that started it"
    )]
    Version {
        /// The keeper's.
        theirs: u32,
        /// This server's.
        ours: u32,
    },
    /// It is gone.
    #[error("the keeper is gone")]
    Gone,
    /// Its socket failed.
    #[error("the keeper's socket failed")]
    Io(#[source] io::Error),
}

/// A sandbox could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// A step failed.
    #[error("the sandbox could not be made: the step `{step}` failed")]
    Step {
        /// Which step.
        step: String,
        /// Why.
        source: io::Error,
    },
    /// The address' former link isn't gone yet: take another address.
    #[error("the address {address} isn't free yet")]
    Busy {
        /// Which.
        address: Ipv4Addr,
    },
    /// What is asked for can't be.
    #[error("the sandbox can't be made: {0}")]
    Invalid(&'static str),
    /// The keeper is gone.
    #[error("the keeper is gone")]
    Gone,
}

/// Asks the keeper. Every method may be called from any thread; only [`Client::make`] and
/// [`Client::shutdown`] wait for an answer. When the last clone is dropped the keeper and the
/// instances go on.
#[derive(Debug, Clone)]
pub struct Client {
    link: Arc<Link>,
}

/// Ends the connection, and with it the reading thread, when it is dropped.
#[derive(Debug)]
struct Link {
    shared: Arc<Shared>,
}

/// What callers and the reading thread have in common.
#[derive(Debug)]
struct Shared {
    socket: OwnedFd,
    /// The version that both speak.
    version: u32,
    /// Where the instances' control groups are.
    cgroups: cgroup::Parent,
    calls: Mutex<Calls>,
    ended: Condvar,
    /// Set when this side hung up.
    hung_up: AtomicBool,
    /// The keeper, if this process started it: it must be reaped.
    process: Mutex<Option<std::process::Child>>,
}

#[derive(Debug, Default)]
struct Calls {
    next: u64,
    waiting: BTreeMap<u64, SyncSender<Made>>,
    gone: bool,
}

/// The answer to a call.
#[derive(Debug)]
enum Made {
    Sandbox { pid: u32, control: OwnedFd, user_namespace: OwnedFd, network_namespace: OwnedFd },
    Failed(Failure),
}

impl Client {
    /// Connects to the keeper of this data directory, or starts one. Blocks until it answers.
    ///
    /// # Errors
    /// See [`KeeperError`].
    pub fn connect_or_spawn(config: &Config) -> Result<Connection, KeeperError> {
        let mut process = None;
        let mut lost = 0;
        // Each round: connect, else start one. Another server's keeper may be starting or ending.
        for _ in 0..200 {
            match connect_to(config) {
                Ok(socket) => match greet(config, socket, &mut process) {
                    // It died just now: what it held died with it, and the next one sweeps it away.
                    Err(KeeperError::Gone) if lost < LOST_MAX => lost += 1,
                    result => return result,
                },
                Err(error) => match error.raw_os_error() {
                    Some(libc::ENOENT | libc::ECONNREFUSED) => {}
                    _ => return Err(KeeperError::Io(error)),
                },
            }
            if let Some(mut dead) = process.take() {
                // Nothing to reap if it only hung up.
                drop(dead.try_wait());
            }
            process = start(config, START_MAX)?;
            if process.is_none() {
                crate::cgroup::pause(Duration::from_millis(10));
            }
        }
        Err(KeeperError::Start { reason: "another one has its lock, but doesn't answer".into() })
    }

    /// The keeper's process; `None`: the socket doesn't tell.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        let peer = rustix::net::sockopt::socket_peercred(&self.link.shared.socket).ok()?;
        u32::try_from(peer.pid.as_raw_nonzero().get()).ok()
    }

    /// Makes a sandbox: namespaces, network, control group, an init parked in it. Blocks for some
    /// milliseconds. Calls from several threads are worked off in order.
    ///
    /// # Errors
    /// See [`MakeError`]; what was begun is taken away, and no end is reported.
    pub fn make(&self, spec: &SandboxSpec) -> Result<Sandbox, MakeError> {
        self.make_with(spec, Without::default())
    }

    /// [`Client::make`], with protections left out; not in a release.
    ///
    /// # Errors
    /// As [`Client::make`].
    #[cfg(debug_assertions)]
    pub fn make_without(
        &self,
        spec: &SandboxSpec,
        left_out: &[crate::protection::Protection],
    ) -> Result<Sandbox, MakeError> {
        self.make_with(spec, Without::these(left_out))
    }

    fn make_with(&self, spec: &SandboxSpec, without: Without) -> Result<Sandbox, MakeError> {
        check(spec)?;
        let (answer, answered) = sync_channel(1);
        let shared = &self.link.shared;
        let call = {
            let mut calls = shared.lock();
            if calls.gone {
                return Err(MakeError::Gone);
            }
            calls.next += 1;
            let call = calls.next;
            calls.waiting.insert(call, answer);
            call
        };
        let request = Request::Make { call, spec: Box::new(spec.clone()), without: without.clone() };
        if shared.send(&request, &[]).is_err() {
            shared.lock().waiting.remove(&call);
            return Err(MakeError::Gone);
        }
        let made = match answered.recv_timeout(MAKE_MAX) {
            Ok(made) => made,
            Err(RecvTimeoutError::Disconnected) => return Err(MakeError::Gone),
            Err(RecvTimeoutError::Timeout) => {
                // What is answered now finds nobody, and ends; what hangs is killed.
                shared.lock().waiting.remove(&call);
                drop(self.kill(&spec.instance));
                let source = io::ErrorKind::TimedOut.into();
                return Err(MakeError::Step { step: "wait for the sandbox".into(), source });
            }
        };
        match made {
            Made::Sandbox { pid, control, user_namespace, network_namespace } => Ok(Sandbox {
                instance: spec.instance.clone(),
                pid,
                control,
                user_namespace,
                network_namespace,
                made: Binding::of(spec),
                bound: None,
                client: self.clone(),
                without,
            }),
            Made::Failed(failure) if failure.step == Failure::BUSY => {
                Err(MakeError::Busy { address: spec.address })
            }
            Made::Failed(failure) => Err(MakeError::Step { source: failure.error(), step: failure.step }),
        }
    }

    /// Whether sandboxes can be made before it is known for whom: an older keeper can't.
    #[must_use]
    pub fn binds_late(&self) -> bool {
        self.link.shared.version >= BINDS
    }

    /// Whether an instance can be given an identity: an older keeper's sandboxes take none.
    #[must_use]
    pub fn identifies(&self) -> bool {
        self.link.shared.version >= IDENTIFIES
    }

    /// Where the instances' control groups are.
    pub(crate) fn cgroups(&self) -> &cgroup::Parent {
        &self.link.shared.cgroups
    }

    /// An instance's output is to go there. Before its start, so that no end of its comes first.
    pub(crate) fn bind(&self, instance: &InstanceId, log: PathBuf, log_max: u64) -> Result<(), KeeperError> {
        self.link.shared.send(&Request::Bind { instance: instance.clone(), log, log_max }, &[])
    }

    /// The program of an instance was executed.
    pub(crate) fn started(&self, instance: &InstanceId, tag: &[u8]) -> Result<(), KeeperError> {
        self.link.shared.send(&Request::Started { instance: instance.clone() }, tag)
    }

    /// What a later server is told with an instance that was started, from now on.
    ///
    /// # Errors
    /// The keeper is gone.
    pub fn tag(&self, instance: &InstanceId, tag: &[u8]) -> Result<(), KeeperError> {
        self.started(instance, tag)
    }

    /// Sends a signal, by number, to the first process of an instance: with `init = true` it is passed
    /// to the program. Nothing happens if it has ended.
    ///
    /// # Errors
    /// The keeper is gone.
    pub fn signal(&self, instance: &InstanceId, signal: i32) -> Result<(), KeeperError> {
        self.link.shared.send(&Request::Signal { instance: instance.clone(), signal }, &[])
    }

    /// Kills every process of an instance at once. Its end is reported as any other.
    ///
    /// # Errors
    /// The keeper is gone.
    pub fn kill(&self, instance: &InstanceId) -> Result<(), KeeperError> {
        self.link.shared.send(&Request::Kill { instance: instance.clone() }, &[])
    }

    /// Says that the end of an instance is known: it isn't reported again.
    ///
    /// # Errors
    /// The keeper is gone.
    pub fn forget(&self, instance: &InstanceId) -> Result<(), KeeperError> {
        self.link.shared.send(&Request::Forget { instance: instance.clone() }, &[])
    }

    /// Kills what still runs, ends the keeper and takes its control groups away. Blocks until it is
    /// gone, at most ten seconds.
    ///
    /// # Errors
    /// The keeper was gone already, or did not end in time.
    pub fn shutdown(&self) -> Result<(), KeeperError> {
        let shared = &self.link.shared;
        shared.send(&Request::Shutdown, &[])?;
        let calls = shared.lock();
        let waited = shared.ended.wait_timeout_while(calls, Duration::from_secs(10), |calls| !calls.gone);
        let (calls, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        drop(calls);
        if timeout.timed_out() { Err(KeeperError::Io(io::ErrorKind::TimedOut.into())) } else { Ok(()) }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.hung_up.store(true, Ordering::Release);
        // It can only be closed already.
        shutdown(&self.shared.socket, Shutdown::Both).ok();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Calls> {
        // A panic elsewhere leaves the map whole: every change is one call.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends one request. It may block, for the keeper always comes to read.
    fn send(&self, request: &Request, blob: &[u8]) -> Result<(), KeeperError> {
        let bytes = wire::encode(request, blob).map_err(KeeperError::Io)?;
        wire::send(&self.socket, &bytes, &[], SendFlags::empty()).map_err(|_| KeeperError::Gone)
    }

    /// The reading thread: answers to who waits, everything else to `events`.
    fn read(&self, events: &Sender<Event>) {
        while let Ok(Some(message)) = wire::receive(&self.socket, RecvFlags::empty()) {
            let Ok((reply, _)) = wire::decode::<Reply>(&message.bytes) else { break };
            match reply {
                Reply::Made { call, pid } => {
                    let Ok([control, user_namespace, network_namespace]) =
                        <[OwnedFd; 3]>::try_from(message.fds)
                    else {
                        break;
                    };
                    self.answer(call, Made::Sandbox { pid, control, user_namespace, network_namespace });
                }
                Reply::NotMade { call, failure } => self.answer(call, Made::Failed(failure)),
                // Nobody listening is the owner's choice.
                Reply::Ended(ended) => drop(events.send(Event::Ended(ended))),
                Reply::Hello { .. } | Reply::Held(_) => {}
            }
        }
        if !self.hung_up.load(Ordering::Acquire) {
            // The socket ends when the process does, unless another server was preferred.
            self.reap(END_TRIES);
        }
        let mut calls = self.lock();
        calls.gone = true;
        calls.waiting.clear();
        drop(calls);
        self.ended.notify_all();
        drop(events.send(Event::KeeperGone));
    }

    /// Waits a little until the keeper has ended, if this process started it.
    fn reap(&self, tries: u32) {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..tries {
            match process.as_mut().map(std::process::Child::try_wait) {
                Some(Ok(None)) => cgroup::pause(Duration::from_millis(10)),
                _ => {
                    *process = None;
                    return;
                }
            }
        }
    }

    /// Waits until the keeper has ended, if this process started it: whoever serves, it is reaped here.
    fn reap_at_last(&self) {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut process) = process {
            drop(process.wait());
        }
    }

    fn answer(&self, call: u64, made: Made) {
        if let Some(waiting) = self.lock().waiting.remove(&call) {
            // Room for one, and one is sent.
            drop(waiting.send(made));
        }
    }
}

fn check(spec: &SandboxSpec) -> Result<(), MakeError> {
    let ends = u64::from(spec.id_range_start) + u64::from(crate::ids::RANGE);
    if spec.id_range_start == 0 || ends > u64::from(u32::MAX) {
        return Err(MakeError::Invalid("its ids would be the host's"));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if spec.hostname.is_empty() || spec.hostname.len() > 63 || !spec.hostname.chars().all(plain) {
        return Err(MakeError::Invalid("the host name must be 1 to 63 letters, digits, `-` and `.`"));
    }
    if !spec.log.is_absolute() {
        return Err(MakeError::Invalid("the log's path must be absolute"));
    }
    Ok(())
}

/// The first words, then a thread that reads whatever comes.
fn greet(
    config: &Config,
    mut socket: OwnedFd,
    process: &mut Option<std::process::Child>,
) -> Result<Connection, KeeperError> {
    let (mut held, mut ids, mut version) = first_words(&socket, VERSION)?;
    if version == FIRST {
        // It tells what it holds only to who says its version at once.
        socket = connect_to(config).map_err(KeeperError::Io)?;
        (held, ids, version) = first_words(&socket, FIRST)?;
    }
    for direction in [Timeout::Recv, Timeout::Send] {
        set_socket_timeout(&socket, direction, None).map_err(|error| KeeperError::Io(error.into()))?;
    }
    let cgroups = cgroup::Parent::new(&config.id).map_err(KeeperError::Io)?;
    let shared = Arc::new(Shared {
        socket,
        version,
        cgroups,
        calls: Mutex::default(),
        ended: Condvar::new(),
        hung_up: AtomicBool::new(false),
        process: Mutex::new(process.take()),
    });
    // Bounded by what can end: an event or two for each sandbox that was asked for.
    let (sender, events) = channel();
    let reader = Arc::clone(&shared);
    std::thread::Builder::new()
        .name("keeper-reader".into())
        .spawn(move || {
            reader.read(&sender);
            drop(sender);
            reader.reap_at_last();
        })
        .map_err(KeeperError::Io)?;
    Ok(Connection { client: Client { link: Arc::new(Link { shared }) }, held, ids, events })
}
