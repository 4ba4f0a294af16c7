//! The demo's cluster: a server of its own, in a data directory and at ports of its own.

use std::{
    net::SocketAddr, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Stdio, time::Duration,
};

use anyhow::{Context as _, anyhow};
use minato_model::inventory::Instance;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::Instant,
};

use super::say;
use crate::{client::Client, failure::Failure};

/// How long the server may take to be ready, and to stop.
const PATIENCE: Duration = Duration::from_secs(30);
/// The public name of the storefront.
pub(super) const HOST: &str = "shop.localhost";

/// The way to a running server.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) client: Client,
    pub(super) edge: SocketAddr,
}

/// The server itself.
#[derive(Debug)]
pub(super) struct Server {
    process: Child,
    data: TempDir,
}

impl Server {
    /// Starts a server, at the usual ports if they are free.
    pub(super) async fn start() -> Result<(Self, Cluster), Failure> {
        let data = tempfile::Builder::new()
            .prefix("minato-demo-")
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir_in(folder())
            .context("no data directory")?;
        let api = free_port(7070)?;
        let http = free_port(8080)?;
        let https = free_port(8443)?;
        let begun = Instant::now();
        let log = std::fs::File::create(data.path().join("server.log")).context("no log of the server")?;
        let program = std::env::current_exe().context("can't find this program")?;
        let mut process = Command::new(program)
            .arg("server")
            .arg("--data")
            .arg(data.path())
            .args(["--api", &api.to_string(), "--http", &http.to_string()])
            .args(["--https", &https.to_string(), "--anonymous-push"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            // A terminal's Ctrl-C is for the demo, which stops the server in order.
            .process_group(0)
            .spawn()
            .context("can't start the server")?;
        let stdout = process.stdout.take().context("the server has no stdout")?;
        let mut lines = BufReader::new(stdout).lines();
        let ready = tokio::time::timeout(PATIENCE, lines.next_line()).await;
        if !matches!(&ready, Ok(Ok(Some(line))) if line.starts_with("ready ")) {
            let said = std::fs::read_to_string(data.path().join("server.log")).unwrap_or_default();
            return Err(Failure::Failed(anyhow!("the server didn't start:\n{}", said.trim())));
        }
        let token = std::fs::read_to_string(data.path().join("token")).context("the server left no token")?;
        let ms = begun.elapsed().as_millis();
        say(&format!(
            "The server is ready after {ms} ms: API and registry at {api}, edge at {http} (TLS {https})."
        ));
        for (usual, address) in [(7070, api), (8080, http), (8443, https)] {
            if address.port() != usual {
                say(&format!("(port {usual} is taken on this machine, so this one uses {})", address.port()));
            }
        }
        let client = Client::to(api, token.trim().to_owned());
        Ok((Self { process, data }, Cluster { client, edge: http }))
    }

    /// Resolves when the server ends by itself, which it should not.
    pub(super) async fn ended(&mut self) -> Failure {
        let status = self.process.wait().await;
        let said = std::fs::read_to_string(self.data.path().join("server.log")).unwrap_or_default();
        Failure::Failed(anyhow!("the server ended ({status:?}):\n{}", said.trim()))
    }

    /// Stops the server in order, and takes its data away.
    pub(super) async fn stop(mut self) -> Result<(), Failure> {
        if let Some(pid) = self.process.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()))
        {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)
                .context("can't stop the server")?;
        }
        let status = tokio::time::timeout(PATIENCE, self.process.wait()).await;
        if matches!(status, Ok(Ok(status)) if status.success()) {
            self.data.close().context("the data directory could not be taken away")?;
            return Ok(());
        }
        let kept = self.data.keep();
        let path = kept.display();
        Err(Failure::Failed(anyhow!(
            "the server didn't stop as it should; what it said is in {path}/server.log, and `minato server --data \
             {path} --clean` gives back what it left"
        )))
    }
}

impl Cluster {
    /// Where a browser finds the storefront.
    pub(super) fn url(&self) -> String {
        format!("http://{HOST}:{}/", self.edge.port())
    }

    /// A command line that speaks to this cluster.
    pub(super) fn command(&self, words: &str) -> String {
        let program =
            std::env::current_exe().map_or_else(|_| "minato".to_owned(), |path| path.display().to_string());
        if self.client.address.port() == 7070 {
            format!("{program} {words}")
        } else {
            format!("MINATO_API=http://{} {program} {words}", self.client.address)
        }
    }

    /// The instances of the storefront that there are.
    pub(super) async fn instances(&self) -> Result<Vec<Instance>, Failure> {
        #[derive(serde::Deserialize)]
        struct Answer {
            instances: Vec<Instance>,
        }
        let answer: Answer = self.client.get("/api/v1/instances?app=market&service=storefront").await?;
        Ok(answer.instances)
    }
}

/// A folder on a disk where there is one: root file systems are mapped, which not every memory file
/// system can do.
fn folder() -> PathBuf {
    let disk = PathBuf::from("/var/tmp");
    if disk.is_dir() { disk } else { std::env::temp_dir() }
}

/// The usual port if it is free, else the next one that is.
fn free_port(usual: u16) -> Result<SocketAddr, Failure> {
    (usual..usual + 100)
        .map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
        .find(|address| std::net::TcpListener::bind(address).is_ok())
        .ok_or_else(|| Failure::Failed(anyhow!("none of the ports {usual} to {} is free", usual + 99)))
}
