//! Routes: how requests reach a service, as every edge knows it.

use std::{net::Ipv4Addr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    ids::{InstanceId, ReleaseKey, ReleaseNumber, ServiceKey},
    manifest::Protocol,
    node::Phases,
    tls::Door,
    traffic::{Key, Policy},
};

/// How requests reach one service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// Public names, lower case; none: inside the cluster only.
    pub hosts: Vec<String>,
    /// Prefixes of whole segments; the longest wins.
    pub paths: Vec<String>,
    /// Its virtual address's offset in every node's network, for life.
    pub virtual_offset: u16,
    /// The service's own port: its virtual address answers there and on 80.
    pub port: u16,
    /// How its instances are spoken to.
    pub protocol: Protocol,
    /// Whom the service may call; `None`: every service of its own app.
    pub calls: Option<Vec<ServiceKey>>,
    /// Until the response's head.
    pub timeout: Duration,
    /// The largest request body, in bytes.
    pub body_max: u64,
    /// Requests in flight that one instance is meant to hold.
    pub concurrency: u32,
    /// Never more than this in flight on one instance.
    pub concurrency_max: u32,
    /// The edge's port for it outside, of a service that is spoken to over plain TCP.
    #[serde(default)]
    pub listen: Option<u16>,
    /// How its requests are treated.
    #[serde(default)]
    pub traffic: Policy,
    /// What the edge does for it at its doors to the outside.
    #[serde(default)]
    pub tls: Door,
}

/// All routes of a node's edge: one immutable snapshot, swapped whole.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Table {
    /// Every service that this edge answers for.
    pub services: Vec<Entry>,
}

/// A service in the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The service.
    pub service: ServiceKey,
    /// How requests reach it.
    pub route: Route,
    /// Which releases take which part of the requests. Weights sum up to more than 0 unless the
    /// service has no release that may serve (then it answers 503 `start_failed`).
    pub weights: Vec<Weight>,
    /// Who gets which release, beside their weights.
    #[serde(default)]
    pub split: Split,
}

/// How clients are told apart where releases share the requests.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Split {
    /// A client with the same value stays with the same release, as long as the weights let it.
    pub sticky: Option<Key>,
    /// Who gets a certain release, whatever the weights; the first that fits.
    pub matches: Vec<Match>,
}

/// Requests that go to a certain release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    /// A header or a cookie.
    pub by: Key,
    /// Its value; `None`: any.
    pub value: Option<String>,
    /// The release, which serves whatever its weight.
    pub number: ReleaseNumber,
}

/// A release's part of the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weight {
    /// The release.
    pub number: ReleaseNumber,
    /// Its part, relative to the others.
    pub weight: u32,
}

/// An instance that requests may go to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The instance.
    pub instance: InstanceId,
    /// Its release.
    pub release: ReleaseKey,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its port.
    pub port: u16,
    /// The phases of its start, for the `Server-Timing` of answers that waited for it; absent for
    /// one that was adopted.
    pub cold: Option<Phases>,
    /// Whether its start took a sandbox that was made ahead; absent where that isn't known.
    pub pooled: Option<bool>,
    /// The failure domain that its node is in, where that is known.
    #[serde(default)]
    pub zone: Option<String>,
    /// How it is spoken to, where that is known of its release; else as the route says.
    #[serde(default)]
    pub protocol: Option<Protocol>,
}
