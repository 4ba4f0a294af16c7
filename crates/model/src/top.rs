//! What `minato top` shows of a node: what it has, what it uses now, and what a start costs there.
//! Plain data. Shares are of one core and rates per second, both since the look before; absent where
//! nothing was looked at before.

use serde::{Deserialize, Serialize};

use crate::{
    ids::{AppName, InstanceId, NodeName, ReleaseNumber, ServiceName},
    inventory::InstanceState,
    time::Moment,
};

/// A node at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Top {
    /// Which node.
    pub node: NodeName,
    /// When it was looked at.
    pub at: Moment,
    /// How long the shares and rates look back, in milliseconds.
    pub since_ms: Option<u64>,
    /// The machine.
    pub machine: Machine,
    /// The server.
    pub server: Process,
    /// The keeper, while it is there.
    pub keeper: Option<Process>,
    /// The sandboxes that were made ahead.
    pub pool: Pool,
    /// The starts of the last minute.
    pub starts: Starts,
    /// Requests that wait for an instance.
    pub held: u32,
    /// Services of which something runs or waits, by name.
    pub services: Vec<ServiceTop>,
    /// Services of which nothing does.
    pub at_rest: u32,
    /// Instances that aren't gone, by service and age.
    pub instances: Vec<InstanceTop>,
}

/// The machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Its cores.
    pub cores: u32,
    /// Processes that ran or wanted to: the means of 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// Its memory, in bytes.
    pub memory: u64,
    /// What of it programs could still get, in bytes.
    pub memory_available: u64,
}

/// A process of Minato's own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its memory in bytes, what it shares with others in parts (PSS).
    pub pss: u64,
    /// Cores that it used.
    pub cpu: Option<f64>,
    /// Its open descriptors.
    pub descriptors: u32,
}

/// The sandboxes that were made ahead.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Pool {
    /// How many are ready to be taken.
    pub ready: u32,
    /// How many there should be: it follows the rate of starts.
    pub target: u32,
    /// Starts that found one, since the server began.
    pub taken: u64,
    /// Starts that found none, and made their own.
    pub missed: u64,
    /// The same, in the last minute.
    pub taken_lately: u32,
    /// The same, in the last minute.
    pub missed_lately: u32,
    /// What making one took lately, in milliseconds: the median.
    pub preparation_ms: Option<f64>,
    /// What all that are ready hold, in bytes (PSS of their parked processes).
    pub memory: u64,
    /// What one of them holds.
    pub memory_each: u64,
    /// What all that are ready have in the kernel.
    pub kernel: KernelObjects,
}

/// Objects of the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelObjects {
    /// Processes.
    pub processes: u32,
    /// Namespaces.
    pub namespaces: u32,
    /// Network links, both ends and loopbacks.
    pub links: u32,
    /// Directories of control groups.
    pub cgroup_directories: u32,
    /// Mounts.
    pub mounts: u32,
    /// Descriptors.
    pub descriptors: u32,
}

/// Starts of the last minute.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Starts {
    /// How many came to be ready.
    pub ready: u32,
    /// The same by second.
    pub rate: f64,
    /// How many of them took a sandbox that was made ahead.
    pub pooled: u32,
    /// Starts that may go on at the same time.
    pub slots: u32,
    /// Of these, how many are taken.
    pub slots_taken: u32,
    /// Starts that wait for one.
    pub waiting: u32,
    /// How long each phase took, from the beginning of the start to the phase's end; `slot` first:
    /// the wait for a slot alone.
    pub phases: Vec<PhaseTop>,
}

/// How long a phase took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseTop {
    /// `slot`, `taken`, `mounted`, `executed` or `listening`.
    pub phase: String,
    /// The median, in milliseconds.
    pub p50_ms: f64,
    /// One in a hundred took longer.
    pub p99_ms: f64,
}

/// A service on a node: the sum of its instances, and what waits for one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceTop {
    /// Its app.
    pub app: AppName,
    /// Its name.
    pub service: ServiceName,
    /// Instances that run.
    pub instances: u32,
    /// Of these, how many requests may go to.
    pub ready: u32,
    /// Of those that run, how many get no requests because their breakers tripped.
    #[serde(default)]
    pub tripped: u32,
    /// Requests that wait for an instance.
    pub held: u32,
    /// Requests that ended, by second, those that never reached an instance too.
    #[serde(default)]
    pub ended: Option<f64>,
    /// The share of those that ended with a 5xx, from 0 to 1; absent where none ended.
    #[serde(default)]
    pub error_share: Option<f64>,
    /// Half of those that ended took no longer, in milliseconds.
    #[serde(default)]
    pub p50_ms: Option<f64>,
    /// One in a hundred took longer.
    #[serde(default)]
    pub p99_ms: Option<f64>,
    /// Times that a request was tried again, by second.
    #[serde(default)]
    pub retries: Option<f64>,
    /// What its instances use and carry.
    #[serde(flatten)]
    pub used: Used,
}

/// An instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceTop {
    /// Its id.
    pub id: InstanceId,
    /// Its app.
    pub app: AppName,
    /// Its service.
    pub service: ServiceName,
    /// Its release's number.
    pub release: ReleaseNumber,
    /// Where it stands.
    pub state: InstanceState,
    /// How long ago its start began.
    pub age_ms: u64,
    /// The memory that it may use, in bytes.
    pub memory_max: u64,
    /// The processes that it may have.
    pub pids_max: u32,
    /// What it uses and carries.
    #[serde(flatten)]
    pub used: Used,
}

/// What something uses and carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Used {
    /// Cores that it used.
    pub cpu: Option<f64>,
    /// Memory in bytes, as its limit counts it.
    pub memory: Option<u64>,
    /// Processes.
    pub pids: Option<u32>,
    /// Requests by second.
    pub rate: Option<f64>,
    /// Requests it was given.
    pub requests: u64,
    /// Requests it has now.
    pub in_flight: u32,
    /// Of those, streams.
    pub streams: u32,
    /// Requests that failed.
    pub errors: u64,
}

impl Used {
    /// Adds what another one uses.
    pub fn add(&mut self, other: &Self) {
        fn sum<T: std::ops::Add<Output = T> + Copy>(one: Option<T>, other: Option<T>) -> Option<T> {
            match (one, other) {
                (Some(one), Some(other)) => Some(one + other),
                (one, other) => one.or(other),
            }
        }
        self.cpu = sum(self.cpu, other.cpu);
        self.memory = sum(self.memory, other.memory);
        self.pids = sum(self.pids, other.pids);
        self.rate = sum(self.rate, other.rate);
        self.requests = self.requests.saturating_add(other.requests);
        self.in_flight = self.in_flight.saturating_add(other.in_flight);
        self.streams = self.streams.saturating_add(other.streams);
        self.errors = self.errors.saturating_add(other.errors);
    }
}
