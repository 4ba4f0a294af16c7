//! A server of Minato, with a data directory and ports of its own, asked as any client would.

use std::{
    fmt::Write as _,
    fs::File,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    image::{self, Program},
    kernel::{Counts, megabytes, resident},
    machine,
    patience::{Patience, STEP, now},
    processes::{expect_root, read, run, run_at_the_end, start, stop},
    wire::{self, Connection, get},
};

/// A server that runs.
#[derive(Debug)]
pub(crate) struct Server {
    program: PathBuf,
    child: Child,
    output: File,
    data: PathBuf,
    config: PathBuf,
    api: SocketAddr,
    http: SocketAddr,
    https: SocketAddr,
    token: String,
}

/// A first answer.
#[derive(Debug)]
pub(crate) struct First {
    /// From before the connection to the answer's first byte.
    pub(crate) took: Duration,
    /// The phases that it names, in milliseconds; none where nothing had to start.
    pub(crate) phases: Vec<(String, f64)>,
}

/// A server of its own with the image of a program, in a folder that outlives it.
pub(crate) fn served(patience: &Patience, image: Program) -> Result<(tempfile::TempDir, Server)> {
    expect_root()?;
    let program = program()?;
    let folder = image::workshop()?;
    println!("{}\n", machine::line());
    let server = Server::start(patience, &program, folder.path(), "")?;
    server.push(patience, folder.path(), image)?;
    Ok((folder, server))
}

/// The program that is measured: `$MINATO_BIN`, else the release build of these sources, brought up to
/// date.
pub(crate) fn program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("MINATO_BIN") {
        let path = PathBuf::from(path);
        return if path.is_file() { Ok(path) } else { bail!("MINATO_BIN names no file: {}", path.display()) };
    }
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--locked", "--package", "minato", "--manifest-path"])
        .arg(workspace().join("Cargo.toml"))
        .status()
        .context("cargo can't be run")?;
    if !status.success() {
        bail!("the release build failed: {status}");
    }
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    Ok(target.join("release/minato"))
}

/// The folder of the sources.
pub(crate) fn workspace() -> &'static Path {
    let bench = Path::new(env!("CARGO_MANIFEST_DIR"));
    bench.parent().unwrap_or(bench)
}

/// A manifest of the app `bench` with so many services of one kind, `s0` and on, each with the same
/// keys besides.
pub(crate) fn services(program: Program, count: usize, keys: &str) -> String {
    let mut text = String::from("app = \"bench\"\n");
    for number in 0..count {
        let (image, host) = (program.image(), host(number));
        // Writing to a String never fails.
        write!(text, "[services.s{number}]\nimage = \"{image}\"\nhosts = [\"{host}\"]\n{keys}\n")
            .unwrap_or_default();
    }
    text
}

/// The host of a service of [`services`].
pub(crate) fn host(number: usize) -> String {
    format!("s{number}.localhost")
}

impl Server {
    /// Starts one with a data directory below and these settings, and waits until it is ready.
    pub(crate) fn start(patience: &Patience, program: &Path, below: &Path, settings: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("server-").tempdir_in(below)?.keep();
        let (data, config) = (folder.join("data"), folder.join("server.toml"));
        std::fs::write(&config, settings)?;
        let ports = free_ports()?;
        let output = tempfile::tempfile()?;
        let child = start(&mut command(program, &data, &config, ports), &output)?;
        let token = String::new();
        let program = program.to_owned();
        let [api, http, https] = ports;
        let mut server = Self { program, child, output, data, config, api, http, https, token };
        server.wait_until_ready(patience)?;
        std::fs::read_to_string(server.data.join("token"))?.trim().clone_into(&mut server.token);
        Ok(server)
    }

