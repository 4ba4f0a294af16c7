//! What a node lets others look at. The API asks every node through this, its own too.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    BoxFuture,
    ids::{InstanceId, NodeName, ReleaseNumber, ServiceKey},
    inventory::Instance,
    network::AddressPlan,
    time::Moment,
    top::Top,
};

/// What a node says of itself when it joins, kept under `/nodes/<node>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its name.
    pub name: NodeName,
    /// Its operating system and architecture as OCI writes them: `linux/amd64`.
    pub platform: String,
    /// Its network.
    pub network: AddressPlan,
    /// Minato's version there.
    pub version: String,
    /// When its server started.
    pub started_at: Moment,
}

/// The nodes that can be asked.
pub trait Nodes: Send + Sync + 'static {
    /// Every node that is there, by name.
    fn all(&self) -> Vec<(NodeName, Arc<dyn NodeView>)>;
}

/// A node as seen from outside.
pub trait NodeView: Send + Sync + 'static {
    /// Its instances now, those that ended lately (at most 1,000) included.
    fn instances(&self) -> BoxFuture<'_, Vec<Instance>>;

    /// The life of one instance, phase by phase; `None`: not of this node, or too long ago.
    fn life(&self, id: &InstanceId) -> BoxFuture<'_, Option<Life>>;

    /// Lines that instances of a service wrote, oldest first, at most `query.limit`.
    fn logs(&self, query: LogQuery) -> BoxFuture<'_, Vec<LogLine>>;

    /// Prometheus text of what this node measured.
    fn metrics(&self) -> String;

    /// What it has and uses now. Cheap, except that the first look after a while takes the fifth of a
    /// second that shares and rates need.
    fn top(&self) -> BoxFuture<'_, Top>;
}

/// The story of one instance, for `why`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Life {
    /// What it is.
    pub instance: Instance,
    /// What asked for its start: `request`, `minimum`, `rollout`, `replacement`, `recycle`.
    pub asked_by: String,
    /// Whether it took a sandbox that was made ahead; `None`: it didn't come to that, or it isn't known.
    #[serde(default)]
    pub pooled: Option<bool>,
    /// How long its start waited for others to leave it room, in milliseconds.
    #[serde(default)]
    pub slot_ms: Option<f64>,
    /// How long each phase of its start took.
    pub phases: Phases,
    /// How it ended: an exit status, a signal, out of memory.
    pub end: Option<String>,
    /// The last lines that it wrote, at most 20.
    pub last_lines: Vec<String>,
    /// What was found about it, such as "it listens on 127.0.0.1 only".
    pub findings: Vec<String>,
}

/// The phases of a start, each in milliseconds since its beginning; absent: not reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Phases {
    /// A sandbox was there.
    pub taken: Option<f64>,
    /// The root file system was attached.
    pub mounted: Option<f64>,
    /// The program was executed.
    pub executed: Option<f64>,
    /// It was listening, and well where there is a health check.
    pub listening: Option<f64>,
}

/// Which lines are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogQuery {
    /// Of which service.
    pub service: ServiceKey,
    /// Of this release only.
    pub release: Option<ReleaseNumber>,
    /// Of this instance only.
    pub instance: Option<InstanceId>,
    /// Only what came after this position, as an earlier answer gave it.
    pub after: Option<LogPosition>,
    /// At most this many: the last ones without `after`, else the next ones.
    pub limit: usize,
}

/// A place in a service's log: lines are ordered by it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LogPosition {
    /// When the line was written.
    pub at: Moment,
    /// By which instance.
    pub instance: InstanceId,
    /// Which of the instance's lines, counted from 0 over its life.
    pub line: u64,
}

/// One line that an instance wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Where it stands.
    #[serde(flatten)]
    pub position: LogPosition,
    /// Of which release.
    pub release: ReleaseNumber,
    /// `stdout` or `stderr`.
    pub stream: Stream,
    /// The line without its end, cut at 16 KiB; what is not UTF-8 is replaced.
    pub text: String,
}

/// Where a line was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}
