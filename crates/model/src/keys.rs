//! Where things are kept in the cluster state. One place, so that writer and watcher agree.
//!
//! | key | value | written by |
//! |---|---|---|
//! | `/apps/<app>` | what was declared of an app, with its generation | control |
//! | `/services/<app>/<service>` | what is for life: virtual address, last release number | control |
//! | `/releases/<app>/<service>/<number>` | [`Release`](crate::release::Release), once | control |
//! | `/rollouts/<app>/<service>` | where a release stands | control |
//! | `/nodes/<node>` | [`NodeRecord`](crate::node::NodeRecord) | the node |
//! | `/slices/<node>/<app>/<service>` | [`Slice`](crate::slice::Slice) | control |
//! | `/inventory/<node>/<app>/<service>` | [`Report`](crate::inventory::Report) | the node |
//! | `/doors/<app>/<service>/<id>` | [`Files`](crate::tls::Files), once; a private key is among them | control |
//! | `/acme/order` | whose turn it is to ask a public authority, and until when | the node |
//! | `/claims` | nothing: written with every change of hosts or virtual addresses | control |
//!
//! Numbers are padded with zeros to ten digits, so that keys sort as the numbers do.

use crate::ids::{AppName, NodeName, ReleaseNumber, ServiceKey};

/// Every app.
pub const APPS: &str = "/apps/";
/// Every service.
pub const SERVICES: &str = "/services/";
/// Every release.
pub const RELEASES: &str = "/releases/";
/// Every roll-out.
pub const ROLLOUTS: &str = "/rollouts/";
/// Every node.
pub const NODES: &str = "/nodes/";
/// Every slice.
pub const SLICES: &str = "/slices/";
/// The files of every service that named some for its doors. Read by whoever presents them alone.
pub const DOORS: &str = "/doors/";
/// Tokens, by their ids.
pub const TOKENS: &str = "/tokens/";
/// Every report.
pub const INVENTORY: &str = "/inventory/";
/// Whose turn it is to ask a public authority: one order at a time.
pub const ACME_ORDER: &str = "/acme/order";
/// Written with every change of hosts or virtual addresses, so that of two that might clash one fails.
pub const CLAIMS: &str = "/claims";

/// An app.
#[must_use]
pub fn app(app: &AppName) -> String {
    format!("{APPS}{app}")
}

/// A service.
#[must_use]
pub fn service(key: &ServiceKey) -> String {
    format!("{SERVICES}{key}")
}

/// A release.
#[must_use]
pub fn release(key: &ServiceKey, number: ReleaseNumber) -> String {
    format!("{RELEASES}{key}/{number:010}")
}

/// All releases of a service.
#[must_use]
pub fn releases_of(key: &ServiceKey) -> String {
    format!("{RELEASES}{key}/")
}

/// Where a release of a service stands.
#[must_use]
pub fn rollout(key: &ServiceKey) -> String {
    format!("{ROLLOUTS}{key}")
}

/// A token.
#[must_use]
pub fn token(id: &str) -> String {
    format!("{TOKENS}{id}")
}

/// A node.
#[must_use]
pub fn node(node: &NodeName) -> String {
    format!("{NODES}{node}")
}

/// A service's slice for a node.
#[must_use]
pub fn slice(node: &NodeName, key: &ServiceKey) -> String {
    format!("{SLICES}{node}/{key}")
}

/// All slices of a node.
#[must_use]
pub fn slices_of(node: &NodeName) -> String {
    format!("{SLICES}{node}/")
}

/// A node's report of a service.
#[must_use]
pub fn report(node: &NodeName, key: &ServiceKey) -> String {
    format!("{INVENTORY}{node}/{key}")
}

/// All reports of a node.
#[must_use]
pub fn reports_of(node: &NodeName) -> String {
    format!("{INVENTORY}{node}/")
}

/// The files of a service for its doors, by their id.
#[must_use]
pub fn door(key: &ServiceKey, id: &str) -> String {
    format!("{DOORS}{key}/{id}")
}
