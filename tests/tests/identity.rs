//! Who is who, for the programs that people have: each finds three files, and proves by them who it is and
//! learns by them who another one is. And nobody's certificate runs out.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use minato_tests::{
    Server,
    debian::{Made, packages},
    programs, run,
    sample::{self, Load, failed},
    until,
    watch::{events_of, id, ready, until_ready},
};

/// The programs: their packages, what executes the source, and the memory that they need.
const KINDS: [(&str, &str, &[&str], &str); 4] = [
    ("openssl", "openssl,busybox-static", &["/bin/busybox", "sh", "/peer.sh"], "64MiB"),
    ("python", "python3", &["/usr/bin/python3", "/peer.py"], "128MiB"),
    ("node", "nodejs", &["/usr/bin/node", "/peer.js"], "256MiB"),
    (
        "java",
        "default-jre-headless,bsh",
        &[
            "/usr/lib/jvm/default-java/bin/java",
            "-cp",
            "/usr/share/java/bsh.jar",
            "bsh.Interpreter",
            "/peer.bsh",
        ],
        "512MiB",
    ),
];

/// A root file system with these packages and a program.
fn root(below: &Path, kind: &str, packages_of: &str, source: &str) -> PathBuf {
    let root = below.join(kind);
    std::fs::create_dir(&root).unwrap();
    let tar = packages(packages_of, Made::Extracted);
    run(Command::new("tar").arg("-xf").arg(tar).arg("-C").arg(&root)).ok();
    std::fs::copy(programs::source(&format!("tls/{source}")), root.join(source)).unwrap();
    root
}

#[test]
fn programs_of_four_kinds_verify_each_other_by_the_files_that_they_find() {
    let server = Server::start();
    let mut manifest = "app = \"tls\"\n".to_owned();
    for (kind, packages_of, command, memory) in KINDS {
        let source = command.last().unwrap().trim_start_matches('/');
        let root = root(server.data(), kind, packages_of, source);
        let entrypoint = serde_json::json!(command).to_string();
        server.build(&root, &format!("tls/{kind}:1"), &["--entrypoint", &entrypoint, "--port", "8443"]);
        std::fs::remove_dir_all(&root).unwrap();
        let peers = KINDS.map(|(kind, ..)| kind).join(" ");
        write!(
            manifest,
            "[services.{kind}]\nimage = \"tls/{kind}:1\"\nprotocol = \"tcp\"\nresources.memory = \"{memory}\"\n\
             scale.min = 1\nenv.PEERS = \"{peers}\"\n"
        )
        .unwrap();
    }
    server.apply(&manifest);
    let said = |kind: &str| server.minato(&["logs", &format!("tls/{kind}")]).ok().stdout;
    let cluster = std::fs::read_to_string(server.data().join("identity/cluster")).unwrap();
    let cluster: serde_json::Value = serde_json::from_str(&cluster).unwrap();
    let cluster = cluster["cluster"].as_str().unwrap();
    for (kind, ..) in KINDS {
        let own = id(&server.instances(&format!("tls/{kind}"))[0]);
        for (peer, ..) in KINDS {
            // OpenSSL's server says a line backwards; the others say who they were told it is.
            let answer = if peer == "openssl" {
                "olleh".to_owned()
            } else {
                format!("spiffe://{}/app/tls/service/{kind}/instance/{own}", cluster)
            };
            let line = format!("{kind} to {peer}: {answer}");
            until(&line, || {
                let said = said(kind);
                assert!(
                    !said.contains(&format!("{kind} to {peer}: failed")),
                    "{said}\n{}",
                    said_by(&server, peer)
                );
                if said.contains(&line) { Ok(()) } else { Err(said) }
            });
        }
    }
    let refusals = [
        ("openssl", "openssl refuses another name"),
        ("python", "python is refused another name"),
        ("python", "python is refused to show nothing"),
        ("python", "python is refused an authority that is nobody's"),
    ];
    for (kind, line) in refusals {
        until(line, || if said(kind).contains(line) { Ok(()) } else { Err(said(kind)) });
    }
}

fn said_by(server: &Server, kind: &str) -> String {
    server.minato(&["logs", &format!("tls/{kind}")]).stdout
}

/// A server whose certificates live for a little: a root for a minute and a half, and for a dozen seconds
/// that of an instance that may get four days old. With what it is started by.
fn hasty() -> (Server, tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("server.toml");
    let scale = 30.0 / (30.0 * 86_400.0);
    std::fs::write(&config, format!("[tls]\nlifetime_scale = {scale:.9}\n")).unwrap();
    let config = config.to_str().unwrap().to_owned();
    let server = Server::start_with(&["--anonymous-push", "--config", &config]);
    sample::push(&server);
    (server, folder, config)
}

const RECYCLE: &str = "recycle = { age = \"4d\" }";

/// The certificates of those that serve.
fn serials(server: &Server) -> BTreeSet<String> {
    let instances = ready(server, "app/web").into_iter();
    instances.map(|one| one["identity"]["serial"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn instances_are_renewed_before_their_certificates_end_and_nobody_notices() {
    let (server, _folder, _) = hasty();
    server.apply(&sample::manifest("1", "min = 2\nmax = 2", RECYCLE));
    until_ready(&server, "app/web", 2);
    let first = serials(&server);
    assert_eq!(first.len(), 2, "each has its own: {first:?}");
    let one = &server.instances("app/web")[0];
    let told = server.why(&id(one));
    assert!(told.contains(one["identity"]["serial"].as_str().unwrap()), "{told}");
    let load = Load::start(&server, 4, "app.localhost", "/");
    let begun = sample::now();
    let mut all = first.clone();
    until("instances of the next root", || {
        all.extend(serials(&server));
        let renewed = events_of(&server, "rehearsal").len();
        let long = begun.elapsed() > Duration::from_secs(36);
        if long && renewed >= 4 && serials(&server).is_disjoint(&first) {
            Ok(())
        } else {
            Err(format!("{all:?}"))
        }
    });
    let shots = load.end();
    assert!(failed(&shots).is_empty(), "{:?}", failed(&shots).first());
    assert!(all.len() >= 6, "{all:?}");
    for event in events_of(&server, "rehearsal") {
        assert_eq!(
            (&event["data"]["why"], &event["data"]["errors"]),
            (&"identity".into(), &0.into()),
            "{event}"
        );
    }
}

#[test]
fn who_was_adopted_is_renewed_in_time() {
    let (mut server, _folder, config) = hasty();
    server.apply(&sample::manifest("1", "min = 1\nmax = 1", RECYCLE));
    let before = until_ready(&server, "app/web", 1).remove(0);
    server.kill();
    server.spawn(&["--anonymous-push", "--config", &config]);
    let after = until_ready(&server, "app/web", 1).remove(0);
    assert_eq!((&before["id"], &before["identity"]), (&after["id"], &after["identity"]));
    until("another one in its place", || {
        let now = ready(&server, "app/web");
        if now.iter().all(|one| one["id"] != before["id"]) && !now.is_empty() {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    });
    assert_eq!(events_of(&server, "rehearsal")[0]["data"]["why"], "identity");
}
