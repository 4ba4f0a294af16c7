//! A whole node without an edge: a real state, registry, keeper and containers. Needs root and
//! busybox-static.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "node/doors.rs"]
mod doors;
#[path = "node/edge.rs"]
mod edge;
#[path = "node/failures.rs"]
mod failures;
#[path = "node/ground.rs"]
mod ground;
#[path = "node/identity.rs"]
mod identity;
#[path = "node/lives.rs"]
mod lives;
#[path = "node/outage.rs"]
mod outage;
#[path = "node/pool.rs"]
mod pool;
#[path = "node/renewal.rs"]
mod renewal;
#[path = "node/restarts.rs"]
mod restarts;
