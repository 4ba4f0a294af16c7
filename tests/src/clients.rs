//! The programs with which others push and pull, each with storage of its own that goes with it.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test without its client fails here")]

use std::{
    ffi::OsStr,
    fs::File,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{Said, run, until};

fn folder() -> TempDir {
    tempfile::Builder::new().prefix("minato-client-").tempdir_in("/var/tmp").unwrap()
}

/// `podman` or `buildah`.
#[derive(Debug)]
pub struct Client {
    program: &'static str,
    folder: TempDir,
}

impl Client {
    /// One that stores nothing beside other people's images.
    #[must_use]
    pub fn podman() -> Self {
        Self::new("podman")
    }

    /// The same for buildah.
    #[must_use]
    pub fn buildah() -> Self {
        Self::new("buildah")
    }

    fn new(program: &'static str) -> Self {
        let folder = folder();
        std::fs::write(folder.path().join("auth.json"), "{}").unwrap();
        Self { program, folder }
    }

    /// Runs it.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn run<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Said {
        let at = |name: &str| self.folder.path().join(name);
        let mut command = Command::new(self.program);
        command.arg("--root").arg(at("root")).arg("--runroot").arg(at("run"));
        // The one driver that needs nothing from the kernel and leaves no mounts behind.
        command.args(["--storage-driver", "vfs"]).args(arguments);
        command.env("REGISTRY_AUTH_FILE", at("auth.json")).env("TMPDIR", self.folder.path());
        run(&mut command).ok()
    }

    /// With buildah: an image of a tar archive or folder, configured as its `config` is called.
    ///
    /// # Panics
    /// When it fails.
    pub fn image(&self, name: &str, root: &Path, config: &[&str]) {
        let container = self.run(["from", "scratch"]).stdout.trim().to_owned();
        self.run(["add", "--quiet", &container, root.to_str().unwrap(), "/"]);
        self.run([&["config"], config, &[&*container]].concat());
        self.run(["commit", "--quiet", "--rm", &container, name]);
    }
}

/// A Docker daemon of the test's own, which touches neither packet filter nor bridges.
#[derive(Debug)]
pub struct Docker {
    daemon: Child,
    folder: TempDir,
}

impl Docker {
    /// Starts it.
    ///
    /// # Panics
    /// When it doesn't answer within a minute; with its log.
    #[must_use]
    pub fn start() -> Self {
        let folder = folder();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("daemon.json"), "{}").unwrap();
        let log = File::create(at("log")).unwrap();
        let daemon = Command::new("dockerd")
            .args(["--iptables=false", "--ip6tables=false", "--ip-forward=false", "--bridge=none"])
            .args(["--storage-driver=vfs", "--config-file"])
            .arg(at("daemon.json"))
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("pid"))
            .arg("--host")
            .arg(format!("unix://{}", at("socket").display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("dockerd can't be run: apt-get install docker.io");
        let mut docker = Self { daemon, folder };
        until("a Docker daemon", || {
            let log = || std::fs::read_to_string(docker.folder.path().join("log")).unwrap_or_default();
            let ended = docker.daemon.try_wait().unwrap();
            assert!(ended.is_none(), "dockerd ended; is this machine allowed to run it? {}", log());
            let said = run(&mut docker.command(&["version"]));
            if said.status.success() { Ok(()) } else { Err(said.stderr + &log()) }
        });
        docker
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.arg("--host").arg(format!("unix://{}", self.folder.path().join("socket").display()));
        command.args(arguments).env("DOCKER_CONFIG", self.folder.path());
        command
    }

    /// Runs the client.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Said {
        run(&mut self.command(arguments)).ok()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // It ends its own containerd.
        kill_process(Pid::from_child(&self.daemon), Signal::TERM).unwrap_or_default();
        drop(self.daemon.wait());
    }
}

/// Runs `skopeo` with images that it may reach without TLS.
///
/// # Panics
/// When it fails.
#[track_caller]
pub fn skopeo(arguments: &[&str]) -> Said {
    run(Command::new("skopeo").args(arguments)).ok()
}

/// The digest of an image in a registry, as skopeo finds it.
#[must_use]
#[track_caller]
pub fn digest(api: SocketAddr, image: &str) -> String {
    let image = format!("docker://{api}/{image}");
    let raw = skopeo(&["inspect", "--raw", "--tls-verify=false", &image]).stdout;
    let folder = folder();
    let file = folder.path().join("manifest");
    std::fs::write(&file, raw).unwrap();
    skopeo(&["manifest-digest", file.to_str().unwrap()]).stdout.trim().to_owned()
}
