//! The filter of system calls, as a binary tree over intervals of call numbers: eight comparisons
//! where a list would take hundreds, at every call and when the kernel checks the program.
//!
//! What is known and harmless is allowed; what is known and isn't gets `EPERM`; a number above the
//! last that this list was made for gets `ENOSYS`, so that a library falls back to what it knows.
//! Calls that a library probes for (`clone3`, `io_uring`) get `ENOSYS` too.

use std::io;

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W,
    SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, sock_filter,
};

#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xC000_00B7;
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xC000_003E;

/// The last call that was looked at when this was written; the numbers are the same everywhere here.
const LAST_KNOWN: u32 = 462;

/// Flags of `clone` and `unshare` that make namespaces (`CLONE_NEWTIME` is no flag of `clone`: the
/// signal's byte holds it).
const NEW_NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;
const NEW_TIME: u32 = 0x80;

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Allow,
    Refuse(i32),
    /// Refused if this argument has one of these bits.
    RefuseBits(u32, u32),
    /// Refused with the number unless this argument is one of these.
    Only(u32, &'static [u32], i32),
    /// Refused if this argument is one of these.
    Except(u32, &'static [u32]),
}

const FAMILIES: &[u32] =
    &[libc::AF_UNIX as u32, libc::AF_INET as u32, libc::AF_INET6 as u32, libc::AF_NETLINK as u32];
/// Plain Linux, 32 bits of address space on request, and "tell me".
const PERSONALITIES: &[u32] = &[0, 8, 0x2_0000, 0x2_0008, u32::MAX];
/// Putting bytes into a terminal as if typed.
const TERMINAL_INPUT: &[u32] = &[0x5412, 0x541C];

/// Whether a call was given another meaning than "allowed", by its number.
fn exceptions() -> Vec<(u32, Action)> {
    let mut list: Vec<(u32, Action)> =
        REFUSED.iter().map(|&n| (number(n), Action::Refuse(libc::EPERM))).collect();
    list.extend(ABSENT.iter().map(|&n| (number(n), Action::Refuse(libc::ENOSYS))));
    #[cfg(target_arch = "x86_64")]
    list.extend(REFUSED_X86.iter().map(|&n| (number(n), Action::Refuse(libc::EPERM))));
    list.extend([
        (number(libc::SYS_clone), Action::RefuseBits(0, NEW_NAMESPACES)),
        (number(libc::SYS_unshare), Action::RefuseBits(0, NEW_NAMESPACES | NEW_TIME)),
        (number(libc::SYS_socket), Action::Only(0, FAMILIES, libc::EAFNOSUPPORT)),
        (number(libc::SYS_socketpair), Action::Only(0, FAMILIES, libc::EAFNOSUPPORT)),
        (number(libc::SYS_personality), Action::Only(0, PERSONALITIES, libc::EPERM)),
        (number(libc::SYS_ioctl), Action::Except(1, TERMINAL_INPUT)),
    ]);
    list.sort_unstable_by_key(|(n, _)| *n);
    list
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "call numbers are small")]
fn number(call: libc::c_long) -> u32 {
    call as u32
}

/// Calls that a library probes for, and does without.
const ABSENT: &[libc::c_long] = &[
    libc::SYS_clone3,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_userfaultfd,
];

/// Calls that change the machine or the container's surroundings, or look into other processes.
const REFUSED: &[libc::c_long] = &[
    // File systems.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    457, // statmount
    458, // listmount
    libc::SYS_quotactl,
    443, // quotactl_fd
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    // Namespaces.
    libc::SYS_setns,
    // Keys, programs in the kernel, counters.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_lookup_dcookie,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_process_madvise,
    // The machine.
    libc::SYS_reboot,
    libc::SYS_kexec_load,
    294 + KEXEC_FILE_LOAD,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_nfsservctl,
    // Memory across nodes of a machine.
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
];

