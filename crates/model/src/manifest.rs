//! The manifest: what a team declares of an app. TOML in, checked data out.
//!
//! Once a [`Manifest`] exists, every value in it is valid and every default filled in.

mod check;
mod locate;
mod parse;
mod read;
mod service;
mod suggest;
mod tls;
mod traffic;

#[cfg(test)]
mod tests;

pub use locate::line_of;
pub use parse::{FILE_MAX, Problems, SERVICES_MAX, Source, parse};

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    ids::{AppName, ServiceKey, ServiceName},
    reference::ImageReference,
    tls::Tls,
    traffic::Policy,
};

/// An app as declared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The app's name.
    pub app: AppName,
    /// Its services, at least one.
    pub services: BTreeMap<ServiceName, Service>,
}

/// A service as declared, defaults filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// The image, by tag or digest.
    pub image: ImageReference,
    /// The port that it listens on; `None`: the image's one exposed port, else 8080.
    pub port: Option<u16>,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// Public names, exact and lower case; none: reachable inside the cluster only.
    pub hosts: Vec<String>,
    /// Path prefixes of whole segments; at least one.
    pub paths: Vec<String>,
    /// Whom it may call; `None`: every service of its own app.
    pub calls: Option<Vec<ServiceKey>>,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// Replaces the image's entrypoint and cmd together; empty: the image's own.
    pub command: Vec<String>,
    /// Absolute paths that become memory file systems with the image's content.
    pub writable: Vec<String>,
    /// Whether a tiny first process forwards signals and reaps.
    pub init: bool,
    /// What an instance may use.
    pub resources: Resources,
    /// Until the response's head.
    pub timeout: Duration,
    /// How long an instance may finish what it has begun.
    pub drain: Duration,
    /// How long its streams (WebSocket, server-sent events) may go on while it drains.
    #[serde(default = "drain_streams")]
    pub drain_streams: Duration,
    /// The largest request body, in bytes.
    pub body_max: u64,
    /// How ready and well are seen; `None`: the port is listening.
    pub health: Option<Health>,
    /// How many instances.
    pub scale: Scale,
    /// When an instance is renewed.
    #[serde(default)]
    pub recycle: Recycle,
    /// How a version is brought in.
    pub release: ReleasePolicy,
    /// The edge's port for it outside; only over plain TCP.
    #[serde(default)]
    pub listen: Option<u16>,
    /// How its requests are treated.
    #[serde(default)]
    pub traffic: Policy,
    /// What is done at the doors to the outside.
    #[serde(default)]
    pub tls: Tls,
}

/// How an instance is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/2 without TLS, by prior knowledge.
    H2c,
    /// HTTP over TLS, with the certificates that the cluster gives to both: HTTP/2 (and gRPC in it) or
    /// HTTP/1.1, as the instance chooses.
    Https,
    /// The same, with gRPC in it: errors of the edge's own are told as gRPC statuses.
    Grpc,
    /// Bytes.
    Tcp,
}

/// What an instance may use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    /// Its weight against others, in thousandths of a core (0.5 is 500).
    pub cpu_millis: u32,
    /// A ceiling in thousandths of a core; 0: none.
    pub cpu_max_millis: u32,
    /// Memory, in bytes.
    pub memory: u64,
    /// Processes and threads.
    pub pids: u32,
    /// Open files per process.
    pub files: u32,
    /// The size of each memory file system (`/tmp` and what is `writable`), in bytes.
    pub scratch: u64,
}

/// A health check over HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The path; 200 is well.
    pub path: String,
    /// How often.
    pub every: Duration,
}

/// How many instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scale {
    /// Never fewer than this.
    pub min: u32,
    /// Never more than this.
    pub max: u32,
    /// Requests in flight that one instance is meant to hold.
    pub concurrency: u32,
    /// Never more than this in flight on one instance.
    pub concurrency_max: u32,
    /// To `min` after this long without a request.
    pub idle: Duration,
}

/// When an instance is renewed: routine, each bound with a jitter of 15 % of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recycle {
    /// After this many requests; 0: whatever their number.
    pub requests: u64,
    /// At this age.
    pub age: Duration,
    /// When it has this many times its siblings' median in flight, in thousandths; 0: never for that.
    pub in_flight_millis: u32,
    /// When it holds this much more memory than its own baseline after 5 minutes, in thousandths of
    /// the baseline; 0: never for that.
    pub memory_growth_millis: u32,
}

impl Default for Recycle {
    fn default() -> Self {
        Self {
            requests: 1_000_000,
            age: Duration::from_secs(2 * 3_600),
            in_flight_millis: 2_000,
            memory_growth_millis: 500,
        }
    }
}

/// How long streams may go on while their instance drains, unless it is said.
#[must_use]
pub const fn drain_streams() -> Duration {
    Duration::from_secs(3_600)
}

/// How a version is brought in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleasePolicy {
    /// The strategy.
    pub strategy: Strategy,
    /// How long a release may take until it is stable.
    pub deadline: Duration,
}

/// How a version is brought in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// A tenth of the instances at a time, at least one.
    Rolling,
}
