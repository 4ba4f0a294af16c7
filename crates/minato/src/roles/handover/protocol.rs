//! What the running server and the one that takes over say to each other.
//!
//! ```text
//! new                                old
//!  Hello ──────────────────────────▶      nothing has happened yet
//!       ◀────────── Welcome | Refused
//!  Go ─────────────────────────────▶      api, control and agent end; the state is closed
//!       ◀── Sockets … Sockets, Handed
//!  Call … ─────────────────────────▶      the old edge is led by the new agent
//!       ◀─────── Wake, Suspect, Report, Done …
//!  Ready ──────────────────────────▶      it retires
//! ```
//!
//! Until `Ready` the end of the connection means: the old one takes everything back. Messages are JSON;
//! a key that isn't known is passed over, and a key that is added later has a default.

use std::net::{Ipv4Addr, SocketAddr};

use minato_model::{
    ids::{InstanceId, ReleaseKey, ServiceKey},
    route::{Endpoint, Table},
    routing::{Load, Refusal, Traffic},
};
use serde::{Deserialize, Serialize};

/// The version that this binary speaks best, and the oldest that it speaks.
pub(super) const VERSIONS: Versions = Versions { newest: 1, oldest: 1 };

/// Which versions of this protocol a binary speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Versions {
    pub(super) newest: u32,
    pub(super) oldest: u32,
}

impl Versions {
    /// The version that two binaries speak with each other.
    pub(super) fn with(self, other: Self) -> Option<u32> {
        let version = self.newest.min(other.newest);
        (version >= self.oldest && version >= other.oldest).then_some(version)
    }
}

/// What the new process says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum FromNew {
    /// Who it is.
    Hello { versions: Versions, program: String },
    /// All that can fail beforehand has been tried: begin.
    Go,
    /// What the old edge is to do; with a number, `Done` is waited for.
    Call { number: Option<u64>, call: Call },
    /// It serves: the old one is needed for its connections only.
    Ready,
}

/// What the old process says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum FromOld {
    /// Who it is, where it listens, and which version is spoken.
    Welcome {
        version: u32,
        program: String,
        pid: u32,
        api: SocketAddr,
        http: SocketAddr,
        /// `None`: it is of a version that speaks no TLS.
        #[serde(default)]
        https: Option<SocketAddr>,
    },
    /// It can't be now, or not with this binary.
    Refused { reason: String },
    /// What comes with this message, in this order.
    Sockets { names: Vec<Name> },
    /// The old one has let go of everything.
    Handed,
    /// A call has had its effect.
    Done { number: u64 },
    /// Requests on the old one's connections need instances.
    Wake { release: ReleaseKey, need: u32, load: Load },
    /// The old edge doubts that an instance lives.
    Suspect { instance: InstanceId },
    /// What the old edge carries, as far as it has changed.
    Report { loads: Vec<(ReleaseKey, Load)>, traffic: Vec<(InstanceId, Traffic)> },
}

/// What a descriptor is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Name {
    /// The data directory's lock.
    Lock,
    /// Where the next hand-over is asked for.
    Handover,
    /// The API's listener.
    Api,
    /// One of the edge's, as it calls it.
    Edge(String),
}

/// What an edge is told: `model::routing::Routing`, call by call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Call {
    Publish { table: Table },
    Admit { endpoint: Box<Endpoint> },
    Introduce { instance: InstanceId, service: ServiceKey, address: Ipv4Addr },
    Withdraw { instance: InstanceId },
    Quiet { instance: InstanceId },
    StreamsOver { instance: InstanceId },
    EndStreams { instance: InstanceId },
    Forget { instance: InstanceId },
    Refuse { release: ReleaseKey, refusal: Option<Refusal> },
}

#[cfg(test)]
mod tests {
    use super::Versions;

    #[test]
    fn two_binaries_speak_the_newest_version_that_both_know() {
        let versions = |newest, oldest| Versions { newest, oldest };
        assert_eq!(versions(3, 1).with(versions(2, 2)), Some(2));
        assert_eq!(versions(1, 1).with(versions(5, 1)), Some(1));
        assert_eq!(versions(1, 1).with(versions(5, 2)), None);
        assert_eq!(versions(5, 2).with(versions(1, 1)), None);
    }
}
