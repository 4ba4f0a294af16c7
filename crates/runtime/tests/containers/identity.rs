//! Who an instance is to others, as it finds it: files that nothing of its image leads away from.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::{Command, Stdio},
};

use minato_runtime::{
    keeper, mounts,
    sandbox::StartError,
    spec::{Identity, Start, Status},
};

use crate::ground::{Ground, text};

const LOOK: &str =
    "cd /run/minato/identity; stat -c '%n %u:%g %a' tls.crt tls.key ca.crt; cat tls.crt tls.key ca.crt";

fn identity() -> Identity {
    Identity { certificate: b"leaf\n".to_vec(), key: b"key\n".to_vec(), roots: b"roots\n".to_vec() }
}

fn found(uid: u32) -> String {
    format!("tls.crt 0:0 444\ntls.key {uid}:0 400\nca.crt 0:0 444\nleaf\nkey\nroots\n")
}

/// Runs a shell command that has an identity, to its end: what it wrote.
fn run(ground: &Ground, command: &str, change: impl FnOnce(&mut Start)) -> String {
    let (sandbox, spec) = ground.make();
    let mut start = ground.start_of(&["sh", "-c", command]);
    start.identity = Some(identity());
    change(&mut start);
    sandbox.start(&start).unwrap_or_else(|error| panic!("{error}: {error:?}"));
    assert_eq!(ground.end(&spec.instance).status, Status::Exit(0));
    text(&spec.log)
}

#[test]
fn every_user_finds_it_with_and_without_an_init() {
    let ground = Ground::new();
    for (uid, init) in [(0, true), (0, false), (1000, true), (65_534, false)] {
        let written = run(&ground, LOOK, |start| {
            (start.uid, start.gid, start.init) = (uid, uid, init);
            start.groups = vec![7];
        });
        assert_eq!(written, found(uid));
    }
}

#[test]
fn nobody_else_reads_the_key_and_nobody_changes_anything() {
    let ground = Ground::new();
    let other = "busybox su -s /bin/sh nobody -c 'cat /run/minato/identity/ca.crt; cat /run/minato/identity/tls.key' 2>/dev/null || echo refused";
    assert_eq!(run(&ground, other, |_| {}), "roots\nrefused\n");
    let change = "cd /run/minato/identity; for it in 'echo x > tls.crt' 'echo x > new' 'busybox rm tls.key' \
                  'busybox mv ca.crt other' 'busybox chmod 644 tls.key' 'busybox chown 5 tls.key' \
                  'busybox umount /run/minato/identity' 'mount -o remount,rw /run/minato/identity' \
                  'busybox rmdir /run/minato/identity' 'busybox mv /run/minato /run/other'; do \
                  (eval \"$it\") 2>/dev/null && echo \"$it\"; done; cat tls.crt tls.key ca.crt";
    assert_eq!(run(&ground, change, |_| {}), "leaf\nkey\nroots\n");
    // Nothing of it is on a disk, and nothing is executed from there.
    let mounted = "busybox grep ' /run/minato/identity ' /proc/self/mounts";
    let written = run(&ground, mounted, |_| {});
    for word in ["tmpfs", "ro,", "nosuid", "nodev", "noexec"] {
        assert!(written.contains(word), "no {word} in {written}");
    }
}

#[test]
fn who_is_given_none_finds_none() {
    let ground = Ground::new();
    let (written, _) = ground.run("ls -A /run/minato/identity; ls -d /identity 2>/dev/null; echo done");
    assert_eq!(written, "done\n");
}

/// What a user finds for whose image `make` has changed the tree.
fn check(writable: &[&str], make: impl FnOnce(&Path)) {
    let ground = Ground::new();
    make(&ground.tree());
    let writable: Vec<String> = writable.iter().map(|&path| path.to_owned()).collect();
    let mut made = writable.clone();
    made.push("/var/cache".into());
    mounts::mount_points(&ground.tree(), &made).unwrap();
    let written = run(&ground, LOOK, |start| {
        (start.uid, start.gid) = (1000, 1000);
        start.writable = writable;
    });
    assert_eq!(written, found(1000));
}

