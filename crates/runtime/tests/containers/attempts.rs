//! What a program may try to get out, or to see what isn't its own: each attempt is refused, as root
//! inside and as another user. This test's own executable makes them, inside an instance.

use std::{io, path::Path};

use minato_runtime::spec::Status;

use crate::ground::{Ground, text};

/// Set inside.
const INSIDE: &str = "MINATO_TEST_INSIDE";

#[test]
fn every_attempt_is_refused() {
    if std::env::var_os(INSIDE).is_some() {
        return attempt();
    }
    let ground = Ground::new();
    let program = std::env::current_exe().unwrap();
    copy_with_libraries(&ground.tree());
    for uid in [0, 1000] {
        let (sandbox, spec) = ground.make();
        let mut start = ground.start_of(&[
            "/bin/attempts",
            "--exact",
            "attempts::every_attempt_is_refused",
            "--nocapture",
        ]);
        start.env.push(format!("{INSIDE}=yes"));
        (start.uid, start.gid) = (uid, uid);
        sandbox.start(&start).unwrap_or_else(|error| panic!("{error}: {error:?}"));
        let ended = ground.end(&spec.instance);
        assert_eq!(ended.status, Status::Exit(0), "{} as {uid}: {}", program.display(), text(&spec.log));
        assert!(text(&spec.log).contains("1 passed"), "{}", text(&spec.log));
    }
}

/// This executable as `/bin/attempts`, and what it has loaded where it is looked for.
fn copy_with_libraries(tree: &Path) {
    std::fs::copy("/proc/self/exe", tree.join("bin/attempts")).unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    for path in maps.lines().filter_map(|line| line.split_whitespace().nth(5)) {
        if path.contains(".so") {
            let interpreter = Path::new("/lib64").join(Path::new(path).file_name().unwrap());
            for place in [path, interpreter.to_str().unwrap()] {
                let target = tree.join(place.trim_start_matches('/'));
                std::fs::create_dir_all(target.parent().unwrap()).unwrap();
                std::fs::copy(path, target).unwrap();
            }
        }
    }
}

/// A system call of up to five arguments: the number of its error, 0 for none.
fn call(number: libc::c_long, arguments: [libc::c_long; 5]) -> i32 {
    let [a, b, c, d, e] = arguments;
    // SAFETY: no pointer among the arguments is anything but null or a string with its end.
    #[expect(unsafe_code, reason = "what no library offers is what must be refused")]
    let result = unsafe { libc::syscall(number, a, b, c, d, e) };
    if result < 0 { io::Error::last_os_error().raw_os_error().unwrap() } else { 0 }
}

/// Every attempt must end with one of these errors.
fn refused(what: &str, number: libc::c_long, arguments: [libc::c_long; 5], errors: &[i32]) {
    let error = call(number, arguments);
    assert!(errors.contains(&error), "{what}: {}", io::Error::from_raw_os_error(error));
}

