//! What the child does, line by line, in order: from the clone to the program's execution.
//!
//! It is a copy of the keeper with one thread, so that it may use everything; it holds only its own
//! descriptors, and its memory can't be looked into from inside the instance.

use std::{
    ffi::CStr,
    io,
    net::Ipv4Addr,
    ops::Range,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use libc::sock_filter;
use minato_network::link;
use rustix::{
    net::{RecvFlags, SendFlags},
    process::{DumpableBehavior, Gid, Uid, set_dumpable_behavior, setsid, umask},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use serde::{Deserialize, Serialize};

use crate::{
    cgroup,
    keeper::protocol::Failure,
    protection::{Protection, Without},
    sys, wire,
};

mod ahead;
mod bind;
mod fill;
mod identity;
mod program;
mod skeleton;

use ahead::Ahead;
pub(crate) use identity::Pem;
pub(crate) use skeleton::Parts;

/// What the keeper gives the child through the clone.
#[derive(Debug)]
pub(crate) struct Inherited<'a> {
    /// To the keeper.
    pub keeper: OwnedFd,
    /// To the server.
    pub control: OwnedFd,
    /// Standard output and error.
    pub output: [OwnedFd; 2],
    /// The `tasks` files of its version 1 control groups.
    pub tasks: Vec<OwnedFd>,
    /// What it looks like inside.
    pub inside: Inside<'a>,
    /// Where its copy of the keeper's arguments is.
    pub arguments: Range<usize>,
    /// The filter of system calls.
    pub filter: &'a mut [sock_filter],
    /// What is left out of it.
    pub without: &'a Without,
}

/// What the parked sandbox looks like inside.
#[derive(Debug)]
pub(crate) struct Inside<'a> {
    pub address: Ipv4Addr,
    pub gateway: Ipv4Addr,
    pub dns: Ipv4Addr,
    pub hostname: &'a str,
    pub scratch: u64,
}

/// What the init is called, in lists of processes.
const NAME: &CStr = c"minato-init";

/// What the keeper says to the child: its ids are mapped; its link is there.
pub(crate) const MAPPED: &[u8] = b"mapped";
pub(crate) const LINKED: &[u8] = b"linked";

/// What the child says to the keeper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Told {
    /// It waits for a start.
    Parked,
    /// It can't be made.
    Failed(Failure),
    /// Its program ended with this raw wait status.
    Ended(i32),
}

/// What the server says to the parked init, with the root mount.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub argv: Vec<String>,
    pub env: Vec<String>,
    pub cwd: String,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub writable: Vec<String>,
    pub scratch: u64,
    pub files: u32,
    pub init: bool,
    /// The size of `/tmp` and `/dev/shm`, if it is another than they were made with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resize: Option<u64>,
    /// What of the message's blob is which file of its identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Pem>,
}

/// What the init answers to an order. The socket's end without `Failed` after `Mounted` means that
/// the program was executed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// Everything is attached; monotonic times in nanoseconds of this and of the order's arrival.
    Mounted { taken: u64, mounted: u64 },
    /// It could not be started.
    Failed { failure: Failure, path: String },
}

/// A step that failed, by name.
#[derive(Debug)]
pub(crate) struct Broken {
    step: &'static str,
    error: io::Error,
    path: String,
}

/// Names the step in which an error happened.
pub(crate) trait During<T> {
    fn during(self, step: &'static str) -> Result<T, Broken>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, step: &'static str) -> Result<T, Broken> {
        self.map_err(|error| Broken { step, error: error.into(), path: String::new() })
    }
}

/// A sandbox that waits, as its first process has it.
#[derive(Debug)]
struct Parked {
    parts: Parts,
    ahead: Ahead,
    keeper: OwnedFd,
    control: &'static OwnedFd,
}

/// The child's whole life before a program takes its place, or after which it ends.
pub(crate) fn run(inherited: Inherited<'_>) -> ! {
    let Inherited { keeper, control, output, tasks, inside, arguments, filter, without } = inherited;
    // They tell where the node's data is, and everybody inside may read them.
    sys::hide_arguments(&arguments, NAME.to_bytes());
    let mut keep = vec![keeper.as_raw_fd(), control.as_raw_fd()];
    keep.extend(output.iter().chain(&tasks).map(AsRawFd::as_raw_fd));
    if !without.leaves_out(Protection::ClosedDescriptors) {
        sys::close_all_but(&mut keep);
    }
    // It is needed as long as there is a process, and by two of them.
    let control: &'static OwnedFd = Box::leak(Box::new(control));
    let parked = park(&keeper, output, tasks, &inside, without).and_then(|parts| {
        Ok((parts, Ahead::make(control, filter, without).during("make the program's process")?))
    });
    let parked = match parked {
        Ok((parts, ahead)) => Parked { parts, ahead, keeper, control },
        Err(broken) => {
            tell(&keeper, &Told::Failed(Failure::new(broken.step, &broken.error)));
            sys::exit_now(1);
        }
    };
    tell(&parked.keeper, &Told::Parked);
    // The end of the server before an order is the end of the sandbox.
    let Ok(Some(message)) = wire::receive(parked.control, RecvFlags::empty()) else { sys::exit_now(0) };
    let Err(broken) = obey(&message, monotonic(), &parked, filter, without);
    fail(parked.control, broken)
}

