//! A full disk: what can't be kept is refused and leaves nothing, what runs goes on, and with room
//! everything works again.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails here")]

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use minato_tests::{Server, images, run, until};

/// Set in the process that has a mount namespace of its own.
const INSIDE: &str = "MINATO_TEST_SMALL_DISK";
const GOOD: &str = "app = \"good\"\n[services.web]\nimage = \"good/web:1\"\nhosts = [\"good.localhost\"]\n";

/// Runs the test again where `/var/tmp`, which is for data directories, is a small file system of its
/// own; whether this is there.
fn on_a_small_disk(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let script =
        "mount -t tmpfs -o size=48m,mode=1777 tmpfs /var/tmp && exec \"$0\" --exact \"$1\" --nocapture";
    let said = run(Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .env(INSIDE, "1"));
    assert!(said.status.success(), "{}\n{}", said.stdout, said.stderr);
    false
}

/// Takes all room but so many KiB.
fn fill(leave: u64) {
    let free = rustix::fs::statvfs("/var/tmp").unwrap();
    let bytes = (free.f_bavail * free.f_bsize).saturating_sub(leave << 10);
    let mut file = std::fs::File::create("/var/tmp/filler").unwrap();
    let zeros = vec![0; 64 << 10];
    for _ in 0..bytes / zeros.len() as u64 {
        if file.write_all(&zeros).is_err() {
            break;
        }
    }
}

fn make_room() {
    std::fs::remove_file("/var/tmp/filler").unwrap();
}

/// An image's folder with so many KiB that don't compress.
fn folder(below: &Path, kib: usize) -> std::path::PathBuf {
    let root = images::busybox(below);
    let mut noise = vec![0; kib << 10];
    let mut state = 0x9e37_79b9_u32;
    for byte in &mut noise {
        // Xorshift (Marsaglia 2003): enough for a compressor.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        *byte = state.to_le_bytes()[0];
    }
    std::fs::write(root.join("www/noise"), noise).unwrap();
    root
}

#[test]
fn a_full_disk_refuses_what_is_new_and_keeps_what_is() {
    if !on_a_small_disk("a_full_disk_refuses_what_is_new_and_keeps_what_is") {
        return;
    }
    let outside = tempfile::tempdir_in("/tmp").unwrap();
    let mut server = Server::start();
    let root = images::busybox(outside.path());
    server.build(&root, "good/web:1", &["--entrypoint", images::HTTPD, "--port", "8080"]);
    server.apply(GOOD);
    assert_eq!(server.ask("good.localhost", "/").status, 200);
    let root = folder(outside.path(), 8 << 10);
    let build = [
        "build",
        root.to_str().unwrap(),
        "-t",
        "good/web:2",
        "--entrypoint",
        images::HTTPD,
        "--port",
        "8080",
    ];

    // Pushing: said, and nothing of it stays but what can be gone on with.
    fill(4 << 10);
    let said = server.minato(&build);
    assert_eq!(said.code(), 1, "{said:?}");
    assert!(said.stderr.contains("full") || said.stderr.contains("space"), "{}", said.stderr);
    let manifest = outside.path().join("two.toml");
    std::fs::write(&manifest, GOOD.replace("web:1", "web:2")).unwrap();
    let two = manifest.to_str().unwrap();
    let said = server.minato(&["plan", "--json", two]);
    assert_eq!(
        (said.code(), &said.json()["error"]["code"]),
        (1, &"image_missing".into()),
        "no tag came of it"
    );
    assert_eq!(server.ask("good.localhost", "/").status, 200);
    make_room();
    server.minato(&build).ok();

    // Unpacking: the old release serves on, and the new one is in once there is room.
    fill(2 << 10);
    server.minato(&["apply", two]).ok();
    until("the full disk to be said", || {
        let why = server.why("good/web");
        if why.contains("no space is left") { Ok(()) } else { Err(why) }
    });
    assert_eq!(server.ask("good.localhost", "/noise").status, 404, "the old release answers");
    make_room();
    until("the new release to serve", || match server.ask("good.localhost", "/noise").status {
        200 => Ok(()),
        other => Err(format!("{other}: {}", server.why("good/web"))),
    });
    until("the new release to be stable", || {
        let apps = server.minato(&["status", "--json", "good"]).ok().json();
        let rollout = &apps["apps"][0]["services"][0]["rollout"];
        if rollout["state"] == "stable" { Ok(()) } else { Err(rollout.to_string()) }
    });

    // Declaring: refused or kept, never in between, and the server lives.
    fill(0);
    let mut declared = 0;
    let mut refused = None;
    for app in 0..200 {
        let text = format!(
            "app = \"app{app}\"\n[services.web]\nimage = \"good/web:1\"\nenv = {{ PAD = \"{}\" }}\n",
            "x".repeat(60_000)
        );
        let path = outside.path().join("many.toml");
        std::fs::write(&path, text).unwrap();
        let said = server.minato(&["apply", "--json", path.to_str().unwrap()]);
        match said.code() {
            0 => declared += 1,
            1 => {
                refused = Some(said.json()["error"].clone());
                break;
            }
            code => panic!("{code}: {said:?}"),
        }
    }
    let refused = refused.unwrap();
    assert_eq!(refused["code"], "disk_full", "{refused}");
    assert!(refused["hint"].as_str().unwrap_or_default().contains("make room"), "{refused}");
    let apps = || server.minato(&["status", "--json"]).ok().json()["apps"].as_array().unwrap().len();
    assert_eq!(apps(), 1 + declared, "what was acknowledged, and nothing else");
    assert_eq!(server.ask("good.localhost", "/noise").status, 200);
    make_room();
    let path = outside.path().join("many.toml");
    server.minato(&["apply", path.to_str().unwrap()]).ok();
    assert_eq!(apps(), 2 + declared);

    // What was acknowledged is there after a crash; a start on a full disk is one clear error or works.
    server.kill();
    fill(0);
    let said = run(Command::new(minato_tests::program())
        .args(["server", "--clean", "--data"])
        .arg(server.data())
        .stderr(Stdio::piped()));
    assert!(said.stderr.lines().count() <= 2, "{said:?}");
    make_room();
    server.spawn(&["--anonymous-push"]);
    assert_eq!(
        server.minato(&["status", "--json"]).ok().json()["apps"].as_array().unwrap().len(),
        2 + declared
    );
    until("the service to answer", || match server.ask("good.localhost", "/noise").status {
        200 => Ok(()),
        other => Err(other.to_string()),
    });
}
