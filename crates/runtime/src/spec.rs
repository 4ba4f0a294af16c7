//! What is asked of the runtime, and what it answers: plain data.

use std::{net::Ipv4Addr, path::PathBuf};

use minato_model::{ids::InstanceId, network::AddressPlan};
use serde::{Deserialize, Serialize};

/// What a sandbox is made of. What belongs to a release (limits, scratch, log) may be anything here and
/// be put right by [`crate::sandbox::Sandbox::bind`]: all the rest is known before anyone asks for a start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Whose sandbox it is. Never used again.
    pub instance: InstanceId,
    /// Its address, a /32 of `plan`. The link of the instance that had it before goes some
    /// milliseconds after that one's end; until then it can't be had.
    pub address: Ipv4Addr,
    /// The node's network: gateway and name server are in it.
    pub plan: AddressPlan,
    /// The first of its 65,536 user and group ids on the host, from [`crate::ids::Ids::range`].
    pub id_range_start: u32,
    /// Its host name, at most 63 bytes.
    pub hostname: String,
    /// What it may use.
    pub limits: Limits,
    /// The size of each memory file system (`/tmp`, `/dev/shm`, what is writable), in bytes.
    pub scratch: u64,
    /// The name server that `/etc/resolv.conf` names; usually `plan.gateway()`.
    pub dns: Ipv4Addr,
    /// Where its output goes: this file and the one before it, `<log>.1`. The folder is made.
    pub log: PathBuf,
    /// The size at which a log file is turned over; two are kept.
    pub log_max: u64,
}

/// What a sandbox is given when it is known for whom it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// What it may use.
    pub limits: Limits,
    /// The size of `/tmp` and of `/dev/shm`, in bytes.
    pub scratch: u64,
    /// Where its output goes, as in [`SandboxSpec::log`].
    pub log: PathBuf,
    /// As in [`SandboxSpec::log_max`].
    pub log_max: u64,
}

impl Binding {
    /// As a sandbox was made.
    #[must_use]
    pub fn of(spec: &SandboxSpec) -> Self {
        Self { limits: spec.limits, scratch: spec.scratch, log: spec.log.clone(), log_max: spec.log_max }
    }
}

/// The limits of the control group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory with everything that counts as it, in bytes; swap included.
    pub memory: u64,
    /// Processes and threads; the init of `init = true` is one of them.
    pub pids: u32,
    /// Its weight against others, in thousandths of a core.
    pub cpu_millis: u32,
    /// A ceiling in thousandths of a core; 0: none.
    pub cpu_max_millis: u32,
}

/// What is started in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The merged tree, as [`crate::mounts::mount_points`] left it. It is bound read-only.
    pub root: PathBuf,
    /// The program and its arguments; a first part without `/` is looked up in `PATH` of `env`.
    pub argv: Vec<String>,
    /// The whole environment, `NAME=value`.
    pub env: Vec<String>,
    /// The working directory, absolute; it must be there.
    pub cwd: String,
    /// The user inside.
    pub uid: u32,
    /// The group inside.
    pub gid: u32,
    /// The supplementary groups inside, at most 64.
    pub groups: Vec<u32>,
    /// Paths that become memory file systems with the image's content, owner and mode.
    pub writable: Vec<String>,
    /// The size of each of those, in bytes.
    pub scratch: u64,
    /// Open files per process; lowered to what the keeper itself may have.
    pub files: u32,
    /// Whether the parked init stays as the first process, forwards signals and reaps; else the
    /// program itself is process 1 (and gets no default signal actions).
    pub init: bool,
    /// Who it is to others, in files of memory; `None`: it finds none.
    pub identity: Option<Identity>,
    /// Kept by the keeper and given to the next server: the caller's own description of the
    /// instance, at most 64 KiB.
    pub tag: Vec<u8>,
}

/// What an instance shows others of itself and knows them by: PEM, at `/run/minato/identity/`.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// `tls.crt`, which everybody may read.
    pub certificate: Vec<u8>,
    /// `tls.key`, which nobody but the instance's user may read.
    pub key: Vec<u8>,
    /// `ca.crt`, which everybody may read.
    pub roots: Vec<u8>,
}

/// The most bytes of an [`Identity`], all in all.
pub const IDENTITY_MAX: usize = 32 * 1024;

/// A start that came as far as its program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// The first process, as the node sees it.
    pub pid: u32,
    /// How long each phase took.
    pub phases: Phases,
}

// The key is nobody's to read.
impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

/// The phases of a start, in microseconds since [`crate::sandbox::Sandbox::start`] was called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phases {
    /// The parked init had the message.
    pub taken: u64,
    /// The root file system and everything in it was attached.
    pub mounted: u64,
    /// The program was executed.
    pub executed: u64,
}

/// What the keeper holds from before this server: for adoption, or to be killed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Whose it is.
    pub instance: InstanceId,
    /// Its first process, as the node sees it.
    pub pid: u32,
    /// That process' start time in clock ticks since boot (field 22 of `/proc/<pid>/stat`).
    pub start_time: u64,
    /// Its control group, relative to the hierarchies' roots.
    pub cgroup: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// The first of its ids on the host.
    pub id_range_start: u32,
    /// Where its output goes.
    pub log: PathBuf,
    /// What [`Start::tag`] was; empty if it never ran, or ended under a former keeper.
    #[serde(skip)]
    pub tag: Vec<u8>,
    /// How far it is.
    pub state: HeldState,
}

/// How far something that the keeper holds is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HeldState {
    /// Made, never started as far as the keeper was told: of no use to a new server; kill it.
    Parked,
    /// It runs.
    Running,
    /// It ended and nobody has been told yet, or nobody has said [`crate::keeper::Client::forget`].
    Ended(Ended),
}

/// The end of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Whose end.
    pub instance: InstanceId,
    /// How the program ended.
    pub status: Status,
    /// Whether the program was killed because the memory was used up; not what it had survived before.
    pub oom: bool,
    /// When, in milliseconds since 1970 by the keeper's clock.
    pub at_ms: i64,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// It exited.
    Exit(i32),
    /// A signal ended it.
    Signal(i32),
}

/// What the keeper tells without being asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An instance, or a sandbox that was never started, ended. Reported once per connection and
    /// again to the next one until [`crate::keeper::Client::forget`].
    Ended(Ended),
    /// The keeper itself is gone. Connect again: its instances are killed and must be replaced.
    KeeperGone,
}