/// Says why there is no program, and ends.
fn fail(control: &OwnedFd, broken: Broken) -> ! {
    let failure = Failure::new(broken.step, &broken.error);
    if let Ok(bytes) = wire::encode(&Answer::Failed { failure, path: broken.path }, &[]) {
        drop(wire::send(control, &bytes, &[], SendFlags::empty()));
    }
    sys::exit_now(127)
}

/// From the clone to where it waits.
fn park(
    keeper: &OwnedFd,
    output: [OwnedFd; 2],
    tasks: Vec<OwnedFd>,
    inside: &Inside<'_>,
    without: &Without,
) -> Result<Parts, Broken> {
    cgroup::enter(&tasks.iter().map(AsFd::as_fd).collect::<Vec<_>>()).during("enter the control group")?;
    drop(tasks);
    let [stdout, stderr] = output;
    sys::duplicate_onto(stdout.as_fd(), 1).during("attach standard output")?;
    sys::duplicate_onto(stderr.as_fd(), 2).during("attach standard error")?;
    wait_for(keeper, MAPPED)?;
    setsid().during("begin a session")?;
    set_thread_groups(&[]).during("become root inside")?;
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).during("become root inside")?;
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).during("become root inside")?;
    rustix::thread::set_name(NAME).during("take a name")?;
    // Its memory is a copy of the keeper's.
    let hidden = !without.leaves_out(Protection::HiddenInit);
    let dumpable = if hidden { DumpableBehavior::NotDumpable } else { DumpableBehavior::Dumpable };
    set_dumpable_behavior(dumpable).during("hide its memory")?;
    if !without.leaves_out(Protection::CgroupNamespace) {
        sys::unshare_cgroups().during("make the control group namespace")?;
    }
    umask(rustix::fs::Mode::from_raw_mode(0o022));
    rustix::system::sethostname(inside.hostname.as_bytes()).during("set the host name")?;
    let parts = skeleton::build(inside, without)?;
    if !without.leaves_out(Protection::SessionKeyring) {
        sys::join_session_keyring().during("join a session keyring")?;
    }
    wait_for(keeper, LINKED)?;
    if !without.leaves_out(Protection::NetworkNamespace) {
        link::configure_inside(inside.address, inside.gateway)
            .map_err(root_cause)
            .during("set up the network")?;
    }
    Ok(parts)
}

/// From the order to the program.
fn obey(
    message: &wire::Message,
    taken: u64,
    parked: &Parked,
    filter: &mut [sock_filter],
    without: &Without,
) -> Result<std::convert::Infallible, Broken> {
    let Parked { parts, ahead, keeper, control } = parked;
    let (order, blob) = wire::decode::<Order>(&message.bytes).during("read the order")?;
    let root = message.fds.first().ok_or(io::ErrorKind::NotFound).during("read the order")?;
    if let Some(size) = order.resize {
        skeleton::resize(parts, size).during("size /tmp and /dev/shm")?;
    }
    if let Some(pem) = &order.identity {
        identity::write(pem, blob, order.uid).during("write its identity")?;
    }
    bind::enter_root(root.as_fd(), parts)?;
    for path in &order.writable {
        fill::writable(path, order.scratch).map_err(|broken| Broken { path: path.clone(), ..broken })?;
    }
    if order.identity.is_some() {
        identity::attach(parts).during("attach its identity")?;
    }
    program::own_output(&order)?;
    let mounted = Answer::Mounted { taken, mounted: monotonic() };
    let mounted = wire::encode(&mounted, &[]).during("answer")?;
    if !order.init {
        wire::send(control, &mounted, &[], SendFlags::empty()).during("answer")?;
        ahead.dismiss();
        return program::start(&order, filter, without);
    }
    program::step_back(without)?;
    if !ahead.waits() {
        // Without an answer this one's end says that nothing was started.
        sys::exit_now(127);
    }
    wire::send(control, &mounted, &[], SendFlags::empty()).during("answer")?;
    program::lead(order, ahead, keeper.as_fd(), filter, without)
}

/// Waits for a word of the keeper; its end is this one's.
fn wait_for(keeper: &OwnedFd, word: &[u8]) -> Result<(), Broken> {
    match wire::receive(keeper, RecvFlags::empty()).during("wait for the keeper")? {
        Some(message) if message.bytes == word => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof).during("wait for the keeper"),
    }
}

fn tell(keeper: impl AsFd, told: &Told) {
    if let Ok(bytes) = wire::encode(told, &[]) {
        // If the keeper is gone the next one's sweep ends this process.
        drop(wire::send(keeper, &bytes, &[], SendFlags::DONTWAIT));
    }
}

/// The system's own error behind one of the network's.
pub(crate) fn root_cause(error: impl std::error::Error + 'static) -> io::Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(current) = cause {
        if let Some(number) = current.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return io::Error::from_raw_os_error(number);
        }
        if let Some(errno) = current.downcast_ref::<rustix::io::Errno>() {
            return (*errno).into();
        }
        cause = current.source();
    }
    io::Error::from_raw_os_error(libc::EIO)
}

/// The monotonic clock, which all processes of the machine share, in nanoseconds.
pub(crate) fn monotonic() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
