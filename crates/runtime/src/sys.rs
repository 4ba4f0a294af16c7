//! The system calls that no safe library offers. `unsafe` begins and ends here.

#![expect(unsafe_code, reason = "raw system calls; each wrapper is safe to call as its comment says")]

use std::{
    ffi::{CStr, CString, c_char, c_int, c_ulong},
    io,
    ops::Range,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use crate::protection::{Protection, Without};

mod allocator;
mod companion;

pub(crate) use allocator::hold_freed_memory;
pub(crate) use companion::{Companion, Turn};

/// Which side of a fork this is.
#[derive(Debug)]
pub(crate) enum Forked {
    /// The child.
    Child,
    /// The parent, with the child's process id and, if asked for, its pidfd.
    Parent(i32, Option<OwnedFd>),
}

/// The namespaces of a sandbox; that of control groups comes after the attach.
fn namespaces(without: &Without) -> c_int {
    [
        (Protection::UserNamespace, libc::CLONE_NEWUSER),
        (Protection::PidNamespace, libc::CLONE_NEWPID),
        (Protection::NetworkNamespace, libc::CLONE_NEWNET),
        (Protection::IpcNamespace, libc::CLONE_NEWIPC),
    ]
    .into_iter()
    .filter(|(protection, _)| !without.leaves_out(*protection))
    .fold(libc::CLONE_NEWNS | libc::CLONE_NEWUTS, |flags, (_, flag)| flags | flag)
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn check_long(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// `clone3` without shared memory, as a fork into new namespaces, and into a v2 control group where
/// its directory is given. The process must have one thread: the child goes on with a copy of it.
pub(crate) fn fork_sandbox(cgroup: Option<BorrowedFd<'_>>, without: &Without) -> io::Result<Forked> {
    let mut pidfd: RawFd = -1;
    // SAFETY: every field of the structure may be zero.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    let mut flags = u64::from((namespaces(without) | libc::CLONE_PIDFD).cast_unsigned());
    if let Some(cgroup) = cgroup {
        // Above the 32 bits that libc's constant is cut to on some targets.
        flags |= 0x2_0000_0000;
        arguments.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    arguments.flags = flags;
    arguments.pidfd = ptr::from_mut(&mut pidfd) as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: the structure and its size belong together; no stack is given and no memory shared, so
    // the child returns here with its own copy of everything, as after `fork`.
    let result =
        unsafe { libc::syscall(libc::SYS_clone3, ptr::from_ref(&arguments), size_of::<libc::clone_args>()) };
    match check_long(result)? {
        0 => Ok(Forked::Child),
        #[expect(clippy::cast_possible_truncation, reason = "the kernel's process ids are 32 bits")]
        pid => {
            // SAFETY: the kernel stored a new descriptor that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Forked::Parent(pid as i32, Some(pidfd)))
        }
    }
}

/// Ends the process at once: a forked child must not run what the parent registered for its end.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: always allowed.
    unsafe { libc::_exit(status) }
}

/// Closes every descriptor that is not in `keep`. The owners of those closed must be leaked or never
/// used: call it in a forked child only, or at the start of a process.
pub(crate) fn close_all_but(keep: &mut [RawFd]) {
    keep.sort_unstable();
    let mut from: u32 = 3;
    for &fd in keep.iter().filter(|&&fd| fd >= 3) {
        let fd = fd.unsigned_abs();
        if fd > from {
            close_range(from, fd - 1);
        }
        from = fd + 1;
    }
    close_range(from, u32::MAX);
}

/// Lets every open descriptor live on in an executed program.
pub(crate) fn keep_across_execution() {
    for fd in 3..256 {
        // SAFETY: only a flag is changed; a number that isn't open is refused.
        unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
    }
}

fn close_range(first: u32, last: u32) {
    // SAFETY: closing is memory-safe; who calls owns none of the descriptors any more. Its one error
    // for a valid range is an older kernel, which `kernel::check_kernel` refused.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

/// Makes `target`, a standard stream's number, another name of what `fd` stands for.
pub(crate) fn duplicate_onto(fd: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    // SAFETY: whoever uses a standard stream expects that it may stand for something else.
    check(unsafe { libc::dup2(fd.as_raw_fd(), target) }).map(drop)
}

/// Writes `name` over the arguments of this process, which `/proc/<pid>/cmdline` shows to whoever may
/// look: `place` is where the kernel put them. A parent's own are another copy.
pub(crate) fn hide_arguments(place: &Range<usize>, name: &[u8]) {
    for (address, byte) in place.clone().zip(name.iter().copied().chain(std::iter::repeat(0))) {
        // SAFETY: the kernel says that these are this process' arguments; nothing refers to them but the
        // standard library's list, which is read as strings with an end: they become empty ones.
        unsafe { ptr::with_exposed_provenance_mut::<u8>(address).write_volatile(byte) };
    }
}

/// Makes a control group namespace whose root is where the process is now.
pub(crate) fn unshare_cgroups() -> io::Result<()> {
    // SAFETY: only the view of control groups changes; no descriptor or memory is shared or parted.
    check(unsafe { libc::unshare(libc::CLONE_NEWCGROUP) }).map(drop)
}

/// The attributes of a mount that are set by [`set_mount`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct MountAttributes<'a> {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// Whose ids the mount shows.
    pub user_namespace: Option<BorrowedFd<'a>>,
}

/// `mount_setattr` on the mount that `mount` stands for, not on those below it.
pub(crate) fn set_mount(mount: BorrowedFd<'_>, attributes: MountAttributes<'_>) -> io::Result<()> {
    // SAFETY: every field of the structure may be zero.
    let mut raw: libc::mount_attr = unsafe { std::mem::zeroed() };
    raw.attr_set = attributes.set;
    if let Some(namespace) = attributes.user_namespace {
        raw.attr_set |= libc::MOUNT_ATTR_IDMAP;
        raw.userns_fd = u64::from(namespace.as_raw_fd().unsigned_abs());
    }
    // SAFETY: the path is an empty string with its end, the structure and its size belong together.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            ptr::from_ref(&raw),
            size_of::<libc::mount_attr>(),
        )
    };
    check_long(result).map(drop)
}

/// Installs a seccomp filter for this thread; "no new privileges" must be set.
pub(crate) fn install_filter(filter: &mut [libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
    const SET_MODE_FILTER: c_ulong = 1;
    // SAFETY: the program points to `len` instructions that live until the call is over.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, 0, ptr::from_ref(&program)) };
    check_long(result).map(drop)
}

/// Joins a new, empty session keyring. A kernel without keyrings has nothing to join.
pub(crate) fn join_session_keyring() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: c_ulong = 1;
    // SAFETY: a null name asks for a keyring without one.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, ptr::null::<c_char>()) };
    match check_long(result) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        other => other.map(drop),
    }
}

