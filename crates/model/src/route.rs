//! Routes: how requests reach a service, as every edge knows it.

use std::{net::Ipv4Addr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    ids::{InstanceId, ReleaseKey, ReleaseNumber, ServiceKey},
    manifest::Protocol,
    node::Phases,
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
    /// How many requests may wait for an instance.
    pub pending: u32,
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
}