/// The number of `kexec_file_load` above 294, which it is on ARM.
#[cfg(target_arch = "aarch64")]
const KEXEC_FILE_LOAD: libc::c_long = 0;
#[cfg(target_arch = "x86_64")]
const KEXEC_FILE_LOAD: libc::c_long = 320 - 294;

#[cfg(target_arch = "x86_64")]
const REFUSED_X86: &[libc::c_long] = &[
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_sysfs,
    libc::SYS__sysctl,
];

/// Compiles the filter. Done once, in the keeper: each init has a copy.
pub(crate) fn compile() -> io::Result<Vec<sock_filter>> {
    let mut intervals: Vec<(u32, Action)> = vec![(0, Action::Allow)];
    for (n, action) in exceptions() {
        match intervals.last_mut() {
            Some(last) if last.0 == n => last.1 = action,
            _ => intervals.push((n, action)),
        }
        intervals.push((n + 1, Action::Allow));
    }
    // Neighbours with the same meaning share an interval.
    intervals.dedup_by(|next, previous| next.1 == previous.1);
    intervals.push((LAST_KNOWN + 1, Action::Refuse(libc::ENOSYS)));
    let mut program = vec![
        load(4),
        // Another architecture's calls have other numbers: none of them is let through.
        jump(BPF_JEQ, ARCHITECTURE, 1, 0),
        refuse(libc::ENOSYS),
        load(0),
    ];
    program.extend(tree(&intervals)?);
    Ok(program)
}

