//! The process that becomes the program: made with the sandbox, it has given up its rights already and
//! waits for the order, so that a start forks nothing and installs nothing. It shares the memory of the
//! first process: the execution of the program has no copy of it to take apart.

use std::{
    convert::Infallible,
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    sync::{Arc, Mutex, PoisonError},
};

use libc::sock_filter;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use super::{Broken, During, Order, fail, program};
use crate::{
    protection::{Protection, Without},
    sys::{self, Companion, Turn},
};

/// As its parent, the sandbox's first process, has it.
#[derive(Debug)]
pub(super) struct Ahead {
    companion: Companion,
    order: Exchange,
}

/// Where the order is put, in the memory that both have.
type Exchange = Arc<Mutex<Option<Order>>>;

impl Ahead {
    /// Makes it. From now on the first process gets its signals by asking for them.
    pub(super) fn make(
        control: &'static OwnedFd,
        filter: &[sock_filter],
        without: &Without,
    ) -> io::Result<Self> {
        sys::block_signals();
        let order = Exchange::default();
        let (taken, filter, without) = (Arc::clone(&order), filter.to_vec(), without.clone());
        let companion = Companion::begin(move |turn| live(&turn, &taken, control, filter, &without))?;
        Ok(Self { companion, order })
    }

    /// Its id inside.
    pub(super) fn pid(&self) -> i32 {
        self.companion.pid()
    }

    /// Whether it waits; it could have been killed, for want of memory.
    pub(super) fn waits(&self) -> bool {
        self.companion.waits()
    }

    /// What must stay open for it.
    pub(super) fn line(&self) -> RawFd {
        self.companion.line()
    }

    /// Lets it obey, until the program was executed or it has ended.
    pub(super) fn obey(&self, order: Order) {
        *self.order.lock().unwrap_or_else(PoisonError::into_inner) = Some(order);
        self.companion.turn();
    }

    /// It isn't needed: the first process becomes the program itself, and must have no child then.
    pub(super) fn dismiss(&self) {
        self.companion.dismiss();
        sys::wait_for_child(self.pid());
    }
}

fn live(turn: &Turn, order: &Exchange, control: &OwnedFd, mut filter: Vec<sock_filter>, without: &Without) {
    if !without.leaves_out(Protection::ClosedDescriptors) {
        sys::close_all_but(&mut [turn.line(), control.as_raw_fd()]);
    }
    let given_up = program::give_up(&mut filter, without);
    if !turn.pass() {
        return;
    }
    let order = order.lock().unwrap_or_else(PoisonError::into_inner).take();
    let result = given_up.and_then(|()| {
        let order = order.ok_or(io::ErrorKind::NotFound).during("read the order")?;
        become_program(&order, without)
    });
    let Err(broken) = result;
    fail(control, broken)
}

fn become_program(order: &Order, without: &Without) -> Result<Infallible, Broken> {
    program::enter(order, without)?;
    program::become_user(order)?;
    if !without.leaves_out(Protection::HiddenInit) {
        // It may have come off with the change of the user, for whom the machine is set up so.
        set_dumpable_behavior(DumpableBehavior::NotDumpable).during("hide its memory")?;
    }
    program::execute(order, without)
}
