//! A new process takes over from the running one (`minato server --upgrade`): no request fails,
//! instances run on, what was acknowledged stays.
//!
//! The old server ends what can be there but once (API, control, agent, state) and gives its listening
//! sockets and its lock away; its edge goes on serving, and accepting too until the new one is ready.
//! From then on it only ends its connections, led by the new server's agent: requests on them may still
//! need instances to be started, and instances may drain only when neither edge uses them.
//!
//! ```text
//!            old                                                new
//!  desk ──▶ hand_over ── sockets, lock ───────────────────▶ take_over
//!              │  works end                                    works begin
//!           follow  ◀──────────── link ◀── mirror ◀── agent       │
//!              │  ───── wakes, what is carried ──▶                │
//!           retire  ◀───────────────────────────────────── ready ─┘
//! ```
//!
//! Invariant: until the new server is ready the old one can take everything back, and does if the
//! other is gone; whichever dies, what it had is in the kernel, the keeper and the data directory.

mod desk;
mod follow;
mod line;
mod link;
mod mirror;
mod new;
mod old;
mod protocol;

pub(super) use desk::Desk;
pub(super) use new::take_over;
pub(super) use old::{Outcome, hand_over};

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, open};

/// The socket's name in the data directory.
const SOCKET: &str = "handover";

/// What this binary calls itself.
fn program() -> String {
    format!("minato {}", env!("CARGO_PKG_VERSION"))
}

/// A way to the socket that is short enough for a socket's address, whatever the data directory is
/// called; it leads there for as long as the descriptor is open.
fn way(data: &Path) -> io::Result<(OwnedFd, PathBuf)> {
    let folder = open(data, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let way = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()));
    Ok((folder, way))
}
