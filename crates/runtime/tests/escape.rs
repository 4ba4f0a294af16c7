//! Isolation, proved: a program inside an instance tries to get out. Each attempt is made first with
//! those protections off that stop it, and succeeds; then with everything on, and fails; then with all
//! of them off but one, each in turn, and fails again where that one is enough by itself.
//!
//! The list is printed: `cargo nextest run -p minato-runtime --test escape --no-capture`. Needs root,
//! busybox-static, iproute2 and nftables. Nothing leaves the namespaces that the test makes, and where
//! success would do harm the kernel is only asked whether it would let the call pass.

#![cfg(debug_assertions)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "escape/files.rs"]
mod files;
#[path = "containers/ground.rs"]
#[expect(dead_code, reason = "shared with other tests, which need more of it")]
mod ground;
#[path = "escape/host.rs"]
mod host;
#[path = "escape/kernel.rs"]
mod kernel;
#[path = "escape/lab.rs"]
mod lab;
#[path = "escape/network.rs"]
mod network;
#[path = "escape/processes.rs"]
mod processes;
#[path = "escape/table.rs"]
mod table;