/// Executes a program in the place of this one; returns only if that failed.
pub(crate) fn execute(path: &CStr, argv: &[CString], env: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| {
        strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect::<Vec<*const c_char>>()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both lists end with a null pointer, every string with a null byte, and all outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Gives every signal its default action and unblocks all: what a program may expect at its start.
pub(crate) fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: the default action runs no code of this process; what can't be set is refused.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    change_mask(libc::SIG_UNBLOCK);
}

/// Blocks every signal, so that [`wait_for_signal`] gets them, those that a first process would
/// not be given otherwise too.
pub(crate) fn block_signals() {
    change_mask(libc::SIG_BLOCK);
}

fn all_signals() -> libc::sigset_t {
    // SAFETY: a signal set of zeroes is an initialised one.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is valid.
    unsafe { libc::sigfillset(&raw mut set) };
    set
}

fn change_mask(how: c_int) {
    let set = all_signals();
    // SAFETY: the set is valid and the old one isn't asked for.
    unsafe { libc::sigprocmask(how, &raw const set, ptr::null_mut()) };
}

/// Waits for any signal and takes it.
pub(crate) fn wait_for_signal() -> i32 {
    let set = all_signals();
    loop {
        // SAFETY: the set is valid and the details aren't asked for.
        let signal = unsafe { libc::sigwaitinfo(&raw const set, ptr::null_mut()) };
        if signal > 0 {
            return signal;
        }
    }
}

/// Sends a signal, by number, to a process by id: to one's own child before it is waited for.
pub(crate) fn kill(pid: i32, signal: i32) {
    // SAFETY: memory-safe; that the process is gone is no error here.
    unsafe { libc::kill(pid, signal) };
}

/// Sends a signal, by number, to the process that a pidfd stands for.
pub(crate) fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: no details are given, and none are needed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    check_long(result).map(drop)
}

/// Waits without blocking for any child: its id and raw wait status; `None`: none has ended.
pub(crate) fn reap_any() -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: the status is a valid place to write to.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    (pid > 0).then_some((pid, status))
}

/// Waits until a child has ended, however it did.
pub(crate) fn wait_for_child(pid: i32) {
    // SAFETY: the status isn't asked for.
    while unsafe { libc::waitpid(pid, ptr::null_mut(), 0) } < 0
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
}

/// Reaps the process that a pidfd stands for, if it has ended: its status.
pub(crate) fn reap(pidfd: BorrowedFd<'_>) -> io::Result<Option<crate::spec::Status>> {
    use crate::spec::Status;
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let waited = waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED | WaitIdOptions::NOHANG)?;
    Ok(waited.map(|status| match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Status::Exit(code),
        (None, signal) => Status::Signal(signal.unwrap_or(libc::SIGKILL)),
    }))
}

/// A raw wait status as [`reap_any`] gives it, taken apart.
pub(crate) fn status_of(raw: i32) -> crate::spec::Status {
    if libc::WIFSIGNALED(raw) {
        crate::spec::Status::Signal(libc::WTERMSIG(raw))
    } else {
        crate::spec::Status::Exit(libc::WEXITSTATUS(raw))
    }
}

/// Makes a user namespace that holds nothing but a process that waits to be killed: its id and pidfd.
/// Allowed in a process with threads: the child calls nothing but the kernel.
pub(crate) fn fork_holder() -> io::Result<(i32, OwnedFd)> {
    let mut pidfd: RawFd = -1;
    // SAFETY: every field of the structure may be zero.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = (libc::CLONE_NEWUSER | libc::CLONE_PIDFD) as u32 as u64;
    arguments.pidfd = ptr::from_mut(&mut pidfd) as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: as in `fork_sandbox`; the child below takes no lock and allocates nothing.
    let result =
        unsafe { libc::syscall(libc::SYS_clone3, ptr::from_ref(&arguments), size_of::<libc::clone_args>()) };
    if result == 0 {
        // SAFETY: a plain system call.
        unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        loop {
            // SAFETY: a plain system call: no file descriptors to wait for, no end of waiting.
            unsafe { libc::syscall(libc::SYS_ppoll, 0, 0, 0, 0) };
        }
    }
    #[expect(clippy::cast_possible_truncation, reason = "the kernel's process ids are 32 bits")]
    let pid = check_long(result)? as i32;
    // SAFETY: the kernel stored a new descriptor that nobody else owns.
    Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}
