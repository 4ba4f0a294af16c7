//! An instance as its parent has it: made, watched, and cleared away after its end.

use std::{
    fs, io,
    ops::Range,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
};

use libc::sock_filter;
use minato_network::{NodeNetwork, link};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{CWD, Mode, OFlags, openat},
    net::{RecvFlags, SendFlags},
};

use super::{output::Output, protocol::Failure};
use crate::{
    cgroup::{Door, Group, Parent},
    ids::RANGE,
    init::{self, Inherited, Inside, Told},
    protection::{Protection, Without},
    spec::{Ended, Held, HeldState, SandboxSpec, Status},
    sys::{self, Forked},
    wire,
};

/// One child of the keeper.
#[derive(Debug)]
pub(super) struct Child {
    pub spec: SandboxSpec,
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// To its init, while that is ours.
    pub line: OwnedFd,
    pub output: Output,
    pub state: State,
    pub tag: Vec<u8>,
    /// It is known where its output goes.
    pub bound: bool,
    /// Its output isn't read for a while: it wrote too much.
    pub rests: bool,
    group: Group,
    cgroup: String,
    /// How the program ended, as its init told.
    told: Option<Status>,
    kills: Kills,
}

/// How often the kernel had killed something in the group for want of memory, when it was looked at: an
/// end is told by what came since, for what a program survived long ago is not why it ends.
#[derive(Debug, Clone, Copy, Default)]
struct Kills {
    /// At the last look but one: what just happened isn't taken for long ago.
    before: u64,
    last: u64,
}

impl Kills {
    fn look(&mut self, now: u64) {
        (self.before, self.last) = (self.last, now);
    }

    /// Whoever ends now does so because somebody asked for it.
    fn excuse(&mut self, now: u64) {
        (self.before, self.last) = (now, now);
    }

    /// Whether want of memory is why a process ended like this, when there were so many.
    fn explain(self, status: Status, now: u64) -> bool {
        // A shell tells of its child's end by 128 and the signal.
        const BY_A_SHELL: i32 = 128 + libc::SIGKILL;
        matches!(status, Status::Signal(libc::SIGKILL) | Status::Exit(BY_A_SHELL)) && now > self.before
    }
}

/// How far a child is.
#[derive(Debug)]
pub(super) enum State {
    /// Not parked yet; what the server will get, and why it won't.
    Making {
        call: Call,
        handles: Option<Handles>,
        failure: Option<Failure>,
    },
    Parked,
    Running,
}

/// Who asked for a sandbox, and under which number it is answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub asker: u64,
    pub number: u64,
}

/// What the server is given of a parked sandbox.
#[derive(Debug)]
pub(super) struct Handles {
    pub control: OwnedFd,
    pub user_namespace: OwnedFd,
    pub network_namespace: OwnedFd,
}

/// What every sandbox of this node is made with.
#[derive(Debug)]
pub(super) struct Ground {
    pub parent: Parent,
    pub id: minato_network::NodeId8,
    pub filter: Vec<sock_filter>,
    /// Where the keeper's own arguments are in its memory, and in each child's.
    pub arguments: Range<usize>,
}

impl Child {
    /// Makes a sandbox up to where its init does the rest by itself and says [`Told::Parked`].
    pub(super) fn make(
        ground: &mut Ground,
        call: Call,
        spec: SandboxSpec,
        without: &Without,
    ) -> Result<Self, Failure> {
        let at = |step: &'static str| move |error: io::Error| Failure::new(step, &error);
        let instance = spec.instance.as_str();
        let (group, door) =
            ground.parent.create(instance, &spec.limits).map_err(at("make the control group"))?;
        let cgroup = ground.parent.relative(instance);
        match Self::fork(ground, call, spec, door, without) {
            Ok((spec, pid, pidfd, line, output, state)) => {
                let tag = Vec::new();
                Ok(Self {
                    spec,
                    pid,
                    pidfd,
                    line,
                    output,
                    state,
                    tag,
                    bound: false,
                    rests: false,
                    group,
                    cgroup,
                    told: None,
                    kills: Kills::default(),
                })
            }
            Err(failure) => {
                // Nothing was ever in it.
                drop(group.remove());
                Err(failure)
            }
        }
    }

