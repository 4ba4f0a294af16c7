//! The server's side of the keeper's socket. Cheap to clone, shared by threads.

use std::io;

use minato_model::ids::InstanceId;

use super::{Config, Connection};
use crate::{sandbox::Sandbox, spec::SandboxSpec};

/// The keeper can't be reached.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// It could not be started.
    #[error("the keeper could not be started: {reason}")]
    Start {
        /// What it said.
        reason: String,
    },
    /// It speaks another version of the protocol.
    #[error(
        "the running keeper speaks version {theirs} of the protocol, this server {ours}; stop the instances with the older binary first"
    )]
    Version {
        /// The keeper's.
        theirs: u32,
        /// This server's.
        ours: u32,
    },
    /// It is gone.
    #[error("the keeper is gone")]
    Gone,
    /// Its socket failed.
    #[error("the keeper's socket failed")]
    Io(#[source] io::Error),
}

/// A sandbox could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// A step failed.
    #[error("the sandbox could not be made: the step `{step}` failed")]
    Step {
        /// Which step.
        step: String,
        /// Why.
        source: io::Error,
    },
    /// What is asked for can't be.
    #[error("the sandbox can't be made: {0}")]
    Invalid(String),
    /// The keeper is gone.
    #[error("the keeper is gone")]
    Gone,
}

/// Asks the keeper. Every method may be called from any thread; only [`Client::make`] and
/// [`Client::shutdown`] wait for an answer.
#[derive(Debug, Clone)]
pub struct Client {}

impl Client {
    /// Connects to the keeper of this data directory, or starts one. Blocks until it answers.
    ///
    /// # Errors
    /// See [`KeeperError`].
    pub fn connect_or_spawn(_config: &Config) -> Result<Connection, KeeperError> {
        Err(KeeperError::Gone)
    }

    /// Makes a sandbox: namespaces, network, control group, an init parked in it. Blocks for some
    /// milliseconds. Calls from several threads are worked off in order.
    ///
    /// # Errors
    /// See [`MakeError`]; what was begun is taken away.
    pub fn make(&self, _spec: &SandboxSpec) -> Result<Sandbox, MakeError> {
        Err(MakeError::Gone)
    }

    /// Sends a signal to the first process of an instance: with `init = true` it is passed to the
    /// program. Nothing happens if it has ended.
    ///
    /// # Errors
    /// The keeper is gone.
    pub fn signal(&self, _instance: &InstanceId, _signal: i32) -> Result<(), KeeperError> {
        Err(KeeperError::Gone)
    }

    /// Kills every process of an instance at once. Its end is reported as any other.
    ///
    /// # Errors
    /// The keeper is gone.
    pub fn kill(&self, _instance: &InstanceId) -> Result<(), KeeperError> {
        Err(KeeperError::Gone)
    }

    /// Says that the end of an instance is known: it isn't reported again.
    ///
    /// # Errors
    /// The keeper is gone.
    pub fn forget(&self, _instance: &InstanceId) -> Result<(), KeeperError> {
        Err(KeeperError::Gone)
    }

    /// Kills what still runs, ends the keeper and takes its control groups away. Blocks until it is
    /// gone, at most ten seconds.
    ///
    /// # Errors
    /// The keeper was gone already, or did not end in time.
    pub fn shutdown(&self) -> Result<(), KeeperError> {
        Err(KeeperError::Gone)
    }
}
