//! The peer `docker run`: a daemon of the benchmark's own, with its own folders, socket and network
//! namespace; the same root file system, read-only, on a bridge with a known address.

use std::{
    fs::File,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    image,
    network::{EAGER, Network, first_answer},
    patience::{Patience, now},
    processes::{expect, read, remove_groups, run, run_at_the_end, start, stop},
};

const IMAGE: &str = "minato-bench:1";
const SUBNET: &str = "10.255.254.0/24";
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 255, 254, 2);
const BRIDGE: &str = "bench";

/// A daemon with the image in it.
#[derive(Debug)]
pub(crate) struct Docker {
    daemon: Child,
    folder: PathBuf,
    group: String,
}

impl Docker {
    /// Starts the daemon and gives it the image. Fails where a daemon can't run.
    pub(crate) fn prepare(patience: &Patience, below: &Path, root: &Path, network: &Network) -> Result<Self> {
        expect("dockerd")?;
        expect("docker")?;
        let folder = below.join("docker");
        std::fs::create_dir(&folder)?;
        std::fs::write(folder.join("daemon.json"), "{}")?;
        let mut output = File::options().create_new(true).read(true).append(true).open(folder.join("log"))?;
        let group = format!("minato-bench-{}-docker", std::process::id());
        let daemon = network.inside(|| start(&mut daemon(&folder, &group), &output))?;
        let mut docker = Self { daemon, folder, group };
        docker.ready(patience, network, root).with_context(|| {
            let said = read(&mut output).unwrap_or_default();
            let last: Vec<_> = said.lines().rev().take(5).collect();
            format!("dockerd said, last line first:\n{}", last.join("\n"))
        })?;
        Ok(docker)
    }

    fn ready(&mut self, patience: &Patience, network: &Network, root: &Path) -> Result<()> {
        let socket = self.folder.join("docker.sock");
        patience.until("dockerd's socket", Duration::from_secs(30), || {
            if let Some(status) = self.daemon.try_wait()? {
                bail!("dockerd ended: {status}");
            }
            Ok(socket.exists().then_some(()))
        })?;
        let archive = self.folder.join("root.tar");
        run(patience, Command::new("tar").arg("-C").arg(root).arg("-cf").arg(&archive).arg("."))?;
        let entry = format!("ENTRYPOINT [\"{}\"]", image::PROGRAM);
        run(patience, self.command().args(["import", "--change", &entry]).arg(&archive).arg(IMAGE))?;
        let name = format!("com.docker.network.bridge.name={BRIDGE}");
        run(
            patience,
            self.command().args(["network", "create", "--subnet", SUBNET, "--opt", &name, "bench"]),
        )?;
        // Who has the address changes with each container: a question that is lost costs two
        // milliseconds, not a second.
        let path = format!("/proc/sys/net/ipv4/neigh/{BRIDGE}/retrans_time_ms");
        network.inside(|| std::fs::write(&path, "2").with_context(|| format!("can't write {path}")))
    }

    fn command(&self) -> Command {
        let mut command = Command::new("docker");
        command
            .env("DOCKER_HOST", format!("unix://{}", self.folder.join("docker.sock").display()))
            .env("DOCKER_CONFIG", self.folder.join("client"));
        command
    }

    /// One start, from the exec of `docker run -d` to the first byte of the answer. To be called in the
    /// namespace that plays the host.
    pub(crate) fn round(&self, patience: &Patience) -> Result<Duration> {
        let mut command = self.command();
        command.args(["run", "--detach", "--name", "round", "--network", "bench"]);
        command.args(["--ip", &ADDRESS.to_string(), "--read-only", "--tmpfs", "/tmp"]);
        command.args(["--memory", "128m", "--pids-limit", "256", "--cpu-shares", "512", IMAGE]);
        let mut output: File = tempfile::tempfile()?;
        run_at_the_end(Command::new("ip").args(["neigh", "flush", "dev", BRIDGE]));
        let begun = now();
        let mut child = start(&mut command, &output)?;
        let took = first_answer(patience, begun, (ADDRESS, image::PORT), EAGER, &mut child);
        stop(&mut child, Duration::from_secs(10));
        run_at_the_end(self.command().args(["rm", "--force", "round"]));
        took.with_context(|| format!("docker run: {}", read(&mut output).unwrap_or_default().trim_end()))
    }
}

fn daemon(folder: &Path, group: &str) -> Command {
    let mut command = Command::new("dockerd");
    command
        .arg("--config-file")
        .arg(folder.join("daemon.json"))
        .arg("--data-root")
        .arg(folder.join("data"))
        .arg("--exec-root")
        .arg(folder.join("exec"))
        .arg("--pidfile")
        .arg(folder.join("pid"))
        .arg("--host")
        .arg(format!("unix://{}", folder.join("docker.sock").display()))
        .args(["--iptables=false", "--ip-forward=false", "--ip-masq=false", "--userland-proxy=false"])
        .args(["--bridge=none", "--cgroup-parent"])
        .arg(format!("/{group}"));
    command
}

impl Drop for Docker {
    fn drop(&mut self) {
        run_at_the_end(self.command().args(["rm", "--force", "round"]));
        stop(&mut self.daemon, Duration::from_secs(20));
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let ours = mounts.lines().rev().filter_map(|line| line.split(' ').nth(1));
        for mount in ours.filter(|mount| Path::new(mount).starts_with(&self.folder)) {
            rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH).unwrap_or_default();
        }
        remove_groups(&self.group);
    }
}