    fn fork(
        ground: &mut Ground,
        call: Call,
        spec: SandboxSpec,
        door: Door,
        without: &Without,
    ) -> Result<(SandboxSpec, i32, OwnedFd, OwnedFd, Output, State), Failure> {
        let at = |step: &'static str| move |error: io::Error| Failure::new(step, &error);
        let (output, ends) =
            Output::new(&spec.log, spec.log_max, spec.id_range_start).map_err(at("make pipes"))?;
        let (line, far_line) = wire::pair().map_err(at("make sockets"))?;
        let (control, far_control) = wire::pair().map_err(at("make sockets"))?;
        let Door { unified, tasks } = door;
        match sys::fork_sandbox(unified.as_ref().map(AsFd::as_fd), without)
            .map_err(at("make the namespaces"))?
        {
            Forked::Child => init::run(Inherited {
                keeper: far_line,
                control: far_control,
                output: ends,
                tasks,
                inside: Inside {
                    address: spec.address,
                    gateway: spec.plan.gateway(),
                    dns: spec.dns,
                    hostname: &spec.hostname,
                    scratch: spec.scratch,
                },
                arguments: ground.arguments.clone(),
                filter: &mut ground.filter,
                without,
            }),
            Forked::Parent(pid, pidfd) => {
                let pidfd = pidfd
                    .ok_or_else(|| Failure { step: "make the namespaces".into(), errno: libc::EBADF })?;
                let (handles, failure) = match equip(ground, &spec, pid, &line, control, without) {
                    Ok(handles) => (Some(handles), None),
                    Err(failure) => {
                        // Its end is awaited as any other, and answers the call.
                        drop(sys::pidfd_signal(pidfd.as_fd(), libc::SIGKILL));
                        (None, Some(failure))
                    }
                };
                Ok((spec, pid, pidfd, line, output, State::Making { call, handles, failure }))
            }
        }
    }

    /// Says where its output goes: from now on it is read.
    pub(super) fn bind(&mut self, log: PathBuf, max: u64) {
        self.bound = true;
        self.output.bind(log.clone(), max);
        (self.spec.log, self.spec.log_max) = (log, max);
    }

    /// Takes what the init said; `None`: it says no more.
    pub(super) fn hear(&mut self) -> Option<Told> {
        let message = wire::receive(&self.line, RecvFlags::DONTWAIT).ok().flatten()?;
        let (told, _) = wire::decode::<Told>(&message.bytes).ok()?;
        match (&told, &mut self.state) {
            (Told::Ended(raw), _) => self.told = Some(sys::status_of(*raw)),
            (Told::Failed(reason), State::Making { failure, .. }) => *failure = Some(reason.clone()),
            _ => {}
        }
        Some(told)
    }

    pub(super) fn signal(&mut self, signal: i32) {
        if signal == libc::SIGKILL {
            self.excuse();
        }
        // That it has ended already is no error.
        drop(sys::pidfd_signal(self.pidfd.as_fd(), signal));
    }

    pub(super) fn kill(&mut self) {
        self.excuse();
        if !self.group.kill() {
            drop(sys::pidfd_signal(self.pidfd.as_fd(), libc::SIGKILL));
        }
    }

    /// From now on want of memory isn't why it ends, unless it has ended already.
    fn excuse(&mut self) {
        while self.hear().is_some() {}
        let mut end = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let runs = poll(&mut end, Some(&Timespec::default())).is_ok_and(|ended| ended == 0);
        if runs && self.told.is_none() {
            self.kills.excuse(self.group.out_of_memory_kills());
        }
    }

    /// Looks whether the kernel killed something in it.
    pub(super) fn look(&mut self) {
        self.kills.look(self.group.out_of_memory_kills());
    }

    /// Reaps the child if it has ended, and takes the rest of its output.
    pub(super) fn end(&mut self, now_ms: i64) -> Option<Ended> {
        let status = sys::reap(self.pidfd.as_fd()).ok().flatten()?;
        while self.hear().is_some() {}
        if self.bound {
            self.output.finish(now_ms);
        }
        let status = self.told.unwrap_or(status);
        let oom = self.kills.explain(status, self.group.out_of_memory_kills());
        Some(Ended { instance: self.spec.instance.clone(), status, oom, at_ms: now_ms })
    }

