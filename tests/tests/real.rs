//! Images from Debian's packages, pushed and pulled by the clients that people have, and programs packed
//! by Minato itself: each started by a request, scaled out under load, idled to zero and asked again.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails here")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use minato_tests::{
    Server,
    clients::{Client, Docker, digest, skopeo},
    debian::{Made, packages},
    http, programs, run, until,
};

/// An app of one service, which is scaled out by few requests and soon at rest again.
fn manifest(image: &str, further: &str) -> String {
    format!(
        r#"
app = "real"
[services.web]
image = "{image}"
hosts = ["real.localhost"]
{further}
[services.web.scale]
concurrency = 1
max = 3
idle = "1s"
"#
    )
}

/// The way of every image: from zero, out, back, and from zero again.
fn walk(server: &Server, manifest: &str, path: &str, expected: &str) {
    server.apply(manifest);
    assert_eq!(server.count("real/web", "ready"), 0, "nothing runs before the first request");
    let from_zero = || {
        let answer = server.ask("real.localhost", path);
        assert_eq!(answer.status, 200, "{}{}\n{}", answer.head, answer.text(), server.why("real/web"));
        assert!(answer.text().contains(expected), "{}", answer.text());
        assert!(answer.header("server-timing").is_some(), "{}", answer.head);
    };
    from_zero();
    load(server, path);
    until("the service to be at rest", || match server.count("real/web", "ready") {
        0 => Ok(()),
        ready => Err(format!("{ready} ready")),
    });
    from_zero();
}

/// Clients that ask at once, until more than one instance answers them. None may be failed.
fn load(server: &Server, path: &str) {
    let (done, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let clients: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let answer = http::get(server.http, "real.localhost", path).unwrap();
                        assert_eq!(answer.status, 200, "{}{}", answer.head, answer.text());
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        until("more than one instance under load", || {
            assert!(!clients.iter().any(thread::ScopedJoinHandle::is_finished), "a client was failed");
            match server.count("real/web", "ready") {
                0 | 1 => Err(server.why("real/web")),
                _ => Ok(()),
            }
        });
        done.store(true, Ordering::Relaxed);
    });
    assert!(answered.load(Ordering::Relaxed) > 0);
}

#[test]
fn busybox_by_skopeo() {
    let server = Server::start();
    let tar = packages("busybox-static", Made::Extracted);
    let buildah = Client::buildah();
    let entrypoint = r#"["/bin/busybox","httpd","-f","-p","8080","-h","/etc"]"#;
    buildah.image("busybox", &tar, &["--entrypoint", entrypoint, "--port", "8080"]);
    let folder = server.data().join("layout");
    let layout = format!("oci:{}:1", folder.display());
    buildah.run(["push", "--quiet", "busybox", &layout]);
    let there = format!("docker://{}/real/busybox:1", server.api);
    skopeo(&["copy", "--quiet", "--dest-tls-verify=false", &layout, &there]);

    let back = server.data().join("back");
    let to = format!("oci:{}:1", back.display());
    skopeo(&["copy", "--quiet", "--src-tls-verify=false", &there, &to]);
    let index = |folder: &Path| fs::read_to_string(folder.join("index.json")).unwrap();
    let pushed = digest(server.api, "real/busybox:1");
    assert!(index(&folder).contains(&pushed), "{pushed} {}", index(&folder));
    assert!(index(&back).contains(&pushed), "{pushed} {}", index(&back));

    walk(&server, &manifest("real/busybox:1", ""), "/fstab", "UNCONFIGURED");

    // A second layer, which takes away and replaces what the first one has.
    let container = buildah.run(["from", "--pull-never", "busybox"]).stdout.trim().to_owned();
    let etc = PathBuf::from(buildah.run(["mount", &container]).stdout.trim()).join("etc");
    fs::remove_file(etc.join("fstab")).unwrap();
    fs::remove_dir_all(etc.join("dpkg")).unwrap();
    fs::write(etc.join("dpkg"), "a file now").unwrap();
    buildah.run(["umount", &container]);
    let there = format!("{}/real/busybox:2", server.api);
    buildah.run(["commit", "--quiet", "--rm", &container, "second"]);
    buildah.run(["push", "--quiet", "--tls-verify=false", "second", &there]);
    server.apply(&manifest("real/busybox:2", ""));
    for (path, status) in [("/fstab", 404), ("/dpkg", 200), ("/hostname", 200)] {
        assert_eq!(server.ask("real.localhost", path).status, status, "{path}");
    }
}

