//! What the tests of the whole share: a real server on ports and in a data directory of its own, the
//! real command line, and requests as a client would send them.
//!
//! Everything that a test makes is gone after it, whether it passed or not.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails here")]

pub mod clients;
pub mod debian;
pub mod fleet;
pub mod http;
pub mod images;
pub mod kernel;
pub mod oci;
pub mod programs;
pub mod sample;
pub mod socket;
pub mod watch;
pub mod wire;

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// The longest that a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where data directories of tests are made: a disk, unless a test says otherwise to itself.
#[must_use]
pub fn disk() -> PathBuf {
    std::env::var_os("MINATO_TEST_DISK").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from)
}

/// The program under test: `$MINATO_BIN`, else the one that was built beside this test.
///
/// # Panics
/// When it isn't there.
#[must_use]
pub fn program() -> PathBuf {
    let path = std::env::var_os("MINATO_BIN").map_or_else(
        || {
            let test = std::env::current_exe().unwrap();
            test.ancestors().nth(2).unwrap().join("minato")
        },
        PathBuf::from,
    );
    assert!(path.is_file(), "{} isn't there: cargo build -p minato", path.display());
    path
}

/// Waits until something is the case. The last word of `look` is shown when it never is.
///
/// # Panics
/// After a minute.
#[expect(
    clippy::disallowed_methods,
    reason = "a test of processes waits in real time, for a state, with a bound"
)]
pub fn until<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let begun = std::time::Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) if begun.elapsed() > PATIENCE => {
                panic!("waited a minute for {what}; last seen: {seen}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Said {
    /// The exit status as a number; -1 for one that was killed.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// Expects that it worked.
    ///
    /// # Panics
    /// With all that it said, when it didn't.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.status.success(), "{}\n{}\n{}", self.status, self.stdout, self.stderr);
        self
    }

    /// Its output as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}

/// Runs a command to its end.
///
/// # Panics
/// When it can't be started.
pub fn run(command: &mut Command) -> Said {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    Said {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A free port on loopback, as far as that can be known: none of those that clients get for themselves.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let ports = std::iter::repeat_with(|| NEXT.fetch_add(1, Ordering::Relaxed)).take(10_000);
    // Tests that run beside this one in other processes begin elsewhere.
    let mut ports = ports.map(|next| 20_000 + (std::process::id() * 97 + next) % 12_000);
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.find_map(|port| u16::try_from(port).ok().filter(free)).unwrap()
}

/// A loopback address with such a port.
#[must_use]
pub fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

/// A server under test.
#[derive(Debug)]
pub struct Server {
    child: Option<Child>,
    /// Where API and registry listen.
    pub api: SocketAddr,
    /// Where the edge listens.
    pub http: SocketAddr,
    /// Where the edge listens for TLS.
    pub https: SocketAddr,
    data: TempDir,
}

impl Server {
    /// Starts one, with these further arguments.
    ///
    /// # Panics
    /// When it isn't ready within a minute.
    #[must_use]
    pub fn start_with(arguments: &[&str]) -> Self {
        let data = tempfile::Builder::new()
            .prefix("minato-test-")
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir_in(disk())
            .unwrap();
        let [api, http, https] = std::array::from_fn(|_| free_address());
        let mut server = Self { child: None, api, http, https, data };
        server.spawn(arguments);
        server
    }

    /// Starts one that takes pushes without a token.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&["--anonymous-push"])
    }

    /// Starts the server again, on the same data and ports.
    ///
    /// # Panics
    /// When it isn't ready within a minute.
    pub fn spawn(&mut self, arguments: &[&str]) {
        let line = self.launch(arguments, &[]);
        let said = || std::fs::read_to_string(self.log()).unwrap_or_default();
        assert!(line.starts_with("ready "), "the server isn't ready: {line}{}", said());
    }

    /// Starts the server again with further variables, which may end it before it is ready: says
    /// whether it came to be.
    #[must_use]
    pub fn spawn_armed(&mut self, variables: &[(&str, &str)]) -> bool {
        self.launch(&[], variables).starts_with("ready ")
    }

    /// Starts another server that takes over from it. The one before ends with its last connection.
    ///
    /// # Panics
    /// When the new one isn't ready within a minute.
    #[must_use]
    pub fn upgrade(&mut self, arguments: &[&str]) -> Child {
        let before = self.child.take();
        self.spawn(&[&["--upgrade"], arguments].concat());
        before.expect("the server runs")
    }

    /// Starts another server that is to take over, with further variables that may end it before it is
    /// ready: its process, and whether it came to be. The one before stays this server.
    #[must_use]
    pub fn try_upgrade(&mut self, variables: &[(&str, &str)]) -> (Child, bool) {
        let (child, line) = self.begin(&["--upgrade"], variables);
        (child, line.starts_with("ready "))
    }

    /// Makes another process of it the server under test; the one before is given back.
    #[must_use]
    pub fn succeed(&mut self, child: Child) -> Option<Child> {
        self.child.replace(child)
    }

    /// Starts the server, and reads the line that it says when it is ready.
    fn launch(&mut self, arguments: &[&str], variables: &[(&str, &str)]) -> String {
        let (child, line) = self.begin(arguments, variables);
        self.child = Some(child);
        line
    }

    fn begin(&self, arguments: &[&str], variables: &[(&str, &str)]) -> (Child, String) {
        let log = std::fs::OpenOptions::new().append(true).create(true).open(self.log()).unwrap();
        let mut child = Command::new(program())
            .args(["server", "--data"])
            .arg(self.data())
            .args(["--api", &self.api.to_string(), "--http", &self.http.to_string()])
            .args(["--https", &self.https.to_string()])
            .args(arguments)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        (child, line)
    }

    /// Waits until it has died of a signal by itself.
    ///
    /// # Panics
    /// When it doesn't, or ends in another way.
    #[track_caller]
    pub fn crashed(&mut self) {
        let mut child = self.child.take().expect("the server runs");
        let ended = until("the server to crash", || match child.try_wait().unwrap() {
            Some(status) => Ok(status),
            None => Err("it runs".to_owned()),
        });
        assert_eq!(ended.signal(), Some(9), "{ended}");
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> &Path {
        self.data.path()
    }

    /// Where its log goes.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.data().join("server.log")
    }

    /// The API's token.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn token(&self) -> String {
        std::fs::read_to_string(self.data().join("token")).unwrap().trim().to_owned()
    }

    /// Its process.
    ///
    /// # Panics
    /// When it doesn't run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// A command line that speaks to it.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(program());
        command
            .args(words)
            .env("MINATO_API", format!("http://{}", self.api))
            .env("MINATO_TOKEN", self.token())
            .env("NO_COLOR", "1");
        command
    }

    /// Runs a command line that speaks to it.
    pub fn minato(&self, words: &[&str]) -> Said {
        run(&mut self.command(words))
    }

    /// Writes a manifest beside the data.
    ///
    /// # Panics
    /// When it can't be written.
    pub fn manifest(&self, text: &str) -> PathBuf {
        let path = self.data().join("manifest.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Applies a manifest, and waits until it is stable.
    ///
    /// # Panics
    /// When it isn't taken.
    #[track_caller]
    pub fn apply(&self, text: &str) -> Said {
        let path = self.manifest(text);
        self.minato(&["apply", "--wait", path.to_str().unwrap()]).ok()
    }

    /// Packs something and pushes it.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn build(&self, source: &Path, tag: &str, further: &[&str]) -> Said {
        let source = source.to_str().unwrap();
        self.minato(&[&["build", source, "-t", tag], further].concat()).ok()
    }

    /// Asks the edge, as a client with this host name.
    ///
    /// # Panics
    /// When there is no answer at all.
    #[must_use]
    #[track_caller]
    pub fn ask(&self, host: &str, path: &str) -> http::Answer {
        http::get(self.http, host, path).unwrap()
    }

    /// The instances of a service, those that ended included.
    ///
    /// # Panics
    /// When the API doesn't tell.
    #[must_use]
    #[track_caller]
    pub fn instances(&self, service: &str) -> Vec<serde_json::Value> {
        let said = self.minato(&["ps", "--all", "--json", service]).ok();
        said.json()["instances"].as_array().unwrap().clone()
    }

    /// How many instances of a service are in a state.
    #[must_use]
    #[track_caller]
    pub fn count(&self, service: &str, state: &str) -> usize {
        self.instances(service).iter().filter(|instance| instance["state"] == state).count()
    }

    /// What `why` says of something.
    #[must_use]
    #[track_caller]
    pub fn why(&self, thing: &str) -> String {
        self.minato(&["why", thing]).ok().stdout
    }

    /// Kills it as a crash would.
    ///
    /// # Panics
    /// When it doesn't run.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Stops it in order.
    ///
    /// # Panics
    /// When it doesn't run.
    pub fn stop(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        child.wait().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // A second signal skips the drain: nobody waits for answers any more.
            for _ in 0..2 {
                kill_process(Pid::from_child(&child), Signal::TERM).unwrap_or_default();
            }
            drop(child.wait());
        }
        drop(run(Command::new(program()).args(["server", "--clean", "--data"]).arg(self.data())));
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.log()).unwrap_or_default();
            let tail: Vec<_> = log.lines().rev().take(40).collect();
            let tail: Vec<_> = tail.into_iter().rev().collect();
            // A test's output is shown when it fails.
            std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("server log:\n{}\n", tail.join("\n")).as_bytes(),
            )
            .unwrap_or_default();
        }
    }
}