    /// What is said of it to a new server.
    pub(super) fn held(&self, ended: Option<Ended>) -> Held {
        let state = match (ended, &self.state) {
            (Some(ended), _) => HeldState::Ended(ended),
            (None, State::Running) => HeldState::Running,
            (None, State::Making { .. } | State::Parked) => HeldState::Parked,
        };
        Held {
            instance: self.spec.instance.clone(),
            pid: self.pid.unsigned_abs(),
            start_time: start_time(self.pid).unwrap_or(0),
            cgroup: self.cgroup.clone(),
            address: self.spec.address,
            id_range_start: self.spec.id_range_start,
            log: self.spec.log.clone(),
            tag: self.tag.clone(),
            state,
        }
    }

    /// What remains to be removed.
    pub(super) fn into_group(self) -> Group {
        self.group
    }
}

/// Gives the child what only the keeper can: its ids and its link.
fn equip(
    ground: &Ground,
    spec: &SandboxSpec,
    pid: i32,
    line: &OwnedFd,
    control: OwnedFd,
    without: &Without,
) -> Result<Handles, Failure> {
    let at = |step: &'static str| move |error: io::Error| Failure::new(step, &error);
    let open = |name: &str| {
        openat(CWD, format!("/proc/{pid}/ns/{name}"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    };
    let user_namespace = open("user").map_err(|error| at("open the namespaces")(error.into()))?;
    let network_namespace = open("net").map_err(|error| at("open the namespaces")(error.into()))?;
    if !without.leaves_out(Protection::UserNamespace) {
        let map = format!("0 {} {RANGE}\n", spec.id_range_start);
        fs::write(format!("/proc/{pid}/uid_map"), &map).map_err(at("map the ids"))?;
        fs::write(format!("/proc/{pid}/gid_map"), &map).map_err(at("map the ids"))?;
    }
    wire::send(line, init::MAPPED, &[], SendFlags::empty()).map_err(at("talk to the init"))?;
    if !without.leaves_out(Protection::NetworkNamespace) {
        make_link(ground, spec, &network_namespace)?;
    }
    wire::send(line, init::LINKED, &[], SendFlags::empty()).map_err(at("talk to the init"))?;
    Ok(Handles { control, user_namespace, network_namespace })
}

fn make_link(ground: &Ground, spec: &SandboxSpec, namespace: &OwnedFd) -> Result<(), Failure> {
    let network = NodeNetwork { id: ground.id, plan: spec.plan };
    link::create_instance_pair(&network, spec.address, namespace.as_fd()).map_err(|error| {
        if matches!(error, link::PairError::Busy { .. }) {
            return Failure { step: Failure::BUSY.into(), errno: libc::EEXIST };
        }
        Failure::new("make the link", &init::root_cause(error))
    })
}

/// Where the kernel put this process' arguments.
pub(super) fn arguments() -> io::Result<Range<usize>> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let place = |number: usize| field(&stat, number)?.parse().ok();
    match (place(48), place(49)) {
        (Some(start), Some(end)) if start > 0 => Ok(start..end),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// When a process started, in clock ticks since boot.
fn start_time(pid: i32) -> Option<u64> {
    field(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?, 22)?.parse().ok()
}

/// A field of `stat` by its number in the manual, counted from after the name, which may hold anything.
fn field(stat: &str, number: usize) -> Option<&str> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(number - 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILLED: Status = Status::Signal(libc::SIGKILL);

    #[test]
    fn only_a_kill_for_want_of_memory_just_now_is_told_as_that() {
        let mut kills = Kills::default();
        assert!(kills.explain(KILLED, 1) && kills.explain(Status::Exit(137), 1));
        for other in [Status::Exit(0), Status::Exit(1), Status::Signal(libc::SIGTERM)] {
            assert!(!kills.explain(other, 1), "{other:?}");
        }
        assert!(!kills.explain(KILLED, 0));
        // The look came between the kill and its end.
        kills.look(1);
        assert!(kills.explain(KILLED, 1));
        // Survived since the look before.
        kills.look(1);
        assert!(!kills.explain(KILLED, 1) && kills.explain(KILLED, 2));
        kills.excuse(2);
        assert!(!kills.explain(KILLED, 2) && kills.explain(KILLED, 3));
    }
}