    /// Waits until it says that it is ready.
    pub(crate) fn wait_until_ready(&mut self, patience: &Patience) -> Result<()> {
        let ready = patience.until("the server to be ready", Duration::from_secs(30), || {
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended: {status}");
            }
            Ok(read(&mut self.output)?.lines().any(|line| line.starts_with("ready ")).then_some(()))
        });
        ready.with_context(|| read(&mut self.output).unwrap_or_default())
    }

    /// Kills it as a crash would; what it ran runs on.
    pub(crate) fn kill(&mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::KILL)?;
        self.child.wait()?;
        Ok(())
    }

    fn ports(&self) -> [SocketAddr; 3] {
        [self.api, self.http, self.https]
    }

    /// Starts the next one in the killed one's place, and says when.
    pub(crate) fn start_again(&mut self) -> Result<Instant> {
        self.output = tempfile::tempfile()?;
        let mut command = command(&self.program, &self.data, &self.config, self.ports());
        let begun = now();
        self.child = start(&mut command, &self.output)?;
        Ok(begun)
    }

    /// Lets a new process of the same program take over, and waits until it is ready and the old one
    /// has ended by itself.
    pub(crate) fn upgrade(&mut self, patience: &Patience) -> Result<()> {
        let output = tempfile::tempfile()?;
        let mut command = command(&self.program, &self.data, &self.config, self.ports());
        let child = start(command.arg("--upgrade"), &output)?;
        let mut old = std::mem::replace(&mut self.child, child);
        let mut said = std::mem::replace(&mut self.output, output);
        let ready = self.wait_until_ready(patience);
        let ended = patience.until("the old server's end", STEP, || Ok(old.try_wait()?));
        if ready.is_err() || ended.is_err() {
            stop(&mut old, Duration::from_secs(20));
        }
        let done = ready.and_then(|()| ended.map(drop));
        done.with_context(|| read(&mut said).unwrap_or_default())
    }

    /// Packs a program's root and pushes it as its image.
    pub(crate) fn push(&self, patience: &Patience, below: &Path, program: Program) -> Result<()> {
        let root = image::make(patience, below, program)?;
        let (image, entry) = (program.image(), program.entry());
        let port = image::PORT.to_string();
        let words = ["-t", &image, "--port", &port, "--entrypoint", &entry];
        run(patience, self.command().arg("build").arg(root).args(words))?;
        Ok(())
    }

    /// Applies a manifest, and waits until its releases are stable.
    pub(crate) fn apply(&self, patience: &Patience, manifest: &str) -> Result<()> {
        let file = self.data.with_file_name("bench.toml");
        std::fs::write(&file, manifest)?;
        run(patience, self.command().args(["apply", "--wait"]).arg(&file))?;
        Ok(())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("MINATO_API", format!("http://{}", self.api))
            .env("MINATO_TOKEN", &self.token)
            .env("NO_COLOR", "1");
        command
    }

    /// Where the edge listens.
    pub(crate) fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where it listens for TLS.
    pub(crate) fn https(&self) -> SocketAddr {
        self.https
    }

    /// Its data directory.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// Where its manifest is, and what that names.
    pub(crate) fn folder(&self) -> PathBuf {
        self.data.with_file_name("")
    }

    /// The roots of its cluster.
    pub(crate) fn roots(&self, patience: &Patience) -> Result<String> {
        run(patience, self.command().args(["ca", "export"]))
    }

    /// The server's process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The keeper's process.
    pub(crate) fn keeper(&self) -> Result<u32> {
        let data = self.data.to_string_lossy();
        let of = |pid: u32| {
            let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = words.split('\0').skip(1);
            words.next() == Some("keeper") && words.next() == Some(&data)
        };
        let processes = std::fs::read_dir("/proc")?.flatten();
        let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.find(|&pid| of(pid)).ok_or_else(|| anyhow!("no keeper is running"))
    }

    /// What it has in the kernel.
    pub(crate) fn objects(&self, patience: &Patience) -> Result<Counts> {
        Counts::of(patience, &self.data, &[self.pid(), self.keeper()?])
    }

    /// Megabytes that the server and its keeper have in memory.
    pub(crate) fn resident(&self) -> Result<f64> {
        Ok(megabytes(resident(self.pid())? + resident(self.keeper()?)?))
    }

    /// Its instances that aren't gone.
    pub(crate) fn instances(&self) -> Result<Vec<Value>> {
        let list = self.api("/api/v1/instances?all=false")?;
        list["instances"].as_array().cloned().context("the API gave no instances")
    }

    /// Waits until the API tells of no instance that runs.
    pub(crate) fn at_zero(&self, patience: &Patience) -> Result<()> {
        patience.until("the services to be at zero", STEP, || Ok(self.instances()?.is_empty().then_some(())))
    }

    /// Waits until so many instances are ready and no other runs, and returns them.
    pub(crate) fn ready(&self, patience: &Patience, count: usize) -> Result<Vec<Value>> {
        patience.until(&format!("{count} instances to be ready"), 2 * STEP, || {
            let instances = self.instances()?;
            let whole = instances.len() == count && instances.iter().all(|one| one["state"] == "ready");
            Ok(whole.then_some(instances))
        })
    }

    /// The last events of a kind, oldest first.
    pub(crate) fn events(&self, kind: &str) -> Result<Vec<Value>> {
        let text = self.call("/api/v1/events?limit=10000")?;
        let events: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
        let events = events.context("the API's events")?;
        Ok(events.into_iter().filter(|event| event["kind"] == kind).collect())
    }

    /// A sample of the metrics, by its name with labels; `None`: there is none such.
    pub(crate) fn metric(&self, name: &str) -> Result<Option<f64>> {
        let text = self.call("/metrics")?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.map(str::parse).transpose()?)
    }

    /// How many starts have succeeded.
    pub(crate) fn starts(&self) -> Result<f64> {
        let name = "minato_instance_start_seconds_count{phase=\"listening\"}";
        self.metric(name)?.context("the metrics don't count starts")
    }

    /// Waits until as many sandboxes are parked as the server means to have.
    pub(crate) fn pool_filled(&self, patience: &Patience) -> Result<()> {
        let of = |state: &str| self.metric(&format!("minato_sandbox_pool{{state=\"{state}\"}}"));
        patience.until("the pool to be filled", STEP, || {
            Ok((of("ready")?.unwrap_or_default() >= of("target")?.unwrap_or_default()).then_some(()))
        })
    }

    fn api(&self, path: &str) -> Result<Value> {
        serde_json::from_str(&self.call(path)?).with_context(|| format!("the API's answer to {path}"))
    }

    /// Applies a manifest by the API itself, and says when that answered.
    pub(crate) fn applied(&self, manifest: &str) -> Result<Instant> {
        let body = serde_json::json!({ "files": [{ "name": "bench.toml", "text": manifest }] }).to_string();
        let more = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        self.asked("POST", "/api/v1/apply", &more, &body)?;
        Ok(now())
    }

    fn call(&self, path: &str) -> Result<String> {
        self.asked("GET", path, "", "")
    }

    fn asked(&self, method: &str, path: &str, more: &str, body: &str) -> Result<String> {
        let mut stream = TcpStream::connect_timeout(&self.api, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let (host, token) = (self.api, &self.token);
        // HTTP/1.0: the answer isn't cut into chunks.
        stream.write_all(
            format!("{method} {path} HTTP/1.0\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n{more}\r\n{body}")
                .as_bytes(),
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("the API gave no answer")?;
        if head.split(' ').nth(1) != Some("200") {
            bail!("the API refused {path}: {answer}");
        }
        Ok(body.to_owned())
    }

    /// One request through the edge, from the connection to the first byte of its answer.
    pub(crate) fn ask(&self, host: &str, path: &str) -> Result<First> {
        let request = get(host, path);
        let begun = now();
        let mut connection = Connection::open(self.http)?;
        let answer = connection.ask(&request)?;
        let first = connection.first.context("an answer without a first byte")?;
        if answer.status != 200 {
            bail!("the edge answered {host} with {} {}", answer.status, answer.body);
        }
        Ok(First { took: first - begun, phases: wire::phases(&answer.head) })
    }
}

fn command(program: &Path, data: &Path, config: &Path, ports: [SocketAddr; 3]) -> Command {
    let mut command = Command::new(program);
    command.args(["server", "--anonymous-push", "--data"]).arg(data).arg("--config").arg(config);
    for (flag, port) in ["--api", "--http", "--https"].iter().zip(ports) {
        command.arg(flag).arg(port.to_string());
    }
    command
}

/// Ports of loopback that are free, as far as that can be known.
fn free_ports() -> Result<[SocketAddr; 3]> {
    // All are held until all are known, so that they differ.
    let bind = || TcpListener::bind(("127.0.0.1", 0));
    let held = [bind()?, bind()?, bind()?];
    let [api, http, https] = held.each_ref().map(TcpListener::local_addr);
    Ok([api?, http?, https?])
}

impl Drop for Server {
    fn drop(&mut self) {
        // It drains, stops everything and gives it back; what a crash left is taken away by hand.
        stop(&mut self.child, Duration::from_secs(40));
        run_at_the_end(Command::new(&self.program).args(["server", "--clean", "--data"]).arg(&self.data));
    }
}
