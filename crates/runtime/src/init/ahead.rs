//! The process that becomes the program: made with the sandbox, it has given up its rights already and
//! waits for the order, so that a start forks nothing and installs nothing.

use std::{
    convert::Infallible,
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use libc::sock_filter;
use rustix::net::{RecvFlags, SendFlags, Shutdown, shutdown};

use super::{Broken, During, Order, fail, program};
use crate::{
    protection::{Protection, Without},
    sys::{self, Forked},
    wire,
};

/// As its parent, the sandbox's first process, has it.
#[derive(Debug)]
pub(super) struct Ahead {
    pid: i32,
    line: OwnedFd,
}

impl Ahead {
    /// Makes it. From now on the first process gets its signals by asking for them.
    pub(super) fn make(
        control: &OwnedFd,
        filter: &mut [sock_filter],
        without: &Without,
    ) -> Result<Self, Broken> {
        let (line, far_line) = wire::pair().during("make sockets")?;
        sys::block_signals();
        match sys::fork().during("fork")? {
            Forked::Parent(pid, _) => Ok(Self { pid, line }),
            Forked::Child => {
                drop(line);
                live(&far_line, control, filter, without)
            }
        }
    }

    /// Its id inside.
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// Gives it the order, as it came: the root file system is there.
    pub(super) fn hand(&self, order: &[u8]) -> io::Result<()> {
        wire::send(&self.line, order, &[], SendFlags::empty())
    }

    /// It isn't needed: the first process becomes the program itself, and must have no child then.
    pub(super) fn dismiss(&self) {
        // It can only have ended already.
        shutdown(&self.line, Shutdown::Both).ok();
        sys::wait_for_child(self.pid);
    }
}

fn live(line: &OwnedFd, control: &OwnedFd, filter: &mut [sock_filter], without: &Without) -> ! {
    if !without.leaves_out(Protection::ClosedDescriptors) {
        sys::close_all_but(&mut [line.as_raw_fd(), control.as_raw_fd()]);
    }
    let given_up = program::give_up(filter, without);
    let Ok(Some(message)) = wire::receive(line, RecvFlags::empty()) else { sys::exit_now(0) };
    let Err(broken) = given_up.and_then(|()| become_program(&message.bytes, without));
    fail(control, broken)
}

fn become_program(order: &[u8], without: &Without) -> Result<Infallible, Broken> {
    let (order, _) = wire::decode::<Order>(order).during("read the order")?;
    program::enter(&order, without)?;
    program::become_user(&order)?;
    program::execute(&order, without)
}
