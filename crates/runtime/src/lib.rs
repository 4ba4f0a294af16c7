//! One container: made, started, watched, ended and cleared away.
//!
//! The server speaks to the [`keeper`], a small single-threaded process that is the parent of every
//! instance and outlives the server. A sandbox is made before it is needed; a start is one message
//! from the server straight to the init that is parked in it.
//!
//! ```text
//!  server ── make ──▶ keeper ── clone3 ──▶ init (parked: namespaces, network, cgroup, /dev, /proc, /tmp)
//!    │                  │                   ▲
//!    └────────────── start ─────────────────┘   root mount, command; answers "executed" or why not
//!                       ├── stdout, stderr ──▶ bounded log files
//!                       └── exit status, out of memory ──▶ server, this one or the next
//! ```
//!
//! Nothing here knows releases, services or an async runtime. `unsafe` lives in one module, `sys`.
//! If the keeper dies its instances are killed by the sweep of the next keeper: they are replaced,
//! never adopted without their parent.

mod capabilities;
mod cgroup;
pub mod crash;
pub mod ids;
mod init;
pub mod keeper;
pub mod kernel;
pub mod logs;
pub mod memory;
pub mod mounts;
pub mod protection;
pub mod sandbox;
mod seccomp;
pub mod spec;
mod sys;
pub mod usage;
mod wire;
