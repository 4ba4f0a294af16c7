//! The keeper: the one parent of all instances, and the client that the server has of it.
//!
//! It is the server's own binary, executed again: a process with many threads can't fork safely, one
//! with a single thread can. Its socket, its lock and the list of ends are in `keeper/` below the data
//! directory. The socket is reached through `/proc/self/fd`, because a socket's path ends at 107 bytes.

use std::{
    ffi::OsString,
    fs,
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::{Path, PathBuf},
    process::ExitCode,
    sync::mpsc::Receiver,
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, open},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with},
    process::{Resource, Rlimit, getrlimit, setrlimit, setsid, umask},
};

mod children;
mod client;
mod ends;
mod output;
pub(crate) mod protocol;
mod serve;
mod server;

pub use client::{Client, KeeperError, MakeError};
use protocol::{FIRST, VERSION};

use crate::{
    cgroup,
    ids::{self, Ids},
    seccomp,
    spec::{Event, Held},
    sys,
};

/// The first argument with which a binary becomes the keeper.
pub const ARGUMENT: &str = "keeper";

/// What the keeper says on its standard output when it can be connected to.
const READY: &str = "ready";
/// What it says if there is one already.
const TAKEN: &str = "taken";

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
/// have one thread: call it before anything starts another.
#[must_use]
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    let Some((data, id, protocol)) = understand(&args) else {
        say("the keeper is started by the server, not by hand");
        return ExitCode::from(2);
    };
    let keeper = match prepare(data, &id, protocol) {
        Ok(Some(keeper)) => keeper,
        Ok(None) => {
            say(TAKEN);
            return ExitCode::SUCCESS;
        }
        Err((step, error)) => {
            say(&format!("{step}: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let (keeper, _lock) = keeper;
    say(READY);
    // Whoever started it waits for the end of this stream.
    if let Ok(null) = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        drop(sys::duplicate_onto(null.as_fd(), 1));
    }
    match keeper.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(io::stderr(), "the keeper failed: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// The data directory, the node's id and the version to speak: `--protocol 1` is an older keeper, for
/// tests and for going back to an older server.
fn understand(args: &[OsString]) -> Option<(&Path, String, u32)> {
    let (rest, protocol) = match args {
        [rest @ .., flag, version] if flag == "--protocol" => (rest, version.to_str()?.parse().ok()?),
        rest => (rest, VERSION),
    };
    let [data, id] = rest else { return None };
    if !(FIRST..=VERSION).contains(&protocol) {
        return None;
    }
    Some((Path::new(data), id.to_string_lossy().into_owned(), protocol))
}

fn say(line: &str) {
    // Nobody listening is no reason to fail.
    drop(writeln!(io::stdout(), "{line}"));
}

/// Everything before the first request; `None`: this data directory has a keeper.
fn prepare(
    data: &Path,
    id: &str,
    protocol: u32,
) -> Result<Option<(serve::Keeper, OwnedFd)>, (&'static str, io::Error)> {
    let at = |step: &'static str| move |error: io::Error| (step, error);
    let data = &std::path::absolute(data).map_err(at("the data directory"))?;
    let node = id.parse().map_err(|error| ("the node's id", io::Error::other(error)))?;
    // It leads a process group already if it was started by hand.
    setsid().ok();
    umask(Mode::from_raw_mode(0o077));
    sys::close_all_but(&mut []);
    sys::reset_signals();
    raise_open_files();
    rustix::thread::set_name(c"minato-keeper").ok();
    let folder = data.join("keeper");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(at("its folder"))?;
    std::env::set_current_dir("/").map_err(at("its working directory"))?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let lock = open(folder.join("lock"), flags, Mode::RUSR | Mode::WUSR)
        .map_err(|error| ("its lock", error.into()))?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(None);
    }
    let mut parent = cgroup::Parent::new(id).map_err(at("control groups"))?;
    let left = parent.sweep().map_err(at("take away what a former keeper left"))?;
    for group in &left {
        // In the keeper's log. It is no reason to start nothing.
        drop(writeln!(io::stderr(), "a former keeper's {group} can't be removed yet: it is tried again"));
    }
    parent.enter().map_err(at("control groups"))?;
    let taken = ids::take().map_err(at("user ids"))?;
    let filter = seccomp::compile().map_err(at("the filter of system calls"))?;
    let ends = ends::Ends::open(&folder.join("ended")).map_err(at("its list of ends"))?;
    let listener = listen_in(&folder).map_err(at("its socket"))?;
    let arguments = children::arguments().map_err(at("its own arguments"))?;
    let ground = children::Ground { parent, id: node, filter, arguments };
    let keeper = serve::Keeper::new(listener, &folder.join("socket"), ends, taken, ground, protocol);
    let keeper = keeper.map_err(at("its loop"))?.after(left);
    Ok(Some((keeper, lock)))
}

/// Instances inherit the ceiling, and can't raise it; each descriptor of theirs is one here.
fn raise_open_files() {
    const WANTED: u64 = 1 << 20;
    let ceiling = getrlimit(Resource::Nofile).maximum;
    let wanted = Rlimit { current: Some(WANTED), maximum: Some(WANTED) };
    if ceiling.is_some_and(|ceiling| ceiling < WANTED) && setrlimit(Resource::Nofile, wanted).is_ok() {
        return;
    }
    // What fails leaves the limit as it was.
    setrlimit(Resource::Nofile, Rlimit { current: ceiling, maximum: ceiling }).ok();
}

fn listen_in(folder: &Path) -> io::Result<OwnedFd> {
    let directory = open_folder(folder)?;
    match fs::remove_file(folder.join("socket")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = new_socket()?;
    bind(&socket, &address(&directory)?)?;
    fs::set_permissions(folder.join("socket"), std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    // One server at a time, and one that takes over from it.
    listen(&socket, 4)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(socket)
}

fn open_folder(folder: &Path) -> io::Result<OwnedFd> {
    Ok(open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn new_socket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

fn address(directory: &OwnedFd) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new(format!("/proc/self/fd/{}/socket", directory.as_raw_fd()))?)
}

/// Kills and takes away everything that the node `id` left in control groups, its keeper included,
/// and the keeper's socket. Refusing while a server runs is the caller's part.
///
/// # Errors
/// Something could not be taken away.
pub fn clean(id: &str, data: &Path) -> io::Result<()> {
    cgroup::Parent::new(id)?.clean()?;
    match fs::remove_file(data.join("keeper").join("socket")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
