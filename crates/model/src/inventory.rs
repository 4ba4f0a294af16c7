//! The inventory: what a node reports of itself.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::{
    code::Code,
    digest::Digest,
    ids::{AppName, Generation, InstanceId, NodeName, ReleaseNumber, ServiceKey, ServiceName},
    time::Moment,
};

/// What a node reports of one service. Kept under `/inventory/<node>/<app>/<service>`, written when
/// it changes (counters excepted), at most ten times a second, so that no start waits for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Whose report.
    pub service: ServiceKey,
    /// The slice's generation that is in force here, its routes included; every edge thread of the
    /// node has confirmed it.
    pub generation: Generation,
    /// How each release of the slice stands here.
    pub releases: Vec<Standing>,
}

/// How a release stands on a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// The release.
    pub number: ReleaseNumber,
    /// How far its image is.
    pub preparation: Preparation,
    /// Instances that requests may go to.
    pub ready: u32,
    /// Instances that run, whatever their state; not those that only finish streams, which may last.
    pub running: u32,
    /// Why the last start failed, until one succeeds.
    pub failing: Option<Failure>,
}

/// How far a release's root file system is on a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "preparation", rename_all = "snake_case")]
pub enum Preparation {
    /// Being fetched, checked or unpacked.
    Preparing,
    /// Ready to be started in milliseconds.
    Prepared,
    /// It can't be had.
    Failed {
        /// Which kind of reason.
        code: Code,
        /// The whole reason.
        reason: String,
    },
}

/// A start that failed, or an instance that ended by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// Which instance.
    pub instance: InstanceId,
    /// Which kind of reason.
    pub code: Code,
    /// The whole reason, for `why`.
    pub reason: String,
    /// When.
    pub at: Moment,
    /// How many in a row were the release's own; the node's faults are none of them.
    pub in_a_row: u32,
    /// The next try is not before this moment.
    pub next: Option<Moment>,
}

impl Failure {
    /// How many, for people.
    #[must_use]
    pub fn row(&self) -> String {
        if self.code.is_of_the_node() {
            "the node's fault, not the release's".to_owned()
        } else {
            format!("{} in a row", self.in_a_row)
        }
    }
}

/// A state in the life of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceState {
    /// Its image is fetched or unpacked.
    Preparing,
    /// Its process was started; it isn't listening yet.
    Starting,
    /// Requests go to it.
    Ready,
    /// No new requests; it finishes what it has.
    Draining,
    /// It ended as it should.
    Stopped,
    /// It ended, or never came to be, as it should not.
    Failed,
    /// It failed before, and waits for its next try.
    BackingOff,
}

/// An instance as `ps` and the API show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// Its app.
    pub app: AppName,
    /// Its service.
    pub service: ServiceName,
    /// Its release's number.
    pub release: ReleaseNumber,
    /// Its image's digest.
    pub image: Digest,
    /// Where it stands.
    pub state: InstanceState,
    /// Why it stands there.
    pub reason: String,
    /// Its address, while it has one.
    pub address: Option<Ipv4Addr>,
    /// Its node.
    pub node: NodeName,
    /// Its first process, as the node sees it.
    pub pid: Option<u32>,
    /// When its start began.
    pub started_at: Moment,
    /// Requests it was given.
    pub requests: u64,
    /// Requests it has now.
    pub in_flight: u32,
    /// Who it is to others; absent: it was given no certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
}

/// The certificate that an instance has for its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its serial number, in hexadecimal digits.
    pub serial: String,
    /// Until when it is valid. The instance is replaced before.
    pub not_after: Moment,
}
