//! What an image's configuration says, as the program in it finds it: seen from inside, for an image that
//! buildah has configured.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails here")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::PathBuf,
    process::Command,
};

use minato_tests::{Server, clients::Client, images, run, until};

/// Writes down what it finds, and serves that. It is told to end by USR1.
const START: &str = r#"
trap 'echo "ended by USR1"; kill $server; exit 0' USR1
trap 'echo "ended by TERM"; kill $server; exit 0' TERM
facts=/tmp/facts
busybox mkdir $facts
{
    echo "words: $0 $*"
    echo "id: $(id -u):$(id -g) groups: $(id -G)"
    echo "folder: $(busybox pwd)"
    echo "greeting: $GREETING"
    echo "path: $PATH"
    echo "home: $HOME"
    echo "port: $PORT"
    echo "told: $MINATO_APP/$MINATO_SERVICE@$MINATO_RELEASE $(busybox expr length "$MINATO_INSTANCE")"
    for place in /data /var/cache /www; do
        echo "$place: $(busybox stat -c '%u:%g %a' $place) $(cat $place/seed)"
        (echo new > $place/made) 2>/dev/null && echo "$place is written to" || echo "$place is read-only"
        (echo again >> $place/again) 2>/dev/null
    done
    echo "again: $(busybox wc -l < /data/again)"
    echo "data on: $(busybox awk '$2 == "/data" { print $3 }' /proc/mounts)"
    echo "umask: $(umask)"
    echo "capabilities: $(busybox awk '/^CapEff/ { print $2 }' /proc/self/status)"
    echo "no new privileges: $(busybox awk '/^NoNewPrivs/ { print $2 }' /proc/self/status)"
    echo "processes: $(busybox ls -d /proc/[0-9]* | busybox wc -l)"
    echo "devices: $(busybox ls /dev | busybox tr '\n' ' ')"
} > $facts/index.html
echo "to stdout by name" > /dev/stdout
echo "to stderr by name" > /dev/stderr
httpd -f -p "$PORT" -h $facts &
server=$!
wait $server
"#;

/// The script, and three folders with content that belongs to somebody.
fn root(server: &Server) -> PathBuf {
    let root = images::busybox(server.data());
    fs::write(root.join("start.sh"), START).unwrap();
    for folder in ["data", "var/cache", "www", "srv/place"] {
        let folder = root.join(folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("seed"), format!("seed of {}", folder.file_name().unwrap().display())).unwrap();
        chown(&folder, Some(1000), Some(1000)).unwrap();
    }
    let program = root.join("srv/place/run");
    fs::write(&program, "#!/bin/sh\nexec /bin/sh /start.sh \"$@\"\n").unwrap();
    fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(root.join("data"), fs::Permissions::from_mode(0o750)).unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nweb:x:1000:\nmore:x:2000:web\n").unwrap();
    // An archive, for buildah gives a folder's files to root.
    let tar = server.data().join("root.tar");
    run(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".")).ok();
    tar
}

const CONFIG: [&str; 16] = [
    "--entrypoint",
    r#"["/bin/sh","/start.sh"]"#,
    "--cmd",
    "one two",
    "--env",
    "GREETING=from the image",
    "--env",
    "PATH=/bin:/opt/bin",
    "--workingdir",
    "/srv/place",
    "--volume",
    "/data",
    "--stop-signal",
    "USR1",
    "--port",
    "8123",
];

fn manifest(user: &str, further: &str) -> String {
    format!(
        r#"
[services.{user}]
image = "inside/{user}:1"
hosts = ["{user}.localhost"]
{further}
scale = {{ idle = "1s" }}
"#
    )
}

/// What it finds when the manifest changes nothing.
const AS_CONFIGURED: [&str; 14] = [
    "words: /start.sh one two",
    "id: 1000:1000 groups: 1000 2000",
    "folder: /srv/place",
    "greeting: from the image",
    "path: /bin:/opt/bin",
    "port: 8123",
    "/data: 1000:1000 750 seed of data",
    "/data is written to",
    "/var/cache is read-only",
    "/www is read-only",
    "again: 1",
    "data on: tmpfs",
    "capabilities: 0000000000000000",
    "no new privileges: 1",
];

#[track_caller]
fn holds(facts: &str, expected: &[&str]) {
    for line in expected {
        assert!(facts.lines().any(|fact| fact == *line), "{line}\nnot in\n{facts}");
    }
}

#[test]
fn a_program_finds_what_its_image_says() {
    let server = Server::start();
    let root = root(&server);
    let buildah = Client::buildah();
    for (name, user) in [("name", "web"), ("number", "1000:2000"), ("unknown", "4321"), ("root", "")] {
        let image = format!("{}/inside/{name}:1", server.api);
        buildah.image(&image, &root, &[&CONFIG[..], &["--user", user]].concat());
        buildah.run(["push", "--quiet", "--tls-verify=false", &image]);
    }
    let written = "writable = [\"/var/cache\"]\nenv = { GREETING = \"from the manifest\" }";
    let replaced = "command = [\"./run\", \"three\"]\nport = 80";
    let text = manifest("name", "")
        + &manifest("number", written)
        + &manifest("unknown", replaced)
        + &manifest("root", "");
    server.apply(&format!("app = \"inside\"\n{text}"));
    let facts = |name: &str| {
        let answer = server.ask(&format!("{name}.localhost"), "/");
        assert_eq!(answer.status, 200, "{}\n{}", answer.text(), server.why(&format!("inside/{name}")));
        answer.text()
    };

    let name = facts("name");
    holds(&name, &AS_CONFIGURED);
    assert!(name.contains("told: inside/name@1 "), "{name}");
    let number = [
        "id: 1000:2000 groups: 2000",
        "greeting: from the manifest",
        "/var/cache: 1000:1000 755 seed of cache",
        "/var/cache is written to",
    ];
    holds(&facts("number"), &number);
    let unknown = [
        "id: 4321:0 groups: 0",
        "words: /start.sh three",
        "folder: /srv/place",
        "port: 80",
        "/data is read-only",
    ];
    holds(&facts("unknown"), &unknown);
    holds(
        &facts("root"),
        &["id: 0:0 groups: 0", "capabilities: 00000000000004e3", "/data is written to", "/www is read-only"],
    );

    until("all to be at rest", || match server.count("inside/name", "ready") {
        0 => Ok(()),
        ready => Err(format!("{ready} ready")),
    });
    until("the end by the image's signal", || {
        let log = server.minato(&["logs", "inside/name"]).ok().stdout;
        let all =
            ["ended by USR1", "to stdout by name", "to stderr by name"].iter().all(|line| log.contains(line));
        if all { Ok(()) } else { Err(log) }
    });
    holds(&facts("name"), &["again: 1", "/data: 1000:1000 750 seed of data"]);
}
