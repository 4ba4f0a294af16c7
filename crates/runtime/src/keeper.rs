//! The keeper: the one parent of all instances, and the client that the server has of it.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::mpsc::Receiver,
};

mod client;

pub use client::{Client, KeeperError, MakeError};

use crate::{
    ids::Ids,
    spec::{Event, Held},
};

/// The first argument with which a binary becomes the keeper.
pub const ARGUMENT: &str = "keeper";

/// Which keeper is meant.
#[derive(Debug, Clone)]
pub struct Config {
    /// The data directory; the keeper's socket, lock and list of ends are in `keeper/` below it.
    pub data: PathBuf,
    /// The node's id from its data directory: eight hexadecimal digits, as in names of interfaces.
    pub id: String,
    /// The binary that becomes the keeper when its first argument is [`ARGUMENT`].
    pub exe: PathBuf,
}

/// A connection to the keeper.
#[derive(Debug)]
pub struct Connection {
    /// To ask it with.
    pub client: Client,
    /// What it holds from before.
    pub held: Vec<Held>,
    /// Ids for sandboxes. The ranges of what is held are taken.
    pub ids: Ids,
    /// What it tells without being asked. Must be read: nothing else consumes it.
    pub events: Receiver<Event>,
}

/// Runs the keeper until it is told to end. `args` are what follows [`ARGUMENT`]. The process must
/// have one thread.
#[must_use]
pub fn main(_args: impl Iterator<Item = OsString>) -> ExitCode {
    ExitCode::FAILURE
}

/// Kills and takes away everything that the node `id` left in control groups, its keeper included,
/// and the keeper's socket. Refusing while a server runs is the caller's part.
///
/// # Errors
/// Something could not be taken away.
pub fn clean(_id: &str, _data: &Path) -> io::Result<()> {
    Ok(())
}
