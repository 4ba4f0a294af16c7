//! A second process with the same memory. The two take turns: whoever hasn't the turn waits in the kernel,
//! so that nothing is ever used by both at once, as little as by a function and its caller.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    ptr,
};

use libc::{c_int, c_void};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown},
};

use super::{check, exit_now};
use crate::wire;

/// The bytes of its stack, of which the lowest page is never used.
const STACK: usize = 256 * 1024;
const PAGE: usize = 4096;

/// The other process, as its parent has it.
#[derive(Debug)]
pub(crate) struct Companion {
    pid: i32,
    line: OwnedFd,
}

/// The turn, as the companion has it.
#[derive(Debug)]
pub(crate) struct Turn {
    line: OwnedFd,
}

/// What is handed to the companion's first function.
struct Birth<F> {
    run: F,
    turn: Turn,
    /// The parent's end, which isn't the companion's.
    near: RawFd,
}

impl Companion {
    /// Begins one, and waits until it passes the turn. It has its own descriptors, credentials, root and
    /// signals, and all memory together with this process; what it owns of that it never gives back.
    /// The process must have one thread.
    ///
    /// # Errors
    /// It can't be made, or ended at once.
    pub(crate) fn begin<F>(run: F) -> io::Result<Self>
    where
        F: FnOnce(Turn) + 'static,
    {
        let (near, far) = wire::pair()?;
        let far_number = far.as_raw_fd();
        let top = stack()?;
        // Both processes have a descriptor of this number, and the companion's copy is the one that counts:
        // this one's is closed below.
        let turn = Turn { line: far };
        let birth = Box::into_raw(Box::new(Birth { run, turn, near: near.as_raw_fd() }));
        // SAFETY: the stack is the companion's alone and is never given back; `entry` gets the box that it
        // expects, which is its own from now on. Until the companion waits, this process only waits too:
        // the calls below take no lock, allocate nothing and change no variable of the thread, which both
        // take for their own.
        let pid = check(unsafe {
            libc::clone(entry::<F>, top, libc::CLONE_VM | libc::SIGCHLD, birth.cast::<c_void>())
        })?;
        super::close_range(far_number.unsigned_abs(), far_number.unsigned_abs());
        let companion = Self { pid, line: near };
        if companion.wait() { Ok(companion) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// What must stay open.
    pub(crate) fn line(&self) -> RawFd {
        self.line.as_raw_fd()
    }

    /// Whether it still waits for its turn.
    pub(crate) fn waits(&self) -> bool {
        let mut ends = [PollFd::new(&self.line, PollFlags::RDHUP)];
        poll(&mut ends, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready == 0)
    }

    /// Gives it the turn until it passes it back, has executed a program or has ended.
    pub(crate) fn turn(&self) {
        if pass(&self.line) {
            self.wait();
        }
    }

    /// It isn't to have another turn.
    pub(crate) fn dismiss(&self) {
        // It can only have ended already.
        shutdown(&self.line, Shutdown::Both).ok();
    }

    fn wait(&self) -> bool {
        taken(&self.line)
    }
}

impl Turn {
    /// Gives the turn back, and waits for the next; `false`: there is none.
    pub(crate) fn pass(&self) -> bool {
        pass(&self.line) && taken(&self.line)
    }

    /// What must stay open; it is closed by an execution.
    pub(crate) fn line(&self) -> RawFd {
        self.line.as_raw_fd()
    }
}

fn pass(line: &OwnedFd) -> bool {
    loop {
        match send(line, b"t", SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            result => return result.is_ok(),
        }
    }
}

fn taken(line: &OwnedFd) -> bool {
    let mut byte = [0; 1];
    loop {
        match recv(line, &mut byte, RecvFlags::empty()) {
            Err(Errno::INTR) => {}
            result => return result.is_ok_and(|(length, _)| length == 1),
        }
    }
}

/// Where the companion begins.
extern "C" fn entry<F>(birth: *mut c_void) -> c_int
where
    F: FnOnce(Turn) + 'static,
{
    // SAFETY: it is the box of `begin`, which nobody else has.
    let birth = unsafe { Box::from_raw(birth.cast::<Birth<F>>()) };
    let Birth { run, turn, near } = *birth;
    super::close_range(near.unsigned_abs(), near.unsigned_abs());
    run(turn);
    exit_now(0)
}

/// The top of a new stack.
fn stack() -> io::Result<*mut c_void> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE;
    // SAFETY: a new mapping changes none that there is.
    let bottom =
        unsafe { libc::mmap(ptr::null_mut(), STACK, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if bottom == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping's own first page.
    check(unsafe { libc::mprotect(bottom, PAGE, libc::PROT_NONE) })?;
    // SAFETY: one past the mapping's end, which stacks grow down from.
    Ok(unsafe { bottom.byte_add(STACK) })
}