fn attempt() {
    use libc::{EACCES, EAFNOSUPPORT, ENOSYS, EPERM};
    let path = c"/tmp/attempt".as_ptr() as libc::c_long;
    let root = c"/".as_ptr() as libc::c_long;
    let tmpfs = c"tmpfs".as_ptr() as libc::c_long;
    let namespace = std::fs::File::open("/proc/self/ns/net").unwrap();
    let namespace = libc::c_long::from(std::os::fd::AsRawFd::as_raw_fd(&namespace));
    let here = libc::c_long::from(libc::AT_FDCWD);
    let permission = |what, number, arguments| refused(what, number, arguments, &[EPERM]);
    permission("mount", libc::SYS_mount, [tmpfs, root, tmpfs, 0, 0]);
    permission("umount", libc::SYS_umount2, [root, 0, 0, 0, 0]);
    permission("fsopen", libc::SYS_fsopen, [tmpfs, 0, 0, 0, 0]);
    permission("open_tree", libc::SYS_open_tree, [here, root, 1, 0, 0]);
    permission("pivot_root", libc::SYS_pivot_root, [root, root, 0, 0, 0]);
    permission("chroot", libc::SYS_chroot, [root, 0, 0, 0, 0]);
    permission("open_by_handle_at", libc::SYS_open_by_handle_at, [here, 0, 0, 0, 0]);
    permission("setns", libc::SYS_setns, [namespace, 0, 0, 0, 0]);
    for flag in [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        0x80,
    ] {
        permission("unshare", libc::SYS_unshare, [flag.into(), 0, 0, 0, 0]);
    }
    permission("clone", libc::SYS_clone, [(libc::CLONE_NEWUSER | libc::SIGCHLD).into(), 0, 0, 0, 0]);
    refused("clone3", libc::SYS_clone3, [0; 5], &[ENOSYS]);
    permission("keyctl", libc::SYS_keyctl, [0, -3, 0, 0, 0]);
    permission("add_key", libc::SYS_add_key, [tmpfs, tmpfs, tmpfs, 1, -3]);
    permission("bpf", libc::SYS_bpf, [0; 5]);
    permission("perf_event_open", libc::SYS_perf_event_open, [0; 5]);
    refused("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0, 0, 0], &[ENOSYS]);
    refused("userfaultfd", libc::SYS_userfaultfd, [0; 5], &[ENOSYS]);
    // PTRACE_SEIZE of the first process.
    permission("ptrace", libc::SYS_ptrace, [0x4206, 1, 0, 0, 0]);
    permission("process_vm_readv", libc::SYS_process_vm_readv, [1, 0, 0, 0, 0]);
    permission("pidfd_getfd", libc::SYS_pidfd_getfd, [1, 0, 0, 0, 0]);
    permission("reboot", libc::SYS_reboot, [0; 5]);
    permission("kexec_load", libc::SYS_kexec_load, [0; 5]);
    permission("init_module", libc::SYS_init_module, [0; 5]);
    permission("syslog", libc::SYS_syslog, [3, 0, 0, 0, 0]);
    permission("sethostname", libc::SYS_sethostname, [path, 1, 0, 0, 0]);
    permission("clock_settime", libc::SYS_clock_settime, [0; 5]);
    let device = |kind: libc::mode_t, number| [here, path, (kind | 0o600).into(), number, 0];
    permission("mknodat of a disk", libc::SYS_mknodat, device(libc::S_IFBLK, 0x800));
    permission("mknodat of the memory", libc::SYS_mknodat, device(libc::S_IFCHR, 0x101));
    let socket = |what, family: i32, kind: i32, protocol: i32, errors| {
        refused(what, libc::SYS_socket, [family.into(), kind.into(), protocol.into(), 0, 0], errors);
    };
    socket("a raw socket", libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP, &[EPERM]);
    socket("a raw socket with a head", libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW, &[EPERM]);
    socket("a raw IPv6 socket", libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6, &[EPERM, EAFNOSUPPORT]);
    socket("a ping socket", libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP, &[EACCES]);
    socket("a packet socket", libc::AF_PACKET, libc::SOCK_RAW, 0x300, &[EAFNOSUPPORT]);
    socket("a socket to the hypervisor", libc::AF_VSOCK, libc::SOCK_STREAM, 0, &[EAFNOSUPPORT]);
    socket("a socket of the kernel's ciphers", libc::AF_ALG, libc::SOCK_SEQPACKET, 0, &[EAFNOSUPPORT]);
    files();
}

/// What `/proc` shows of the first process, and what it lets be written.
fn files() {
    let line = std::fs::read("/proc/1/cmdline").unwrap();
    assert_eq!(line.split(|&byte| byte == 0).next(), Some(&b"minato-init"[..]));
    assert!(line.iter().skip(b"minato-init".len()).all(|&byte| byte == 0), "{line:?}");
    for name in ["environ", "mem", "maps", "auxv", "cwd", "root", "exe", "fd", "fd/3", "ns/net"] {
        let path = Path::new("/proc/1").join(name);
        let seen = std::fs::read(&path).err().map(|error| error.kind());
        assert_eq!(seen, Some(io::ErrorKind::PermissionDenied), "{name}");
    }
    for path in [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/hostname",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/net/ipv4/ip_nonlocal_bind",
        "/proc/sys/net/ipv4/ping_group_range",
        "/proc/sys/vm/drop_caches",
        "/proc/irq/default_smp_affinity",
        "/proc/self/uid_map",
        "/proc/self/setgroups",
        "/proc/1/oom_score_adj",
        "/etc/resolv.conf",
        "/sys/new",
    ] {
        assert!(std::fs::write(path, "1").is_err(), "{path} was written");
    }
}
