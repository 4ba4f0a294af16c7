//! What server and keeper say to each other. A change that an older side would not understand
//! raises [`VERSION`]. The newer of the two speaks the older one's:
//!
//! - 1: a sandbox is made for somebody; its output goes where `Make` says from the first moment. A keeper
//!   of this version answers a `Hello` of another with its own and holds nothing back for it: one connects
//!   again, and says 1.
//! - 2: `Bind` says where the output goes, before a start; nothing is read before. A keeper answers a
//!   `Hello` with the lower of both versions, and goes on in that.
//! - 3: a parked init takes an identity with its order. Nothing else is said.

use std::path::PathBuf;

use minato_model::ids::InstanceId;
use serde::{Deserialize, Serialize};

use crate::{
    ids::Ids,
    protection::Without,
    spec::{Ended, Held, SandboxSpec},
};

/// The version of the protocol.
pub(crate) const VERSION: u32 = 3;
/// The first version.
pub(crate) const FIRST: u32 = 1;
/// The first version with [`Request::Bind`].
pub(crate) const BINDS: u32 = 2;
/// The first version whose sandboxes take an identity.
pub(crate) const IDENTIFIES: u32 = 3;

/// What the server says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// First of all.
    Hello { version: u32 },
    /// Make a sandbox; answered under the same number.
    Make {
        call: u64,
        spec: Box<SandboxSpec>,
        #[serde(default, skip_serializing_if = "Without::is_nothing")]
        without: Without,
    },
    /// It is about to be started: where its output goes. Since version 2.
    Bind { instance: InstanceId, log: PathBuf, log_max: u64 },
    /// Its program was executed; the blob is its tag.
    Started { instance: InstanceId },
    /// Send it a signal.
    Signal { instance: InstanceId, signal: i32 },
    /// Kill all of it.
    Kill { instance: InstanceId },
    /// Its end is known.
    Forget { instance: InstanceId },
    /// Kill everything, and end.
    Shutdown,
}

/// What the keeper says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// First of all; so many `Held` follow.
    Hello { version: u32, ids: Ids, held: usize },
    /// Something from before; the blob is its tag.
    Held(Box<Held>),
    /// A sandbox is parked; with its control socket, user and network namespace.
    Made { call: u64, pid: u32 },
    /// It could not be made.
    NotMade { call: u64, failure: Failure },
    /// An instance ended.
    Ended(Ended),
}

/// A step that failed, and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// Which step.
    pub step: String,
    /// The error's number.
    pub errno: i32,
}

impl Failure {
    /// The step that fails when the address' former link isn't gone.
    pub(crate) const BUSY: &str = "take the address";

    /// What went wrong at this step.
    pub(crate) fn new(step: &str, error: &std::io::Error) -> Self {
        Self { step: step.to_owned(), errno: error.raw_os_error().unwrap_or(libc::EINVAL) }
    }

    /// As an error.
    pub(crate) fn error(&self) -> std::io::Error {
        std::io::Error::from_raw_os_error(self.errno)
    }
}
