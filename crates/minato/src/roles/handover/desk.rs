//! Where another server asks to take over: a socket in the data directory, for root alone.

use std::{
    fs, io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::fs::PermissionsExt as _,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use tokio::{
    net::{UnixListener, UnixStream},
    time::{Instant, sleep, timeout},
};

use super::{
    SOCKET,
    line::{self, Reader, Writer},
    program,
    protocol::{FromNew, FromOld, VERSIONS},
    way,
};
use crate::config::Config;

/// How long the first word may take.
const HELLO: Duration = Duration::from_secs(5);
/// How long the new server may take from there until it has tried all that can fail beforehand.
const GO: Duration = Duration::from_secs(30);

/// The socket at which another server asks.
pub(in crate::roles) struct Desk {
    listener: UnixListener,
    place: PathBuf,
}

/// A server that is about to take over.
pub(in crate::roles) struct Visitor {
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    pub(super) process: Process,
}

impl Desk {
    /// Opens it anew: nobody else has the data directory.
    pub(in crate::roles) fn open(data: &Path) -> anyhow::Result<Self> {
        let place = data.join(SOCKET);
        let made = || -> io::Result<UnixListener> {
            match fs::remove_file(&place) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let (_folder, way) = way(data)?;
            let listener = UnixListener::bind(way)?;
            fs::set_permissions(&place, fs::Permissions::from_mode(0o600))?;
            Ok(listener)
        };
        let listener = made().with_context(|| format!("can't make the socket {}", place.display()))?;
        Ok(Self { listener, place })
    }

    /// The one that was handed over.
    pub(super) fn inherit(data: &Path, listener: OwnedFd) -> anyhow::Result<Self> {
        let listener = std::os::unix::net::UnixListener::from(listener);
        listener.set_nonblocking(true)?;
        Ok(Self { listener: UnixListener::from_std(listener)?, place: data.join(SOCKET) })
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Takes it away: there is nothing to take over any more.
    pub(in crate::roles) fn close(self) {
        // Left behind, nobody answers at it.
        drop(fs::remove_file(&self.place));
    }

    /// The next server that takes over: understood, and done with all that can fail beforehand.
    pub(in crate::roles) async fn next(&self, config: &Config) -> Visitor {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => match visit(stream, config).await {
                    Ok(visitor) => return visitor,
                    Err(error) => tracing::warn!("a server that wanted to take over did not: {error:#}"),
                },
                Err(error) => {
                    tracing::warn!(%error, "a server that wants to take over could not be heard");
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

/// The words before anything happens.
async fn visit(stream: UnixStream, config: &Config) -> anyhow::Result<Visitor> {
    let peer = stream.peer_cred()?;
    anyhow::ensure!(peer.uid() == rustix::process::geteuid().as_raw(), "it belongs to uid {}", peer.uid());
    let process = Process::of(peer.pid())?;
    let (mut reader, mut writer) = line::split(stream);
    let hello = timeout(HELLO, reader.next::<FromNew>()).await.context("it says nothing")??;
    let Some((FromNew::Hello { versions, program: theirs }, _)) = hello else {
        anyhow::bail!("it doesn't say who it is");
    };
    let Some(version) = VERSIONS.with(versions) else {
        let reason = format!(
            "{} speaks versions {} to {} of the hand-over, {theirs} speaks {} to {}",
            program(),
            VERSIONS.oldest,
            VERSIONS.newest,
            versions.oldest,
            versions.newest
        );
        let refused = FromOld::Refused { reason: reason.clone() };
        timeout(HELLO, writer.send(&refused, &[])).await??;
        anyhow::bail!(reason);
    };
    let welcome = FromOld::Welcome {
        version,
        program: program(),
        pid: std::process::id(),
        api: config.api,
        http: config.http,
        https: Some(config.https),
    };
    timeout(HELLO, writer.send(&welcome, &[])).await??;
    match timeout(GO, reader.next::<FromNew>()).await.context("it doesn't go on")?? {
        Some((FromNew::Go, _)) => {
            tracing::info!(pid = process.pid, program = theirs, "another server takes over");
            Ok(Visitor { reader, writer, process })
        }
        _ => anyhow::bail!("it went away"),
    }
}

/// The process on the other side, beyond doubt: its number may be another's soon.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: i32,
    descriptor: OwnedFd,
}

impl Process {
    fn of(pid: Option<i32>) -> anyhow::Result<Self> {
        let pid = pid.context("its process isn't known")?;
        let number = Pid::from_raw(pid).context("its process isn't in sight")?;
        Ok(Self { pid, descriptor: pidfd_open(number, PidfdFlags::empty())? })
    }

    /// Waits until it is gone, and all that it held is free; kills it after a while.
    pub(super) async fn end(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let mut killed = false;
        while !self.is_gone() {
            if !killed && Instant::now() >= until {
                killed = true;
                tracing::warn!(pid = self.pid, "the new server neither serves nor ends: it is killed");
                if let Err(error) = pidfd_send_signal(&self.descriptor, Signal::KILL) {
                    tracing::warn!(%error, pid = self.pid, "the new server can't be killed");
                }
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn is_gone(&self) -> bool {
        let mut waiting = [PollFd::new(&self.descriptor, PollFlags::IN)];
        poll(&mut waiting, Some(&rustix::event::Timespec::default())).is_ok_and(|ready| ready > 0)
    }
}
