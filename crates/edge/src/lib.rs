//! The edge: it takes requests, finds or awaits an instance that may answer, and carries the answer
//! back.
//!
//! ```text
//! listen → serve → request → route ──▶ balance ──▶ upstream → relay → observe
//!            │                         ▲     │
//!         inbound                      └ hold ┘  ··· wake ···▶ the node's agent
//! ```
//!
//! Every edge thread has a runtime of its own, connections of its own to clients and to instances,
//! and shares with the others only what is in `snapshot` (immutable, swapped whole) and counters.
//! No request waits for anything but its instance.

pub mod config;
pub mod digits;
mod edge;
pub mod handle;
pub mod handover;
pub mod listen;
pub mod log;

mod admit;
mod answer;
mod attempt;
mod balance;
mod breaker;
/// For the fuzzers.
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod checks;
mod clock;
mod door;
mod end;
mod frames;
mod grpc;
mod headers;
mod hold;
mod inbound;
mod key;
mod load;
#[cfg(test)]
mod mutations;
mod names;
mod observe;
mod outlier;
mod path;
mod rate;
mod relay;
mod release;
mod request;
mod route;
mod scratch;
mod serve;
mod shared;
mod shed;
mod snapshot;
mod split;
mod target;
mod tcp;
mod tls;
mod trace;
mod upgrade;
mod upstream;
mod vigil;
mod waits;
mod walk;
mod websocket;
mod window;

pub use config::{Config, Limits, Prefix};
pub use edge::{Edge, StartError};
pub use handle::Handle;