#[test]
fn python_by_docker() {
    let server = Server::start();
    let tar = packages("python3", Made::Extracted);
    let docker = Docker::start();
    let image = format!("{}/real/python:1", server.api);
    let command = r#"CMD ["python3","-u","-m","http.server","8000","--directory","/etc"]"#;
    docker.run(&["import", "--change", command, "--change", "EXPOSE 8000", tar.to_str().unwrap(), &image]);
    let said = docker.run(&["push", &image]).stdout;
    let pushed = digest(server.api, "real/python:1");
    assert!(said.contains(&pushed), "{pushed} {said}");

    docker.run(&["rmi", &image]);
    let said = docker.run(&["pull", &image]).stdout;
    assert!(said.contains(&pushed), "{pushed} {said}");

    walk(&server, &manifest("real/python:1", ""), "/", "fstab");
}

#[test]
fn stock_nginx_by_podman() {
    let server = Server::start();
    let tar = packages("nginx-light", Made::Installed);
    let podman = Client::podman();
    let image = format!("{}/real/nginx:1", server.api);
    let command = r#"CMD ["nginx","-g","daemon off;"]"#;
    let tar = tar.to_str().unwrap();
    podman.run(["import", "--quiet", "--change", command, "--change", "EXPOSE 80", tar, &image]);
    podman.run(["push", "--quiet", "--tls-verify=false", &image]);
    let pushed = digest(server.api, "real/nginx:1");

    podman.run(["rmi", &image]);
    podman.run(["pull", "--quiet", "--tls-verify=false", &image]);
    let pulled = podman.run(["image", "inspect", "--format", "{{.Digest}}", &image]).stdout;
    assert_eq!(pulled.trim(), pushed);

    let writable = r#"writable = ["/var/log/nginx", "/var/lib/nginx", "/run"]"#;
    walk(&server, &manifest("real/nginx:1", writable), "/", "Welcome to nginx!");
}

#[test]
fn node_by_buildah() {
    let server = Server::start();
    let tar = packages("nodejs", Made::Extracted);
    let buildah = Client::buildah();
    let image = format!("{}/real/node:1", server.api);
    let program = "require('http').createServer((request, response) => \
                   response.end(`from Node.js ${process.version}`)).listen(process.env.PORT)";
    let entrypoint = serde_json::json!(["/usr/bin/node", "-e", program]).to_string();
    buildah.image(&image, &tar, &["--entrypoint", &entrypoint, "--port", "3000"]);
    buildah.run(["push", "--quiet", "--tls-verify=false", "--compression-format=zstd", &image]);
    let there = format!("docker://{image}");
    let raw = skopeo(&["inspect", "--raw", "--tls-verify=false", &there]).stdout;
    assert!(raw.contains("tar+zstd"), "{raw}");
    walk(&server, &manifest("real/node:1", ""), "/", "from Node.js v");
}

#[test]
fn rust_by_minato() {
    let server = Server::start();
    for (whole, port) in [(true, "8081"), (false, "8082")] {
        let program = programs::answer(server.data(), whole);
        let tag = format!("real/rust:{port}");
        server.build(&program, &tag, &["--port", port]);
        walk(&server, &manifest(&tag, ""), "/", &format!("from Rust on {port}"));
        server.minato(&["delete", "real"]).ok();
    }
}

