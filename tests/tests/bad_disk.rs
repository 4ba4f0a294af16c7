//! A full disk: what can't be kept is refused and leaves nothing, what runs goes on, and with room
//! everything works again.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails here")]

use std::{
    io::{BufRead as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
};

use minato_tests::{Server, disk, images, kernel, program, run, until};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const GOOD: &str = "app = \"good\"\n[services.web]\nimage = \"good/web:1\"\nhosts = [\"good.localhost\"]\n";

/// Runs the test again where data directories are on a small file system of its own; whether this is
/// there.
fn on_a_small_disk(test: &str) -> bool {
    if std::env::var_os("MINATO_TEST_DISK").is_some() {
        return true;
    }
    let place = tempfile::Builder::new().prefix("minato-test-").tempdir_in(disk()).unwrap();
    let script =
        "mount -t tmpfs -o size=48m,mode=1777 tmpfs \"$2\" && exec \"$0\" --exact \"$1\" --nocapture";
    let said = run(Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .arg(place.path())
        .env("MINATO_TEST_DISK", place.path()));
    assert!(said.status.success(), "{}\n{}", said.stdout, said.stderr);
    false
}

/// Takes all room but so many KiB.
fn fill(leave: u64) {
    let free = rustix::fs::statvfs(disk().as_path()).unwrap();
    let bytes = (free.f_bavail * free.f_bsize).saturating_sub(leave << 10);
    let mut file = std::fs::File::create(disk().join("filler")).unwrap();
    let zeros = vec![0; 64 << 10];
    for _ in 0..bytes / zeros.len() as u64 {
        if file.write_all(&zeros).is_err() {
            break;
        }
    }
}

fn make_room() {
    std::fs::remove_file(disk().join("filler")).unwrap();
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

/// A server on which one service is well, and a folder for what isn't its data.
fn server() -> (Server, TempDir) {
    let outside = tempfile::tempdir_in("/tmp").unwrap();
    let server = Server::start();
    let root = images::busybox(outside.path());
    server.build(&root, "good/web:1", &["--entrypoint", images::HTTPD, "--port", "8080"]);
    server.apply(GOOD);
    assert_eq!(server.ask("good.localhost", "/").status, 200);
    (server, outside)
}

#[test]
fn an_image_that_doesnt_fit_is_refused_or_waits_for_room() {
    if !on_a_small_disk("an_image_that_doesnt_fit_is_refused_or_waits_for_room") {
        return;
    }
    let (server, outside) = server();
    let root = folder(outside.path(), 8 << 10);
    let root = root.to_str().unwrap();
    let build = ["build", root, "-t", "good/web:2", "--entrypoint", images::HTTPD, "--port", "8080"];

    // Pushing: said, and no tag comes of it.
    fill(4 << 10);
    let said = server.minato(&build);
    assert_eq!(said.code(), 1, "{said:?}");
    assert!(said.stderr.contains("full") || said.stderr.contains("space"), "{}", said.stderr);
    let manifest = outside.path().join("two.toml");
    std::fs::write(&manifest, GOOD.replace("web:1", "web:2")).unwrap();
    let two = manifest.to_str().unwrap();
    let said = server.minato(&["plan", "--json", two]);
    assert_eq!((said.code(), &said.json()["error"]["code"]), (1, &"image_missing".into()), "{said:?}");
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
    let partial = run(Command::new("find").arg(server.data()).args(["-name", "*.partial"]));
    assert_eq!(partial.stdout, "", "nothing half-done is left");
    make_room();
    until("the new release to be stable", || {
        let apps = server.minato(&["status", "--json", "good"]).ok().json();
        let rollout = &apps["apps"][0]["services"][0]["rollout"];
        if rollout["state"] == "stable" { Ok(()) } else { Err(rollout.to_string()) }
    });
    assert_eq!(server.ask("good.localhost", "/noise").status, 200);
}

/// Declares apps until there is no room; how many were taken, and what was said then.
fn declare(server: &Server, path: &Path) -> (usize, serde_json::Value) {
    for app in 0..200 {
        let pad = "x".repeat(60_000);
        let text = format!(
            "app = \"app{app}\"\n[services.web]\nimage = \"good/web:1\"\nenv = {{ PAD = \"{pad}\" }}\n"
        );
        std::fs::write(path, text).unwrap();
        let said = server.minato(&["apply", "--json", path.to_str().unwrap()]);
        match said.code() {
            0 => {}
            1 => return (app, said.json()["error"].clone()),
            code => panic!("{code}: {said:?}"),
        }
    }
    panic!("the disk was never full");
}

#[test]
fn what_was_acknowledged_outlives_a_full_disk() {
    if !on_a_small_disk("what_was_acknowledged_outlives_a_full_disk") {
        return;
    }
    let (mut server, outside) = server();
    let path = outside.path().join("many.toml");
    let apps =
        |server: &Server| server.minato(&["status", "--json"]).ok().json()["apps"].as_array().unwrap().len();
    fill(0);
    let (declared, error) = declare(&server, &path);
    assert_eq!(error["code"], "disk_full", "{error}");
    assert!(error["hint"].as_str().unwrap_or_default().contains("make room"), "{error}");
    assert_eq!(apps(&server), 1 + declared, "what was acknowledged, and nothing else");
    // Starting needs no room.
    server.minato(&["status"]).ok();
    let before = server.instances("good/web").remove(0);
    let pid = before["pid"].as_i64().and_then(|pid| Pid::from_raw(i32::try_from(pid).unwrap())).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    until("another instance to answer", || {
        let ready = server.instances("good/web");
        let other = ready.iter().any(|one| one["state"] == "ready" && one["id"] != before["id"]);
        let status = server.ask("good.localhost", "/").status;
        if other && status == 200 { Ok(()) } else { Err(format!("{status}: {}", server.why("good/web"))) }
    });
    make_room();
    server.minato(&["apply", path.to_str().unwrap()]).ok();
    assert_eq!(apps(&server), 2 + declared);

    // A start on a full disk works, or says in a line why it doesn't.
    server.kill();
    fill(0);
    let said = run(Command::new(program()).args(["server", "--clean", "--data"]).arg(server.data()));
    assert!(said.stderr.lines().count() <= 2, "{said:?}");
    let mut start = Command::new(program());
    start.args(["server", "--data"]).arg(server.data());
    start.args(["--api", &server.api.to_string(), "--http", &server.http.to_string()]);
    start.args(["--https", &server.https.to_string()]);
    let mut child = start.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if line.starts_with("ready") {
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert!(child.wait().unwrap().success());
    } else {
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(1), "{said}");
        let error = said.lines().find(|line| line.starts_with("error: ")).unwrap();
        assert!(error.contains("space") || error.contains("full"), "{said}");
    }
    make_room();
    server.spawn(&["--anonymous-push"]);
    assert_eq!(apps(&server), 2 + declared);
    until("the service to answer", || match server.ask("good.localhost", "/").status {
        200 => Ok(()),
        other => Err(other.to_string()),
    });
}

#[test]
fn a_first_start_without_room_names_what_it_cant_write() {
    if !on_a_small_disk("a_first_start_without_room_names_what_it_cant_write") {
        return;
    }
    let data = tempfile::Builder::new().prefix("minato-test-").tempdir_in(disk()).unwrap();
    std::fs::set_permissions(data.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    for leave in [0, 4, 16] {
        fill(leave);
        let mut start = Command::new(program());
        start.args(["server", "--api", "127.0.0.1:0", "--http", "127.0.0.1:0", "--https", "127.0.0.1:0"]);
        start.arg("--data").arg(data.path());
        let said = run(&mut start);
        assert_eq!((said.code(), said.stdout.as_str()), (1, ""), "{said:?}");
        let error = said.stderr.lines().find(|line| line.starts_with("error: ")).unwrap();
        assert!(error.contains(data.path().to_str().unwrap()), "{error}");
        assert!(error.contains("o space left"), "{error}");
        assert_eq!(kernel::objects(data.path()), Vec::<String>::new(), "nothing of it is in the kernel");
        make_room();
        for entry in std::fs::read_dir(data.path()).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }
}
