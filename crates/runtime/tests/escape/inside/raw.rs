//! System calls by number: what no library offers is what must be refused.

#![expect(unsafe_code, reason = "raw system calls; their arguments are made here and in this program alone")]

use std::{ffi::CStr, io, os::fd::RawFd};

use libc::c_long;

/// A system call of up to six arguments. Every pointer among them must be null, or point to something
/// that lives until the call is over and is as large as the call expects.
pub(crate) fn call(number: c_long, arguments: &[c_long]) -> io::Result<c_long> {
    let at = |index: usize| arguments.get(index).copied().unwrap_or(0);
    // SAFETY: as the function's own comment demands of its callers, all in this program.
    let result = unsafe { libc::syscall(number, at(0), at(1), at(2), at(3), at(4), at(5)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A string as an argument.
pub(crate) fn text(text: &CStr) -> c_long {
    text.as_ptr().expose_provenance().cast_signed() as c_long
}

/// The place of something as an argument.
pub(crate) fn place<T: ?Sized>(thing: &T) -> c_long {
    std::ptr::from_ref(thing).cast::<u8>().expose_provenance().cast_signed() as c_long
}

/// The place of something that the call writes to.
pub(crate) fn room<T>(thing: &mut T) -> c_long {
    std::ptr::from_mut(thing).cast::<u8>().expose_provenance().cast_signed() as c_long
}

/// A descriptor as an argument.
pub(crate) fn descriptor(fd: &impl std::os::fd::AsRawFd) -> c_long {
    fd.as_raw_fd().into()
}

/// Runs `act` in a child and gives its raw wait status.
pub(crate) fn in_child(act: impl FnOnce() -> i32) -> io::Result<i32> {
    // SAFETY: this program has one thread.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let status = act();
        // SAFETY: always allowed.
        unsafe { libc::_exit(status) };
    }
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut status = 0;
    // SAFETY: the status is a valid place to write to.
    if unsafe { libc::waitpid(pid, &raw mut status, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(status)
}

/// Whether a descriptor is open.
pub(crate) fn is_open(fd: RawFd) -> bool {
    // SAFETY: only flags are read.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// `getpid` as a program for 32 bits calls it.
#[cfg(target_arch = "x86_64")]
pub(crate) fn foreign_getpid() -> i64 {
    let mut result: i64 = 20;
    // SAFETY: the call has no arguments and changes no memory; the registers it may use are named.
    unsafe {
        std::arch::asm!("int 0x80", inout("rax") result, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    result
}
