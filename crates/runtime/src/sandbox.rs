//! A sandbox as the server has it: parked, until one message starts something in it.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use minato_model::ids::InstanceId;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{RecvFlags, SendFlags},
};

use crate::{
    crash,
    ids::RANGE,
    init::{Answer, Order, Pem, monotonic},
    keeper::{Client, protocol::Failure},
    mounts,
    protection::Without,
    spec::{Binding, IDENTITY_MAX, Phases, Running, Start},
    wire,
};

/// The most bytes of a tag.
const TAG_MAX: usize = 64 * 1024;

/// A parked sandbox. Dropping it without a start ends it (its end is reported as any other).
#[derive(Debug)]
pub struct Sandbox {
    pub(crate) instance: InstanceId,
    pub(crate) pid: u32,
    pub(crate) control: OwnedFd,
    pub(crate) user_namespace: OwnedFd,
    pub(crate) network_namespace: OwnedFd,
    /// What it was made with.
    pub(crate) made: Binding,
    /// What it was given since.
    pub(crate) bound: Option<Binding>,
    pub(crate) client: Client,
    pub(crate) without: Without,
}

/// A sandbox whose init has its order: wait until [`Ordered::as_fd`] can be read, then ask
/// [`Ordered::answer`], until that is the end. Dropping it before leaves the instance to itself.
#[derive(Debug)]
pub struct Ordered {
    sandbox: Sandbox,
    tag: Vec<u8>,
    begun: u64,
    phases: Option<Phases>,
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

    /// Says for whom it is: limits are in force from now on, scratch and log with the start. Without it
    /// they are what the sandbox was made with.
    pub fn bind(&mut self, binding: Binding) {
        self.bound = Some(binding);
    }

    /// Starts a program in it, by one message straight to the parked init. Blocks for about a
    /// millisecond; from an async task use [`Sandbox::order`].
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(self, start: &Start) -> Result<Running, StartError> {
        self.order(start)?.executed()
    }

    /// Gives the parked init its order. Blocks for some hundred microseconds at most.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn order(self, start: &Start) -> Result<Ordered, StartError> {
        let begun = monotonic();
        match check(start).and_then(|()| self.put_in_force()).and_then(|resize| self.send(start, resize)) {
            Ok(()) => Ok(Ordered { sandbox: self, tag: start.tag.clone(), begun, phases: None }),
            Err(error) => {
                drop(self.client.kill(&self.instance));
                Err(error)
            }
        }
    }

    /// Limits and log; the size that `/tmp` must get, if it is another.
    fn put_in_force(&self) -> Result<Option<u64>, StartError> {
        let binding = self.bound.as_ref().unwrap_or(&self.made);
        self.client.cgroups().change(self.instance.as_str(), &self.made.limits, &binding.limits).map_err(
            |source| {
                // Its group goes when it ends.
                if source.kind() == io::ErrorKind::NotFound {
                    return StartError::Gone;
                }
                StartError::Step { step: "set the limits".into(), source }
            },
        )?;
        if self.client.binds_late() {
            let bound = self.client.bind(&self.instance, binding.log.clone(), binding.log_max);
            bound.map_err(|_| StartError::Gone)?;
        } else if binding.log != self.made.log {
            return Err(StartError::Invalid("the keeper is older, and wants its log when it is made"));
        }
        Ok((binding.scratch != self.made.scratch).then_some(binding.scratch))
    }

    fn send(&self, start: &Start, resize: Option<u64>) -> Result<(), StartError> {
        if start.identity.is_some() && !self.client.identifies() {
            return Err(StartError::Invalid("the keeper is older, and its sandboxes take no identity"));
        }
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
            resize,
            identity: start.identity.as_ref().map(Pem::of),
        };
        let blob = start.identity.as_ref().map(|id| [&*id.certificate, &*id.key, &*id.roots].concat());
        let bytes = wire::encode(&order, &blob.unwrap_or_default())
            .map_err(|_| StartError::Invalid("command and environment are longer than 192 KiB"))?;
        wire::send(&self.control, &bytes, &[root.as_fd()], SendFlags::empty())
            .map_err(|_| StartError::Gone)?;
        crash::point("start.ordered");
        Ok(())
    }
}

impl AsFd for Ordered {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.sandbox.control.as_fd()
    }
}

impl Ordered {
    /// Blocks until the program was executed, or can't be: the rest of [`Sandbox::start`].
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn executed(mut self) -> Result<Running, StartError> {
        loop {
            if !self.wait() {
                return Err(self.late());
            }
            if let Some(result) = self.answer() {
                return result;
            }
        }
    }

    /// What has become of it; `None`: that isn't known yet. Never blocks.
    pub fn answer(&mut self) -> Option<Result<Running, StartError>> {
        loop {
            match self.next() {
                Ok(Some(Answer::Mounted { taken, mounted })) => {
                    let since = |at: u64| at.saturating_sub(self.begun) / 1000;
                    self.phases = Some(Phases { taken: since(taken), mounted: since(mounted), executed: 0 });
                }
                Ok(Some(Answer::Failed { failure, path })) => {
                    return Some(Err(self.failed(failed(&failure, path))));
                }
                Ok(None) => return Some(self.running()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(_) => return Some(Err(self.failed(StartError::Gone))),
            }
        }
    }

    /// It took longer than any start may: it is killed.
    #[must_use]
    pub fn late(&self) -> StartError {
        let source = io::ErrorKind::TimedOut.into();
        self.failed(StartError::Step { step: "wait for the init".into(), source })
    }

    /// How long an init may take: filling writable paths from a slow disk is the longest it does.
    pub const PATIENCE: Duration = Duration::from_secs(30);

    /// What the init says next; `None`: its end of the socket is closed, by an execution or its death.
    fn next(&self) -> io::Result<Option<Answer>> {
        match wire::receive(&self.sandbox.control, RecvFlags::DONTWAIT) {
            Ok(None) => Ok(None),
            Ok(Some(message)) => wire::decode(&message.bytes).map(|(answer, _)| Some(answer)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            // As when it is closed.
            Err(_) => Ok(None),
        }
    }

    fn running(&self) -> Result<Running, StartError> {
        let executed = monotonic().saturating_sub(self.begun) / 1000;
        let Some(phases) = self.phases else { return Err(self.failed(StartError::Gone)) };
        // If the keeper is gone, its client's owner is told by an event.
        drop(self.sandbox.client.started(&self.sandbox.instance, &self.tag));
        Ok(Running { pid: self.sandbox.pid, phases: Phases { executed, ..phases } })
    }

    fn failed(&self, error: StartError) -> StartError {
        drop(self.sandbox.client.kill(&self.sandbox.instance));
        error
    }

    /// Blocks until the init's end of the socket is closed; `false`: it wasn't in time. What it says before
    /// that is read then: looking up for each word costs the start more than it tells.
    fn wait(&self) -> bool {
        let Ok(patience) = Timespec::try_from(Self::PATIENCE) else { return false };
        let mut waiting = [PollFd::new(&self.sandbox.control, PollFlags::RDHUP)];
        loop {
            match poll(&mut waiting, Some(&patience)) {
                Err(rustix::io::Errno::INTR) => {}
                result => return result.is_ok_and(|ready| ready > 0),
            }
        }
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
    let files = start.identity.iter().flat_map(|id| [id.certificate.len(), id.key.len(), id.roots.len()]);
    if files.clone().any(|length| length == 0) || files.sum::<usize>() > IDENTITY_MAX {
        return Err(StartError::Invalid("a part of its identity is empty, or all of it more than 32 KiB"));
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
