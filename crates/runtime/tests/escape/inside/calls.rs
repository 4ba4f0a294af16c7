//! Calls that act on the machine, on keys, on terminals, or make namespaces. Where success would do
//! harm the arguments are such that the kernel finds them wrong right after it has let the call pass.

use std::{fs::OpenOptions, io, os::unix::fs::OpenOptionsExt};

use libc::c_long;

use crate::{
    raw::{call, descriptor, place, room, text},
    said,
};

const SESSION_KEYRING: c_long = -3;

pub(crate) fn attempt(words: &[&str]) -> Option<io::Result<()>> {
    let done = |result: io::Result<c_long>| Some(result.map(drop));
    match *words {
        ["init_module"] => done(call(libc::SYS_init_module, &[text(c"nothing"), 7, text(c"")])),
        ["finit_module"] => done(call(libc::SYS_finit_module, &[-1, text(c""), 0])),
        ["reboot"] => done(call(libc::SYS_reboot, &[0; 4])),
        ["kexec_load"] => done(call(libc::SYS_kexec_load, &[0, 0, 0, 0x8000])),
        ["acct"] => done(call(libc::SYS_acct, &[text(c"/no/such/file")])),
        ["swapon"] => done(call(libc::SYS_swapon, &[text(c"/no/such/file"), 0])),
        ["quotactl"] => done(call(libc::SYS_quotactl, &[0x8000_0500, text(c"/no/such/device"), 0, 0])),
        // Neither a time nor a zone: allowed, and nothing changes.
        ["settimeofday"] => done(call(libc::SYS_settimeofday, &[0, 0])),
        // How much of the kernel's log is unread.
        ["syslog"] => done(call(libc::SYS_syslog, &[9, 0, 0])),
        ["bpf"] => {
            // A trie, which takes the capability whatever the host's settings are.
            let attributes: [u32; 32] =
                std::array::from_fn(|at| [11, 8, 4, 1, 1].get(at).copied().unwrap_or(0));
            done(call(libc::SYS_bpf, &[0, place(&attributes), 128]))
        }
        ["perf_event_open"] => {
            // The clock of a whole processor, of all that runs there.
            let attributes: [u32; 32] = std::array::from_fn(|at| [1, 128].get(at).copied().unwrap_or(0));
            done(call(libc::SYS_perf_event_open, &[place(&attributes), -1, 0, -1, 0]))
        }
        ["io_uring_setup"] => done(call(libc::SYS_io_uring_setup, &[1, room(&mut [0_u64; 15])])),
        ["userfaultfd"] => done(call(libc::SYS_userfaultfd, &[1])),
        ["personality"] => done(call(libc::SYS_personality, &[0x4_0000])),
        ["foreign"] => Some(foreign()),
        ["unshare", flags] => done(call(libc::SYS_unshare, &[flags.parse().ok()?])),
        ["clone"] => {
            Some(forked(libc::SYS_clone, &[(libc::CLONE_NEWUSER | libc::SIGCHLD).into(), 0, 0, 0, 0]))
        }
        ["clone3"] => {
            let flags = libc::CLONE_NEWUSER.cast_unsigned().into();
            let arguments: [u64; 8] = [flags, 0, 0, 0, 17, 0, 0, 0];
            Some(forked(libc::SYS_clone3, &[place(&arguments), 64]))
        }
        ["setns", path] => Some(setns(path)),
        ["add_key"] => {
            done(call(libc::SYS_add_key, &[text(c"user"), text(c"mine"), text(c"x"), 1, SESSION_KEYRING]))
        }
        ["read_key"] => Some(read_key()),
        ["open_by_handle", kind, handle] => Some(open_by_handle(kind.parse().ok()?, handle)),
        ["terminal"] => Some(terminal()),
        ["socket", family, kind, protocol] => {
            done(call(libc::SYS_socket, &[family.parse().ok()?, kind.parse().ok()?, protocol.parse().ok()?]))
        }
        _ => None,
    }
}

/// A call that returns twice: the child ends at once.
fn forked(number: c_long, arguments: &[c_long]) -> io::Result<()> {
    match call(number, arguments)? {
        0 => std::process::abort(),
        _ => Ok(()),
    }
}

#[cfg(target_arch = "x86_64")]
fn foreign() -> io::Result<()> {
    // A kernel without these calls ends who makes one.
    let status = crate::raw::in_child(|| match crate::raw::foreign_getpid() {
        pid if pid > 0 => 0,
        error => i32::try_from(-error).unwrap_or(1),
    })?;
    match (libc::WIFEXITED(status), libc::WEXITSTATUS(status)) {
        (true, 0) => Ok(()),
        (true, number) => Err(io::Error::from_raw_os_error(number)),
        (false, _) => said(format!("signal {}", libc::WTERMSIG(status))),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn foreign() -> io::Result<()> {
    said("signal 4")
}

/// Joins the network namespace whose descriptor a careless host hands out at this socket.
fn setns(path: &str) -> io::Result<()> {
    let leaked = crate::network::receive_descriptor(path)?;
    call(libc::SYS_setns, &[descriptor(&leaked), libc::CLONE_NEWNET.into()]).map(drop)
}

/// Reads the key `minato-secret` of the session keyring that came with the keeper.
fn read_key() -> io::Result<()> {
    let key = call(libc::SYS_keyctl, &[10, SESSION_KEYRING, text(c"user"), text(c"minato-secret"), 0])?;
    call(libc::SYS_keyctl, &[11, key, room(&mut [0_u8; 16]), 16]).map(drop)
}

/// Opens a file of the host, outside of the root, by what the file system calls it.
fn open_by_handle(kind: u32, handle: &str) -> io::Result<()> {
    let bytes: Vec<u8> = (0..handle.len() / 2)
        .filter_map(|at| u8::from_str_radix(handle.get(2 * at..2 * at + 2)?, 16).ok())
        .collect();
    let length = u32::try_from(bytes.len()).unwrap_or(0);
    let mut whole = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    whole.extend(bytes);
    let root = std::fs::File::open("/")?;
    call(libc::SYS_open_by_handle_at, &[descriptor(&root), place(whole.as_slice()), libc::O_RDONLY.into()])
        .map(drop)
}

/// Types into a terminal of its own, as it would into one that was left to it.
fn terminal() -> io::Result<()> {
    let open = |path: &str| OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(path);
    let master = open("/dev/ptmx")?;
    let mut number = 0_i32;
    let control = |file: &std::fs::File, request: c_long, argument: c_long| {
        call(libc::SYS_ioctl, &[descriptor(file), request, argument])
    };
    control(&master, 0x4004_5431, place(&0_i32))?;
    control(&master, 0x8004_5430, room(&mut number))?;
    call(libc::SYS_setsid, &[])?;
    let slave = open(&format!("/dev/pts/{number}"))?;
    control(&slave, 0x540E, 0)?;
    let typed = control(&slave, 0x5412, place(b"x")).map(drop);
    // Who loses its terminal is hung up, before it can say what came of it.
    std::mem::forget((master, slave));
    typed
}
