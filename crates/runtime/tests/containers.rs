//! Real containers under a real keeper. Needs root and busybox-static.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "containers/attempts.rs"]
mod attempts;
#[path = "containers/ends.rs"]
mod ends;
#[path = "containers/ground.rs"]
mod ground;
#[path = "containers/identity.rs"]
mod identity;
#[path = "containers/inside.rs"]
mod inside;
#[path = "containers/keeper.rs"]
mod keeper;
#[path = "containers/late.rs"]
mod late;
#[path = "containers/refusals.rs"]
mod refusals;
#[path = "containers/takeover.rs"]
mod takeover;
