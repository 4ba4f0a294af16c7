//! Attempts on processes: of the host, of other instances, the first of its own; and on what they leave.

use std::process::{Child, Command};

use minato_runtime::protection::Protection::{
    Capabilities, ClosedDescriptors, HiddenInit, IpcNamespace, NoCoreDumps, PidNamespace, Seccomp,
    UserNamespace,
};

use crate::{
    host::SharedMemory,
    lab::Lab,
    table::{Attempt, Off, Off::Part},
};

/// A process of the host; it goes with the value.
struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn processes_of_others_are_not_touched() {
    let mut lab = Lab::new("Processes of the host and of other instances");
    let victim = Victim(Command::new("sleep").arg("1000").spawn().unwrap());
    let (other, _) = lab.ground.start(&["sleep", "1000"]);
    for (whose, pid) in [("the host's", victim.0.id()), ("another instance's", other.pid)] {
        let pid = pid.to_string();
        let seen: &[Off] = &[Part(PidNamespace), Part(UserNamespace)];
        let off = [seen, &[Part(Capabilities)]].concat();
        let whole = [off.as_slice(), &[Part(Seccomp)]].concat();
        lab.try_out(Attempt::new(&format!("signal {whose} process"), ["signal", &pid], seen));
        lab.try_out(Attempt::new(&format!("ptrace {whose} process"), ["ptrace", &pid], &whole));
        let reads = Attempt::new(&format!("process_vm_readv of {whose}"), ["read_memory", &pid], &whole);
        lab.try_out(reads.passed(&[libc::EFAULT]));
        for name in ["environ", "mem", "root/etc/hostname", "fd", "ns/net"] {
            let path = format!("/proc/{pid}/{name}");
            let word = if name == "fd" { "list" } else { "look" };
            let attempt = Attempt::new(&format!("/proc/…/{name} of {whose}"), [word, &path], &off);
            // Numbers of descriptors are no secret to the same user.
            let attempt = if name == "fd" { attempt.alone(seen) } else { attempt };
            // Nothing is at address 0 of the memory, and a namespace isn't read: both are open by then.
            lab.try_out(attempt.passed(&[libc::EINVAL, libc::EIO]));
        }
    }
}

#[test]
fn the_keepers_copy_is_not_looked_into() {
    let mut lab = Lab::new("Process 1, which began as a copy of the keeper");
    let hidden: &[Off] = &[Part(HiddenInit)];
    for path in ["/proc/1/environ", "/proc/1/maps", "/proc/1/exe", "/proc/1/root/etc/hostname"] {
        lab.try_out(Attempt::new(path, ["look", path], hidden));
    }
    // Nothing is at its address 0, and the kernel says so.
    lab.try_out(Attempt::new("/proc/1/mem", ["look", "/proc/1/mem"], hidden).passed(&[libc::EIO]));
    lab.try_out(Attempt::new("/proc/1/fd", ["list", "/proc/1/fd"], hidden));
    lab.try_out(Attempt::new("ptrace process 1", ["ptrace", "1"], &[Part(Seccomp), Part(HiddenInit)]));
    lab.try_out(Attempt::new("descriptors of the keeper", ["descriptors"], &[Part(ClosedDescriptors)]));
}

#[test]
fn nothing_is_shared_and_nothing_dumped() {
    let mut lab = Lab::new("Shared memory, and core dumps (which the host may hand to a program)");
    let memory = SharedMemory::new();
    let key = memory.key.to_string();
    lab.try_out(Attempt::new(
        "shared memory of the host",
        ["shared_memory".to_owned(), key],
        &[Part(IpcNamespace)],
    ));
    lab.try_out(Attempt::new("a core dump", ["dump"], &[Part(NoCoreDumps)]));
}
