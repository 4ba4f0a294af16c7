//! A server of Minato, with a data directory and ports of its own, asked as any client would.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;

use crate::{
    image,
    patience::{Patience, STEP, now},
    processes::{read, run, run_at_the_end, start, stop},
};

/// A server that runs.
#[derive(Debug)]
pub(crate) struct Server {
    program: PathBuf,
    child: Child,
    data: PathBuf,
    api: SocketAddr,
    http: SocketAddr,
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

impl Server {
    /// Starts one, and waits until it is ready.
    pub(crate) fn start(patience: &Patience, program: &Path, below: &Path) -> Result<Self> {
        let data = below.join("data");
        let (api, http) = free_ports()?;
        let mut output = tempfile::tempfile()?;
        let mut command = Command::new(program);
        command.args(["server", "--anonymous-push", "--data"]).arg(&data);
        command.args(["--api", &api.to_string(), "--http", &http.to_string()]);
        let child = start(&mut command, &output)?;
        let mut server = Self { program: program.to_owned(), child, data, api, http, token: String::new() };
        let ready =
            patience.until("the server to be ready", Duration::from_secs(30), || server.ready(&mut output));
        ready.with_context(|| read(&mut output).unwrap_or_default())?;
        std::fs::read_to_string(server.data.join("token"))?.trim().clone_into(&mut server.token);
        Ok(server)
    }

    fn ready(&mut self, output: &mut File) -> Result<Option<()>> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the server ended: {status}");
        }
        Ok(read(output)?.lines().any(|line| line.starts_with("ready ")).then_some(()))
    }

    /// Packs and pushes the image as `bench/ok:1`, and applies a manifest.
    pub(crate) fn apply(&self, patience: &Patience, root: &Path, manifest: &str) -> Result<()> {
        let entry = format!("[\"{}\"]", image::PROGRAM);
        run(
            patience,
            self.command().arg("build").arg(root).args([
                "-t",
                "bench/ok:1",
                "--port",
                &image::PORT.to_string(),
                "--entrypoint",
                &entry,
            ]),
        )?;
        let file = self.data.join("bench.toml");
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

    /// Waits until the API tells of no instance that runs.
    pub(crate) fn at_zero(&self, patience: &Patience) -> Result<()> {
        patience.until("the services to be at zero", STEP, || {
            let list = self.api("/api/v1/instances?all=false")?;
            let count = list["instances"].as_array().map_or(usize::MAX, Vec::len);
            Ok((count == 0).then_some(()))
        })
    }

    fn api(&self, path: &str) -> Result<Value> {
        let mut stream = TcpStream::connect_timeout(&self.api, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let (host, token) = (self.api, &self.token);
        stream.write_all(
            format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n")
                .as_bytes(),
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("the API gave no answer")?;
        if !head.starts_with("HTTP/1.1 200") {
            bail!("the API refused {path}: {answer}");
        }
        serde_json::from_str(body).with_context(|| format!("the API's answer to {path}"))
    }

    /// One request through the edge, from the connection to the first byte of its answer.
    pub(crate) fn ask(&self, host: &str) -> Result<First> {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let mut answer = vec![0];
        let begun = now();
        let mut stream = TcpStream::connect(self.http)?;
        stream.set_read_timeout(Some(Duration::from_secs(35)))?;
        stream.write_all(request.as_bytes())?;
        stream.read_exact(&mut answer)?;
        let took = begun.elapsed();
        stream.read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer);
        if !answer.starts_with("HTTP/1.1 200") {
            bail!("the edge answered {host} with {answer}");
        }
        Ok(First { took, phases: phases(&answer) })
    }
}

/// Two ports of loopback that are free, as far as that can be known.
fn free_ports() -> Result<(SocketAddr, SocketAddr)> {
    // Both are held until both are known, so that they differ.
    let held = (TcpListener::bind(("127.0.0.1", 0))?, TcpListener::bind(("127.0.0.1", 0))?);
    Ok((held.0.local_addr()?, held.1.local_addr()?))
}

/// The phases of `Server-Timing`, as in `name;dur=1.5, other;dur=2`.
fn phases(head: &str) -> Vec<(String, f64)> {
    let line = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("server-timing").then_some(value)
    });
    let phase = |text: &str| {
        let (name, time) = text.trim().split_once(";dur=")?;
        Some((name.to_owned(), time.parse().ok()?))
    };
    line.map(|line| line.split(',').filter_map(phase).collect()).unwrap_or_default()
}

impl Drop for Server {
    fn drop(&mut self) {
        // It drains, stops everything and gives it back; what a crash left is taken away by hand.
        stop(&mut self.child, Duration::from_secs(20));
        run_at_the_end(Command::new(&self.program).args(["server", "--clean", "--data"]).arg(&self.data));
    }
}

#[cfg(test)]
mod tests {
    use super::phases;

    #[test]
    fn phases_are_read() {
        let head = "HTTP/1.1 200 OK\r\nserver-timing: start;dur=4.5, taken;dur=1\r\n\r\nok";
        assert_eq!(phases(head), [("start".to_owned(), 4.5), ("taken".to_owned(), 1.0)]);
        assert_eq!(phases("HTTP/1.1 200 OK\r\n\r\n"), []);
    }
}