fn tree(intervals: &[(u32, Action)]) -> io::Result<Vec<sock_filter>> {
    let (left, right) = intervals.split_at(intervals.len() / 2);
    let (Some(_), Some(&(middle, _))) = (left.first(), right.first()) else {
        return Ok(intervals.first().map(|(_, action)| leaf(*action)).unwrap_or_default());
    };
    let (left, right) = (tree(left)?, tree(right)?);
    let far = u32::try_from(left.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut program = match u8::try_from(left.len()) {
        Ok(near) => vec![jump(BPF_JGE, middle, near, 0)],
        // A conditional jump reaches 255 instructions, an unconditional one any.
        Err(_) => vec![jump(BPF_JGE, middle, 0, 1), statement(BPF_JMP | BPF_JA, far)],
    };
    program.extend(left);
    program.extend(right);
    Ok(program)
}

fn leaf(action: Action) -> Vec<sock_filter> {
    let allow = statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    match action {
        Action::Allow => vec![allow],
        Action::Refuse(errno) => vec![refuse(errno)],
        Action::RefuseBits(argument, bits) => vec![
            load(16 + 8 * argument),
            statement(BPF_ALU | BPF_AND | BPF_K, bits),
            jump(BPF_JEQ, 0, 0, 1),
            allow,
            refuse(libc::EPERM),
        ],
        Action::Only(argument, values, errno) => choose(argument, values, allow, refuse(errno)),
        Action::Except(argument, values) => choose(argument, values, refuse(libc::EPERM), allow),
    }
}

/// `one` if the argument's low half is one of `values` (the kernel looks at no more of these), else
/// `other`.
fn choose(argument: u32, values: &[u32], one: sock_filter, other: sock_filter) -> Vec<sock_filter> {
    let mut program = vec![load(16 + 8 * argument)];
    for (value, left) in values.iter().zip((1..=u8::MAX).take(values.len()).rev()) {
        program.push(jump(BPF_JEQ, *value, left, 0));
    }
    program.extend([other, one]);
    program
}

/// Loads a word of the call's data: its number is at 0, the architecture at 4, arguments from 16 on.
fn load(offset: u32) -> sock_filter {
    statement(BPF_LD | BPF_W | BPF_ABS, offset)
}

fn refuse(errno: i32) -> sock_filter {
    statement(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | errno.cast_unsigned())
}

#[expect(clippy::cast_possible_truncation, reason = "instruction codes fit 16 bits")]
fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

#[expect(clippy::cast_possible_truncation, reason = "instruction codes fit 16 bits")]
fn jump(test: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | test | BPF_K) as u16, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel does; the answer is what it returns.
    fn run(program: &[sock_filter], architecture: u32, call: u32, arguments: [u32; 2]) -> u32 {
        let (mut at, mut value) = (0, 0);
        loop {
            let step = program[at];
            let k = step.k;
            at += 1;
            match u32::from(step.code) {
                code if code == BPF_LD | BPF_W | BPF_ABS => {
                    value = match k {
                        0 => call,
                        4 => architecture,
                        16 => arguments[0],
                        24 => arguments[1],
                        _ => panic!("no such word: {k}"),
                    }
                }
                code if code == BPF_ALU | BPF_AND | BPF_K => value &= k,
                code if code == BPF_JMP | BPF_JA => at += k as usize,
                code if code == BPF_JMP | BPF_JEQ | BPF_K => {
                    at += usize::from(if value == k { step.jt } else { step.jf });
                }
                code if code == BPF_JMP | BPF_JGE | BPF_K => {
                    at += usize::from(if value >= k { step.jt } else { step.jf });
                }
                code if code == BPF_RET | BPF_K => return k,
                code => panic!("unknown instruction {code:#x}"),
            }
        }
    }

    fn check(call: libc::c_long, arguments: [u32; 2], errno: i32) {
        let expected = if errno == 0 { SECCOMP_RET_ALLOW } else { SECCOMP_RET_ERRNO | errno.cast_unsigned() };
        let program = compile().unwrap();
        assert_eq!(run(&program, ARCHITECTURE, number(call), arguments), expected, "call {call}");
    }

    #[test]
    fn calls_are_allowed_or_refused_by_number_and_arguments() {
        check(libc::SYS_read, [0, 0], 0);
        check(libc::SYS_execve, [0, 0], 0);
        check(libc::SYS_mount, [0, 0], libc::EPERM);
        check(libc::SYS_keyctl, [0, 0], libc::EPERM);
        check(libc::SYS_clone3, [0, 0], libc::ENOSYS);
        check(libc::SYS_io_uring_setup, [0, 0], libc::ENOSYS);
        check(libc::SYS_clone, [libc::SIGCHLD as u32, 0], 0);
        check(libc::SYS_clone, [libc::CLONE_NEWUSER as u32, 0], libc::EPERM);
        check(libc::SYS_unshare, [libc::CLONE_FILES as u32, 0], 0);
        check(libc::SYS_unshare, [libc::CLONE_NEWNET as u32, 0], libc::EPERM);
        check(libc::SYS_socket, [libc::AF_INET as u32, 0], 0);
        check(libc::SYS_socket, [libc::AF_NETLINK as u32, 0], 0);
        check(libc::SYS_socket, [libc::AF_UNIX as u32, 0], 0);
        check(libc::SYS_socket, [libc::AF_VSOCK as u32, 0], libc::EAFNOSUPPORT);
        check(libc::SYS_ioctl, [0, 0x5412], libc::EPERM);
        check(libc::SYS_ioctl, [0, 0x5401], 0);
        check(463, [0, 0], libc::ENOSYS);
        check(0x4000_0000, [0, 0], libc::ENOSYS);
    }

    #[test]
    fn every_number_has_the_action_of_its_list() {
        let program = compile().unwrap();
        let exceptions = exceptions();
        for call in 0..=LAST_KNOWN {
            let expected = match exceptions.iter().find(|(n, _)| *n == call) {
                None => SECCOMP_RET_ALLOW,
                Some((_, Action::Refuse(errno))) => SECCOMP_RET_ERRNO | errno.cast_unsigned(),
                Some(_) => continue,
            };
            assert_eq!(run(&program, ARCHITECTURE, call, [0, 0]), expected, "call {call}");
        }
    }

    #[test]
    fn another_architecture_is_refused_and_the_tree_is_flat() {
        let program = compile().unwrap();
        assert_eq!(run(&program, 0x4000_0003, 1, [0, 0]), SECCOMP_RET_ERRNO | libc::ENOSYS as u32);
        assert!(program.len() < 300, "{} instructions", program.len());
    }
}
