//! Attempts on files: of the host, of other instances, of the kernel, of its own image; on devices; and
//! on programs that give rights.

use std::{
    fs,
    io::Write,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::Path,
    thread,
};

use minato_runtime::protection::Protection::{
    Capabilities, MaskedProc, NoDevices, NoNewPrivileges, NoSetuid, OwnTree, ReadOnlyRoot, UserNamespace,
};
use rustix::fs::{CWD, FileType, Mode, major, makedev, minor, mknodat};

use crate::{
    lab::Lab,
    table::{Attempt, Off, Off::Part},
};

/// What hides the host's files, and what keeps who sees them from reading.
const HIDDEN: &[Off] = &[Part(OwnTree), Part(UserNamespace)];

#[test]
fn files_of_the_host_and_of_others_are_not_reached() {
    let mut lab = Lab::new("Files of the host and of other instances");
    let folder = lab.ground.folder.path().to_owned();
    // As a data directory is.
    fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)).unwrap();
    let other = lab.ground.spec();
    fs::create_dir_all(other.log.parent().unwrap()).unwrap();
    fs::write(&other.log, "another's words").unwrap();
    fs::create_dir_all(folder.join("trees/other")).unwrap();
    fs::write(folder.join("trees/other/file"), "another's file").unwrap();
    fs::write(lab.ground.config.data.join("token"), "secret").unwrap();
    let seen = |path: &Path| format!("/host{}", path.display());
    let read = |what: &str, path: &Path| Attempt::new(what, ["read".to_owned(), seen(path)], HIDDEN);
    lab.try_out(read("another instance's tree", &folder.join("trees/other/file")));
    lab.try_out(read("another instance's log", &other.log));
    lab.try_out(read("the data directory", &lab.ground.config.data.join("token")));
    lab.try_out(Attempt::new("list the data directory", ["list".to_owned(), seen(&folder)], HIDDEN));
    let there = Attempt::new("the host's tree", ["read", "/host/etc/passwd"], &[Part(OwnTree)]);
    lab.try_out(there);

    let socket = folder.join("daemon.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            stream.write_all(b"hello").ok();
        }
    });
    lab.try_out(Attempt::new("a daemon's socket of the host", ["path".to_owned(), seen(&socket)], HIDDEN));
    // The path to it is longer than a socket's may be.
    let short = folder.join("k");
    std::os::unix::fs::symlink(format!("/host{}/keeper", lab.ground.config.data.display()), &short).unwrap();
    let keeper = seen(&short.join("socket"));
    // Connecting in earnest would make the instance the keeper's server; a socket of another type is let
    // as far as that one.
    let attempt = Attempt::new("the keeper's socket", ["path".to_owned(), keeper], HIDDEN);
    lab.try_out(attempt.passed(&[libc::EPROTOTYPE]));
}

#[test]
fn files_of_the_kernel_are_not_written() {
    let mut lab = Lab::new("/proc and /sys (opened, with nothing written)");
    let masked = &[Part(MaskedProc), Part(UserNamespace)];
    for path in [
        "/proc/sysrq-trigger",
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/kernel/panic",
        "/proc/sys/vm/drop_caches",
        "/proc/sys/fs/suid_dumpable",
        "/proc/irq/default_smp_affinity",
    ] {
        if Path::new(path).exists() {
            lab.try_out(Attempt::new(&format!("write {path}"), ["open_kernels_to_write", path], masked));
        }
    }
    for path in ["/proc/kcore", "/proc/timer_list"] {
        if Path::new(path).exists() {
            let off = &[Part(MaskedProc), Part(UserNamespace), Part(Capabilities)];
            lab.try_out(
                Attempt::new(&format!("read {path}"), ["open_kernels", path], off).alone(&[Part(MaskedProc)]),
            );
        }
    }
    // Of its own network, which it might use to forge addresses.
    let own = "/proc/sys/net/ipv4/ip_nonlocal_bind";
    let off = &[Part(MaskedProc), Part(Capabilities)];
    lab.try_out(Attempt::new(&format!("write {own}"), ["open_kernels_to_write", own], off));
    // What isn't there inside is looked for in the host's tree.
    let path = "/host/sys/kernel/rcu_expedited";
    lab.try_out(Attempt::new("write /sys", ["open_kernels_to_write", path], HIDDEN));
}

#[test]
fn the_root_and_devices_are_not_written() {
    let mut lab = Lab::new("The read-only root, and devices");
    lab.try_out(Attempt::new("write to the root", ["create", "/bin/new"], &[Part(ReadOnlyRoot)]));
    let device = [Part(Capabilities), Part(UserNamespace), Part(NoDevices)];
    let node = |what: &str, kind: &str, major: u32, minor: u32| {
        let words = ["node".to_owned(), kind.to_owned(), major.to_string(), minor.to_string()];
        Attempt::new(&format!("mknod and open {what}"), words, &device).lacking(&[libc::ENXIO])
    };
    let disk = block_device(lab.ground.folder.path());
    lab.try_out(node("a block device", "block", major(disk), minor(disk)));
    lab.try_out(node("/dev/mem", "character", 1, 1));
    lab.try_out(node("/dev/kmem", "character", 1, 2));
    lab.try_out(node("/dev/kmsg", "character", 1, 11));
    let tree = lab.ground.tree();
    let mode = Mode::from_raw_mode(0o666);
    mknodat(CWD, tree.join("disk"), FileType::BlockDevice, mode, disk).unwrap();
    mknodat(CWD, tree.join("zero"), FileType::CharacterDevice, mode, makedev(1, 5)).unwrap();
    let off = &[Part(NoDevices)];
    lab.try_out(Attempt::new("a block device in the image", ["open", "/disk"], off).lacking(&[libc::ENXIO]));
    lab.try_out(Attempt::new("another node in the image", ["open", "/zero"], off));
}

/// A block device that the host's root can open: where the host forbids it for disks, a loop device. It
/// is opened for reading, and nothing is read.
fn block_device(folder: &Path) -> u64 {
    let list = fs::read_to_string("/proc/partitions").unwrap();
    let disks = list.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        Some(makedev(words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    });
    let node = folder.join("node");
    disks
        .chain([makedev(7, 0)])
        .find(|&device| {
            mknodat(CWD, &node, FileType::BlockDevice, Mode::RUSR, device).unwrap();
            let opened = fs::File::open(&node).is_ok();
            fs::remove_file(&node).unwrap();
            opened
        })
        .unwrap()
}

#[test]
fn programs_give_no_rights() {
    let mut lab = Lab::new("Rights by programs, tried by another user than root");
    let off = &[Part(NoSetuid), Part(NoNewPrivileges)];
    let becomes = |what: &str, program: &str, asked: &str| {
        Attempt::new(what, ["become", program, asked], off).by_user(1000)
    };
    lab.try_out(becomes("a set-user-id program of root", "/bin/escape-setuid", "is_root"));
    lab.try_out(becomes("a program with a capability", "/bin/escape-capable", "has_capability"));
}