/// Every file that could be taken for it.
fn decoy(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    ["tls.crt", "tls.key", "ca.crt"].iter().for_each(|name| fs::write(folder.join(name), "decoy\n").unwrap());
}

#[test]
fn what_the_image_has_in_its_place_is_not_seen() {
    check(&[], |tree| decoy(&tree.join("run/minato/identity")));
    check(&["/run"], |tree| decoy(&tree.join("run/minato/identity")));
    check(&["/run/minato/identity", "/run/minato", "/run"], |tree| decoy(&tree.join("run/minato/identity")));
    check(&[], |tree| {
        fs::set_permissions(tree.join("run"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(tree.join("run/minato"), fs::Permissions::from_mode(0o000)).unwrap();
    });
}

#[test]
fn no_link_of_the_image_leads_away_from_it() {
    let linked = |link: &'static str, to: &'static str| {
        move |tree: &Path| {
            decoy(&tree.join("decoy/minato/identity"));
            let link = tree.join(link);
            fs::remove_dir_all(&link).ok();
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(to, &link).unwrap();
        }
    };
    for to in ["/decoy", "/tmp", "/dev/shm", "/proc/self/root/decoy", "/nowhere"] {
        check(&[], linked("run", to));
    }
    check(&["/run"], linked("run", "/decoy"));
    check(&["/var/run"], linked("var/run", "/run"));
    check(&[], linked("run/minato", "/decoy/minato"));
    check(&["/run"], linked("run/minato/identity", "../../decoy/minato/identity"));
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        check(&[], |tree| {
            decoy(&tree.join("decoy"));
            symlink(Path::new("/decoy").join(name), tree.join("run/minato/identity").join(name)).unwrap();
        });
    }
}

#[test]
fn what_is_no_identity_is_refused() {
    let ground = Ground::new();
    for change in [
        |identity: &mut Identity| identity.key.clear(),
        |identity: &mut Identity| identity.roots.clear(),
        |identity: &mut Identity| identity.certificate = vec![b'x'; 40 << 10],
    ] {
        let error = ground.refused(|start| {
            let mut given = identity();
            change(&mut given);
            start.identity = Some(given);
        });
        assert!(matches!(error, StartError::Invalid(_)), "{error}");
    }
    // As much as may be fits.
    let largest = |length: usize| vec![b'x'; length];
    let written = run(
        &ground,
        "cd /run/minato/identity; busybox wc -c tls.crt tls.key ca.crt | busybox tail -n 1",
        |start| {
            start.identity = Some(Identity {
                certificate: largest(13 << 10),
                key: largest(5 << 10),
                roots: largest(14 << 10),
            });
        },
    );
    assert_eq!(written.trim(), "32768 total");
}

#[test]
fn an_older_keepers_sandboxes_take_none_and_run() {
    let mut ground = Ground::new();
    assert!(ground.client().identifies());
    ground.client().shutdown().unwrap();
    let mut process = Command::new(&ground.config.exe)
        .args([keeper::ARGUMENT.as_ref(), ground.config.data.as_os_str(), ground.config.id.as_ref()])
        .args(["--protocol", "2"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::read_to_string(process.stdout.take().unwrap()).unwrap();
    ground.reconnect();
    assert!(ground.client().binds_late() && !ground.client().identifies());
    let error = ground.refused(|start| start.identity = Some(identity()));
    assert!(matches!(error, StartError::Invalid(why) if why.contains("older")), "{error}");
    assert_eq!(ground.run("ls -A /run/minato/identity; echo well").0, "well\n");
    ground.client().shutdown().unwrap();
    assert!(process.wait().unwrap().success());
    ground.client = None;
    ground.reconnect();
}