/// What `uname -m` is called in images, and another one.
fn platforms() -> (&'static str, &'static str) {
    if cfg!(target_arch = "aarch64") { ("arm64", "amd64") } else { ("amd64", "arm64") }
}

#[test]
fn an_index_gives_this_platforms_image() {
    let server = Server::start();
    let tar = packages("busybox-static", Made::Extracted);
    let buildah = Client::buildah();
    let (here, elsewhere) = platforms();
    let entrypoint = r#"["/bin/busybox","httpd","-f","-p","8080","-h","/etc"]"#;
    for (name, platform) in [("here", here), ("elsewhere", elsewhere), ("old", "riscv64")] {
        let label = format!("for={platform}");
        let config = ["--entrypoint", entrypoint, "--port", "8080", "--arch", platform, "--label", &label];
        buildah.image(name, &tar, &config);
    }
    for (list, images) in [("both", ["elsewhere", "here"]), ("foreign", ["elsewhere", "old"])] {
        buildah.run(["manifest", "create", list]);
        for image in images {
            buildah.run(["manifest", "add", list, &format!("containers-storage:localhost/{image}")]);
        }
        let there = format!("docker://{}/real/web:{list}", server.api);
        buildah.run(["manifest", "push", "--quiet", "--all", "--tls-verify=false", list, &there]);
    }
    let podman = Client::podman();
    let both = format!("{}/real/web:both", server.api);
    podman.run(["pull", "--quiet", "--tls-verify=false", &both]);
    let label = podman.run(["image", "inspect", "--format", "{{.Labels}}", &both]).stdout;
    assert!(label.contains(&format!("for:{here}")), "{label}");
    walk(&server, &manifest("real/web:both", ""), "/fstab", "UNCONFIGURED");

    let path = server.manifest(&manifest("real/web:foreign", ""));
    let said = server.minato(&["apply", "--json", path.to_str().unwrap()]);
    assert_eq!(said.code(), 1, "{said:?}");
    let error = &said.json()["error"];
    assert_eq!(error["code"], "image_platform", "{error}");
    let message = error["message"].as_str().unwrap();
    for part in ["real/web:foreign", here, elsewhere, "riscv64"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert_eq!(server.ask("real.localhost", "/fstab").status, 200, "what was applied before serves on");
}

#[test]
fn pushing_takes_the_token_and_pulling_none() {
    let server = Server::start_with(&[]);
    let tar = packages("busybox-static", Made::Extracted);
    let buildah = Client::buildah();
    buildah.image("busybox", &tar, &["--port", "8080"]);
    let archive = format!("docker-archive:{}:real/busybox:1", server.data().join("busybox.tar").display());
    buildah.run(["push", "--quiet", "busybox", &archive]);
    let archive = archive.split(":real").next().unwrap();
    let there = format!("docker://{}/real/busybox:1", server.api);
    let push = ["copy", "--quiet", "--dest-tls-verify=false", archive, &there];

    for further in [&[][..], &["--dest-creds", "minato:wrong"]] {
        let said = run(Command::new("skopeo").args(push).args(further));
        assert!(!said.status.success(), "{further:?}");
        assert!(said.stderr.contains("unauthorized") || said.stderr.contains("denied"), "{}", said.stderr);
    }
    let token = format!("minato:{}", server.token());
    skopeo(&[&push[..], &["--dest-creds", &token]].concat());

    let podman = Client::podman();
    let image = format!("{}/real/busybox:1", server.api);
    podman.run(["pull", "--quiet", "--tls-verify=false", &image]);
    let login = ["login", "--tls-verify=false", "--username", "minato", "--password"];
    podman.run([&login[..], &[&*server.token(), &*server.api.to_string()]].concat());
    let again = format!("{}/real/again:1", server.api);
    podman.run(["push", "--quiet", "--tls-verify=false", &image, &again]);
    assert_eq!(digest(server.api, "real/again:1").len(), "sha256:".len() + 64);
}
