//! Attempts by calls that act on the machine, on mounts, and on control groups.

use std::{fmt::Write as _, fs, os::unix::net::UnixListener, path::Path, thread};

use libc::{EAFNOSUPPORT, EBADF, EINVAL, ENODEV, ENOENT, ENOEXEC, ENOSYS, ENOTBLK, EPERM, EPROTONOSUPPORT};
use minato_runtime::protection::Protection::{
    Capabilities, CgroupNamespace, Seccomp, SessionKeyring, UserNamespace,
};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::{
    host,
    lab::Lab,
    table::{Attempt, Off, Off::Part},
};

/// Rights over the machine itself: its own namespace's root has none.
const MACHINE: &[Off] = &[Part(Seccomp), Part(Capabilities), Part(UserNamespace)];
/// Rights over its own namespaces.
const OWN: &[Off] = &[Part(Seccomp), Part(Capabilities)];
const FILTER: &[Off] = &[Part(Seccomp)];

#[test]
fn the_machine_is_not_changed() {
    let mut lab = Lab::new("Calls that act on the machine");
    let call = |name: &str, off| Attempt::new(name, [name], off);
    for attempt in [
        call("init_module", MACHINE).passed(&[ENOEXEC]).lacking(&[ENOSYS]),
        call("finit_module", MACHINE).passed(&[EBADF]).lacking(&[ENOSYS]),
        call("kexec_load", MACHINE).passed(&[EINVAL]).lacking(&[ENOSYS]),
        call("acct", MACHINE).passed(&[ENOENT]).lacking(&[ENOSYS]),
        call("swapon", MACHINE).passed(&[ENOENT]).lacking(&[ENOSYS]),
        call("settimeofday", MACHINE),
        call("syslog", MACHINE).lacking(&[ENOSYS]),
        call("bpf", MACHINE).lacking(&[ENOSYS]),
        call("perf_event_open", MACHINE).alone(FILTER).lacking(&[ENOSYS]),
        // Over its own processes alone, in a namespace of theirs.
        call("reboot", OWN).passed(&[EINVAL]),
        call("quotactl", FILTER).passed(&[ENOENT, ENOTBLK]).lacking(&[ENOSYS]),
        call("io_uring_setup", FILTER).lacking(&[ENOSYS, EPERM]),
        call("userfaultfd", FILTER).lacking(&[ENOSYS]),
        call("personality", FILTER),
        Attempt::new("a call of another architecture (int 0x80)", ["foreign"], FILTER).lacking(&[ENOSYS]),
        call("add_key", FILTER).lacking(&[ENOSYS]),
        Attempt::new("type into a terminal (TIOCSTI)", ["terminal"], MACHINE).alone(FILTER),
        socket("a socket to the hypervisor", libc::AF_VSOCK, libc::SOCK_STREAM),
        socket("a socket of the kernel's ciphers", libc::AF_ALG, libc::SOCK_SEQPACKET),
    ] {
        lab.try_out(attempt);
    }
}

fn socket(what: &str, family: i32, kind: i32) -> Attempt {
    Attempt::new(what, ["socket".to_owned(), family.to_string(), kind.to_string(), "0".into()], FILTER)
        .lacking(&[EAFNOSUPPORT, EPROTONOSUPPORT])
}

#[test]
fn namespaces_are_not_made_or_entered() {
    let mut lab = Lab::new("Namespaces");
    let unshare = |what: &str, flag: i32, off| {
        Attempt::new(&format!("unshare {what}"), ["unshare".to_owned(), flag.to_string()], off)
    };
    lab.try_out(unshare("a user namespace", libc::CLONE_NEWUSER, FILTER));
    lab.try_out(unshare("a network", libc::CLONE_NEWNET, OWN));
    lab.try_out(unshare("mounts", libc::CLONE_NEWNS, OWN));
    lab.try_out(unshare("processes", libc::CLONE_NEWPID, OWN));
    lab.try_out(unshare("control groups", libc::CLONE_NEWCGROUP, OWN));
    lab.try_out(Attempt::new("clone into a user namespace", ["clone"], FILTER));
    lab.try_out(Attempt::new("clone3 into a user namespace", ["clone3"], FILTER));
    hand_out_the_network(&lab.ground.tree());
    lab.try_out(Attempt::new("setns by a leaked descriptor", ["setns", "/run/leak"], MACHINE));
}

/// A careless host: whoever connects to this socket, which the image's tree holds, is given the
/// descriptor of the node's network.
fn hand_out_the_network(tree: &Path) {
    use std::os::fd::AsFd;
    let socket = tree.join("run/leak");
    let listener = UnixListener::bind(socket).unwrap();
    let network = fs::File::open("/proc/thread-self/ns/net").unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let fds = [network.as_fd()];
            assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
            sendmsg(&stream, &[std::io::IoSlice::new(b"x")], &mut control, SendFlags::empty()).ok();
        }
    });
}

#[test]
fn keys_of_the_host_are_not_read() {
    // The keeper inherits this thread's session keyring, and would hand it on.
    host::join_a_keyring_with_a_key();
    let mut lab = Lab::new("The keyring of the host's session");
    lab.try_out(Attempt::new("read a key", ["read_key"], &[Part(Seccomp), Part(SessionKeyring)]));
}

#[test]
fn mounts_are_not_changed() {
    let mut lab = Lab::new("Mounts");
    for name in [
        "mount",
        "umount",
        "pivot_root",
        "chroot",
        "open_tree",
        "move_mount",
        "fsopen",
        "remount",
        "mount_setattr",
    ] {
        let what = match name {
            "remount" => "remount the root writable, and write",
            "mount_setattr" => "make the root writable by mount_setattr, and write",
            name => name,
        };
        lab.try_out(Attempt::new(what, [name], OWN));
    }
    let secret = lab.ground.folder.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    let (kind, handle) = host::handle_of(&secret);
    let mut hex = String::new();
    handle.iter().for_each(|byte| write!(hex, "{byte:02x}").unwrap());
    lab.try_out(Attempt::new(
        "open_by_handle_at of the host's file on the same file system",
        ["open_by_handle".to_owned(), kind.to_string(), hex],
        MACHINE,
    ));
}

#[test]
fn control_groups_are_not_left() {
    let mut lab = Lab::new("Control groups");
    let version = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { "2" } else { "1" };
    let all = [MACHINE, &[Part(CgroupNamespace)]].concat();
    lab.try_out(
        Attempt::new("write a release_agent", ["release_agent"], &all).lacking(&[ENODEV, EINVAL, ENOSYS]),
    );
    lab.try_out(Attempt::new("move to the group without limits", ["leave_group", version], &all));
    lab.try_out(Attempt::new("raise its own limit", ["raise_limit", version], MACHINE));
}
