//! A sandbox as the server has it: parked, until one message starts something in it.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use minato_model::ids::InstanceId;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{RecvFlags, SendFlags},
};

use crate::{
    crash,
    ids::RANGE,
    init::{Answer, Order, monotonic},
    keeper::{Client, protocol::Failure},
    mounts,
    protection::Without,
    spec::{Phases, Running, Start},
    wire,
};

/// The most bytes of a tag.
const TAG_MAX: usize = 64 * 1024;

/// How long an init may take: filling writable paths from a slow disk is the longest it does.
const PATIENCE: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

/// A parked sandbox. Dropping it without a start ends it (its end is reported as any other).
#[derive(Debug)]
pub struct Sandbox {
    pub(crate) instance: InstanceId,
    pub(crate) pid: u32,
    pub(crate) control: OwnedFd,
    pub(crate) user_namespace: OwnedFd,
    pub(crate) network_namespace: OwnedFd,
    pub(crate) client: Client,
    pub(crate) without: Without,
}

/// A start that failed. The sandbox ends (its end is reported as any other), and is never used again.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The program isn't there.
    #[error("there is no program `{path}` in the image")]
    Missing {
        /// As it was given.
        path: String,
    },
    /// The program is there, the interpreter or loader that it names isn't.
    #[error("`{path}` is there, but the interpreter or loader that it names is not")]
    NoInterpreter {
        /// As it was found.
        path: String,
    },
    /// It is there, and this user may not execute it.
    #[error("`{path}` may not be executed by this user")]
    NotExecutable {
        /// As it was found.
        path: String,
    },
    /// It is not a program for this machine.
    #[error("`{path}` is not a program that this machine can execute")]
    WrongFormat {
        /// As it was found.
        path: String,
    },
    /// The working directory isn't there, or may not be entered.
    #[error("the working directory `{path}` can't be entered")]
    Directory {
        /// As it was given.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The tree can't be attached.
    #[error("cannot attach the root file system {path}")]
    Root {
        /// The tree.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// What is asked for can't be: a null byte, too much of something, a relative path.
    #[error("cannot be started: {0}")]
    Invalid(&'static str),
    /// A step inside the sandbox failed.
    #[error("the step `{step}` failed inside the sandbox")]
    Step {
        /// Which step.
        step: String,
        /// Why.
        source: io::Error,
    },
    /// The sandbox ended before its program was executed (killed, or out of memory).
    #[error("the sandbox ended before its program was executed")]
    Gone,
}

impl Sandbox {
    /// Whose it is.
    #[must_use]
    pub fn instance(&self) -> &InstanceId {
        &self.instance
    }

    /// Its first process, as the node sees it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its network namespace, for looking at its sockets.
    #[must_use]
    pub fn network_namespace(&self) -> BorrowedFd<'_> {
        self.network_namespace.as_fd()
    }

    /// Starts a program in it, by one message straight to the parked init. Blocks for about a
    /// millisecond; from an async task use a blocking thread.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(self, start: &Start) -> Result<Running, StartError> {
        let begun = monotonic();
        let result = check(start).and_then(|()| self.order(start, begun));
        match result {
            Ok(phases) => {
                // If the keeper is gone, its client's owner is told by an event.
                drop(self.client.started(&self.instance, &start.tag));
                Ok(Running { pid: self.pid, phases })
            }
            Err(error) => {
                drop(self.client.kill(&self.instance));
                Err(error)
            }
        }
    }

    fn order(&self, start: &Start, begun: u64) -> Result<Phases, StartError> {
        let root = mounts::prepare_root_without(&start.root, self.user_namespace.as_fd(), &self.without)
            .map_err(|source| StartError::Root { path: start.root.display().to_string(), source })?;
        let order = Order {
            argv: start.argv.clone(),
            env: start.env.clone(),
            cwd: start.cwd.clone(),
            uid: start.uid,
            gid: start.gid,
            groups: start.groups.clone(),
            writable: start.writable.clone(),
            scratch: start.scratch,
            files: start.files,
            init: start.init,
        };
        let bytes = wire::encode(&order, &[])
            .map_err(|_| StartError::Invalid("command and environment are longer than 192 KiB"))?;
        wire::send(&self.control, &bytes, &[root.as_fd()], SendFlags::empty())
            .map_err(|_| StartError::Gone)?;
        crash::point("start.ordered");
        drop(root);
        let mut phases = None;
        while let Some(answer) = self.answer()? {
            match answer {
                Answer::Mounted { taken, mounted } => {
                    let since = |at: u64| at.saturating_sub(begun) / 1000;
                    phases = Some(Phases { taken: since(taken), mounted: since(mounted), executed: 0 });
                }
                Answer::Failed { failure, path } => return Err(failed(&failure, path)),
            }
        }
        let executed = monotonic().saturating_sub(begun) / 1000;
        phases.map(|phases| Phases { executed, ..phases }).ok_or(StartError::Gone)
    }

    /// What the init says next; `None`: its end of the socket is closed, by an execution or its death.
    fn answer(&self) -> Result<Option<Answer>, StartError> {
        let late =
            || StartError::Step { step: "wait for the init".into(), source: io::ErrorKind::TimedOut.into() };
        let mut waiting = [PollFd::new(&self.control, PollFlags::IN)];
        let ready = loop {
            match poll(&mut waiting, Some(&PATIENCE)) {
                Err(rustix::io::Errno::INTR) => {}
                result => break result.map_err(|_| StartError::Gone)?,
            }
        };
        if ready == 0 {
            return Err(late());
        }
        let Ok(Some(message)) = wire::receive(&self.control, RecvFlags::empty()) else { return Ok(None) };
        wire::decode(&message.bytes).map(|(answer, _)| Some(answer)).map_err(|_| StartError::Gone)
    }
}

/// What can be seen to be wrong before anything is done.
fn check(start: &Start) -> Result<(), StartError> {
    let null = |list: &[String]| list.iter().any(|text| text.contains('\0'));
    let absolute = |path: &String| path.starts_with('/') && !path.contains('\0');
    if start.argv.first().is_none_or(String::is_empty) {
        return Err(StartError::Invalid("there is no command: the image has none, and none is given"));
    }
    if null(&start.argv) || null(&start.env) {
        return Err(StartError::Invalid("a null byte is in the command or the environment"));
    }
    if !absolute(&start.cwd) || !start.writable.iter().all(absolute) {
        return Err(StartError::Invalid("the working directory and writable paths must be absolute"));
    }
    if start.uid >= RANGE || start.gid >= RANGE || start.groups.iter().any(|&gid| gid >= RANGE) {
        return Err(StartError::Invalid("users and groups inside end at 65,535"));
    }
    if start.groups.len() > 64 || start.tag.len() > TAG_MAX {
        return Err(StartError::Invalid("there are more than 64 groups, or more than 64 KiB of tag"));
    }
    Ok(())
}

fn failed(failure: &Failure, path: String) -> StartError {
    let source = failure.error();
    match failure.step.as_str() {
        "program" => StartError::Missing { path },
        "interpreter" => StartError::NoInterpreter { path },
        "permission" => StartError::NotExecutable { path },
        "format" => StartError::WrongFormat { path },
        "cwd" => StartError::Directory { path, source },
        step if path.is_empty() => StartError::Step { step: step.to_owned(), source },
        step => StartError::Step { step: format!("{step}: {path}"), source },
    }
}
