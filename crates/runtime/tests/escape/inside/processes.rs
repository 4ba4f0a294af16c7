//! Other processes: their memory, signals to them, what they share, and what is left open by them.

use std::{
    fs::File,
    io::{self, Read},
};

use libc::c_long;

use crate::{
    raw::{call, in_child, is_open, place, room},
    said,
};

/// `PTRACE_SEIZE`, which stops nobody.
const SEIZE: c_long = 0x4206;

pub(crate) fn attempt(words: &[&str]) -> Option<io::Result<()>> {
    let done = |result: io::Result<c_long>| Some(result.map(drop));
    match *words {
        // Whoever isn't stopped doesn't notice.
        ["signal", pid] => done(call(libc::SYS_kill, &[pid.parse().ok()?, libc::SIGCONT.into()])),
        ["ptrace", pid] => done(call(libc::SYS_ptrace, &[SEIZE, pid.parse().ok()?, 0, 0])),
        ["read_memory", pid] => {
            // Nothing is at address 0: the kernel says so once it has agreed to look.
            let mut mine = 0_u8;
            let (local, remote) = ([room(&mut mine), 1], [0_i64, 1]);
            done(call(
                libc::SYS_process_vm_readv,
                &[pid.parse().ok()?, place(&local), 1, place(&remote), 1, 0],
            ))
        }
        ["look", path] => Some(look(path)),
        ["shared_memory", key] => done(call(libc::SYS_shmget, &[key.parse().ok()?, 0, 0])),
        ["dump"] => Some(dump()),
        ["descriptors"] => Some(match (3..256).filter(|&fd| is_open(fd)).count() {
            0 => said("none is open"),
            _ => Ok(()),
        }),
        _ => None,
    }
}

/// Opens something of a process and reads from it, if there is anything.
fn look(path: &str) -> io::Result<()> {
    File::open(path)?.read(&mut [0; 64]).map(drop)
}

/// Ends as a program with a fault does, with all the room for a dump that it can get.
fn dump() -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    std::env::set_current_dir("/tmp")?;
    let maximum = getrlimit(Resource::Core).maximum;
    setrlimit(Resource::Core, Rlimit { current: maximum, maximum })?;
    let status = in_child(|| std::process::abort())?;
    if libc::WCOREDUMP(status) { Ok(()) } else { said("no dump") }
}
