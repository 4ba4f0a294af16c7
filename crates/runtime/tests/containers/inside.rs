//! What an instance finds, and what it can't do.

use minato_runtime::spec::Status;

use crate::ground::Ground;

fn check(command: &str, expected: &str) {
    let ground = Ground::new();
    let (text, _) = ground.run(command);
    assert_eq!(text, expected);
}

#[test]
fn root_inside_is_nobody_outside_and_has_six_capabilities() {
    let ground = Ground::new();
    let (text, _) = ground.run(
        "cat /proc/self/uid_map; busybox grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups)' /proc/self/status; id -u; ulimit -n; ulimit -c",
    );
    let words: Vec<&str> = text.split_whitespace().collect();
    let six = "00000000000004e3";
    let first = ground.ids.first.to_string();
    let expected = [
        "0",
        &first,
        "65536",
        "Groups:",
        "CapInh:",
        "0000000000000000",
        "CapPrm:",
        six,
        "CapEff:",
        six,
        "CapBnd:",
        six,
        "CapAmb:",
        "0000000000000000",
        "NoNewPrivs:",
        "1",
        "Seccomp:",
        "2",
        "0",
        "1024",
        "0",
    ];
    assert_eq!(words, expected);
}

#[test]
fn another_user_has_no_capability_and_may_write_to_its_streams() {
    let ground = Ground::new();
    let command = "busybox grep CapEff /proc/self/status; echo out > /dev/stdout; echo error > /dev/stderr; id -u; touch /tmp/mine && echo yes";
    let (text, ended) = ground.run_as(65534, &command.replace("touch", "busybox touch"));
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["65534", "CapEff:\t0000000000000000", "error", "out", "yes"]);
    assert_eq!(ended.status, Status::Exit(0));
}

#[test]
fn the_root_is_read_only_and_scratch_is_not() {
    check(
        "(echo x > /new) 2>/dev/null || echo refused; (echo x > /bin/sh) 2>/dev/null || echo refused; echo x > /tmp/new && cat /tmp/new; stat -c %a /tmp",
        "refused\nrefused\nx\n1777\n",
    );
}

#[test]
fn a_writable_path_has_the_images_content_owner_and_mode_and_a_bound() {
    check(
        "cat /var/cache/app/seed; stat -c '%u:%g %a' /var/cache; echo x > /var/cache/new && echo written; \
         dd if=/dev/zero of=/var/cache/large bs=1M count=16 2>/dev/null || echo full",
        "from the image\n33:34 755\nwritten\nfull\n",
    );
}

#[test]
fn what_would_change_the_surroundings_is_refused() {
    let ground = Ground::new();
    let commands = [
        "mount -t tmpfs none /tmp",
        "busybox umount /proc",
        "unshare -U true",
        "unshare -n true",
        "busybox chroot / true",
        "busybox mknod /tmp/sda b 8 0",
        "busybox hostname other",
        "ip link set eth0 down",
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
        "echo b > /proc/sysrq-trigger",
        "busybox ping -c 1 127.0.0.1",
    ];
    for command in commands {
        let (text, _) = ground.run(&format!("({command}) 2>/dev/null && echo allowed"));
        assert!(!text.contains("allowed"), "{command}: {text}");
    }
}

#[test]
fn the_host_is_not_seen() {
    let ground = Ground::new();
    let (text, _) = ground.run("ls /; busybox mount | busybox wc -l; ls /proc | busybox grep -c '^[0-9]'; busybox hostname; cat /proc/self/cgroup; ls /dev; cat /proc/kcore /proc/keys 2>/dev/null | busybox wc -c");
    for word in ["bin", "inside", "null", "pts"] {
        assert!(text.contains(word), "no {word} in {text}");
    }
    for word in ["minato", "process_api", "vda", "home"] {
        assert!(!text.contains(word), "{word} in {text}");
    }
    assert!(text.ends_with("0\n"), "{text}");
}

#[test]
fn only_the_instances_own_descriptors_are_open() {
    // 3 is the directory that is read.
    check("ls /proc/self/fd", "0\n1\n2\n3\n");
}

#[test]
fn names_and_addresses_are_there() {
    let ground = Ground::new();
    let (text, _) = ground.run("cat /etc/hosts /etc/hostname /etc/resolv.conf; ip -4 addr show eth0; ip route; echo x >> /etc/hosts || echo refused");
    for word in [
        "127.0.0.1\tlocalhost",
        "10.200.64.0\tinside",
        "nameserver 10.200.0.1",
        "10.200.64.0/32",
        "default via 10.200.0.1",
        "refused",
    ] {
        assert!(text.contains(word), "no {word} in {text}");
    }
}

#[test]
fn every_user_may_listen_on_every_port() {
    let ground = Ground::new();
    let (text, _) = ground.run_as(1000, "busybox timeout 1 busybox nc -l -p 80; echo $?");
    // It waited for a caller until its time was over.
    assert!(text.ends_with("143\n"), "{text}");
}
