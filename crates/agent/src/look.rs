//! Looks at an instance from outside: whether its process is there, and whether it listens.
//!
//! There are three answers. What the server can't see for a want of its own (descriptors, memory,
//! threads) says nothing about the instance: it is looked again, and nothing else changes.

use std::{fs::File, io, net::Ipv4Addr, os::fd::AsFd, time::Duration};

use minato_model::ids::{InstanceId, ReleaseKey};
use minato_network::{Listening, Probe};
use rustix::io::Errno;
use serde_json::Value;
use tokio::time::Instant;

use crate::{node::Node, prepare::whole};

/// Who can't be looked at for so long is told of.
const LASTS: Duration = Duration::from_secs(5);

/// What a look found.
#[derive(Debug, PartialEq)]
pub(crate) enum Seen {
    Listens,
    Silent,
    /// Its process is gone.
    Gone,
    /// It couldn't be looked at, and why.
    Unknown(String),
}

/// Why there is no look into an instance's network.
#[derive(Debug, PartialEq)]
pub(crate) enum Unopened {
    Gone,
    Unknown(String),
}

/// Whether a process listens on a port just now.
pub(crate) async fn look(pid: u32, address: Ipv4Addr, port: u16) -> Seen {
    let looked = tokio::task::spawn_blocking(move || look_now(pid, address, port)).await;
    looked.unwrap_or_else(|panicked| Seen::Unknown(panicked.to_string()))
}

fn look_now(pid: u32, address: Ipv4Addr, port: u16) -> Seen {
    let seen = match open(pid, address).map(|mut probe| probe.look(port)) {
        Ok(Ok(Listening::Yes)) => Seen::Listens,
        Ok(Ok(Listening::No | Listening::Loopback)) => Seen::Silent,
        Ok(Err(error)) => Seen::Unknown(whole(&error)),
        Err(Unopened::Gone) => Seen::Gone,
        Err(Unopened::Unknown(why)) => Seen::Unknown(why),
    };
    if lives(pid) == Some(false) { Seen::Gone } else { seen }
}

/// A look into the network of a process. Blocks for a moment.
pub(crate) fn open(pid: u32, address: Ipv4Addr) -> Result<Probe, Unopened> {
    let namespace = namespace(pid).map_err(|error| {
        let why = || format!("its network namespace can't be opened: {error}");
        if says_gone(&error) { Unopened::Gone } else { Unopened::Unknown(why()) }
    })?;
    Probe::open(&namespace, address).map_err(|error| Unopened::Unknown(whole(&error)))
}

/// The network namespace of a process.
pub(crate) fn namespace(pid: u32) -> io::Result<File> {
    File::open(format!("/proc/{pid}/ns/net"))
}

/// A look into a network namespace; `None`: not now.
pub(crate) fn probe_in(namespace: impl AsFd, address: Ipv4Addr) -> Option<Probe> {
    match Probe::open(namespace, address) {
        Ok(probe) => Some(probe),
        Err(error) => {
            tracing::warn!(error = %whole(&error), %address, "instance's network can't be looked into");
            None
        }
    }
}

/// Whether a process is there and hasn't ended; `None`: that can't be told now.
pub(crate) fn lives(pid: u32) -> Option<bool> {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        // `pid (name) state …`, where the name may hold anything: the state follows the last `)`.
        Ok(stat) => Some(
            stat.rsplit_once(')')
                .is_some_and(|(_, rest)| !matches!(rest.trim_start().chars().next(), Some('Z' | 'X'))),
        ),
        Err(error) => says_gone(&error).then_some(false),
    }
}

/// Whether an error of a process' files says that there is no such process.
fn says_gone(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::SRCH))
}

/// Whether an error is the server's own want, and no answer of anybody.
pub(crate) fn is_want(error: &io::Error) -> bool {
    const WANTS: [Errno; 6] =
        [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::AGAIN, Errno::ADDRNOTAVAIL];
    Errno::from_io_error(error).is_some_and(|errno| WANTS.contains(&errno))
}

/// Since when an instance couldn't be looked at.
#[derive(Debug, Default)]
pub(crate) struct Unseen {
    since: Option<Instant>,
    said: bool,
}

impl Unseen {
    /// Notes whether a look told something; whether it is time to say that none does.
    pub(crate) fn note(&mut self, told: bool, now: Instant) -> bool {
        if told {
            *self = Self::default();
            return false;
        }
        let since = *self.since.get_or_insert(now);
        let say = !self.said && now.duration_since(since) >= LASTS;
        self.said |= say;
        say
    }

    /// Whether the last look told nothing.
    pub(crate) fn is_now(&self) -> bool {
        self.since.is_some()
    }
}

/// Says that an instance can't be looked at.
pub(crate) fn say_unseen(node: &Node, id: &InstanceId, key: &ReleaseKey, why: &str) {
    tracing::warn!(instance = %id, why, "instance can't be looked at");
    let reason = format!("it can't be looked at, and stays as it is: {why}");
    node.record("instance_unseen", key, id, &reason, Value::Null);
}

#[cfg(test)]
mod tests {
    use std::{env, net::TcpListener, process::Command};

    use rustix::process::{Resource, Rlimit, setrlimit};

    use super::*;

    const ROLE: &str = "MINATO_TEST_WANT";

    /// In a process of its own, which may open nothing more.
    fn in_want(port: u16, listener: TcpListener) {
        let own = std::process::id();
        assert_eq!(look_now(own, Ipv4Addr::LOCALHOST, port), Seen::Listens);
        setrlimit(Resource::Nofile, Rlimit { current: Some(0), maximum: Some(0) }).unwrap();
        let seen = look_now(own, Ipv4Addr::LOCALHOST, port);
        assert!(matches!(seen, Seen::Unknown(_)), "{seen:?}");
        assert_eq!(lives(own), None);
        drop(listener);
    }

    #[test]
    fn a_want_of_the_servers_own_is_no_answer() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        if env::var_os(ROLE).is_some() {
            return in_want(port, listener);
        }
        let again = ["look::tests::a_want_of_the_servers_own_is_no_answer", "--exact", "--test-threads=1"];
        let child = Command::new(env::current_exe().unwrap()).args(again).env(ROLE, "1").output().unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
        assert!(String::from_utf8_lossy(&child.stdout).contains("1 passed"));
        let mut ended = Command::new("/bin/true").spawn().unwrap();
        let pid = ended.id();
        ended.wait().unwrap();
        assert_eq!(look_now(pid, Ipv4Addr::LOCALHOST, port), Seen::Gone);
        drop(listener);
        assert_eq!(look_now(std::process::id(), Ipv4Addr::LOCALHOST, port), Seen::Silent);
    }

    #[tokio::test(start_paused = true)]
    async fn what_lasts_is_said_once() {
        let begun = Instant::now();
        let mut unseen = Unseen::default();
        let mut say = |seconds, told| unseen.note(told, begun + Duration::from_secs(seconds));
        assert_eq!([say(0, false), say(4, false), say(5, false), say(6, false)], [false, false, true, false]);
        assert_eq!([say(7, true), say(8, false), say(13, false)], [false, false, true]);
    }
}
