//! The sample service, packed as an image, and clients that load it.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails here")]

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::Server;

/// The program, which cargo builds with the tests.
///
/// # Panics
/// When it isn't there.
#[must_use]
pub fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join("sample");
    assert!(path.is_file(), "{} isn't there: cargo build -p minato-tests", path.display());
    path
}

/// A server whose registry has the sample service as `app/sample:1`.
#[must_use]
pub fn server() -> Server {
    let server = Server::start();
    push(&server);
    server
}

/// Pushes the sample service as `app/sample:1`.
#[track_caller]
pub fn push(server: &Server) {
    server.build(Path::new(&program()), "app/sample:1", &["--port", "8080"]);
}

/// An app of the sample service: its environment, and further lines of the service.
#[must_use]
pub fn manifest(version: &str, scale: &str, further: &str) -> String {
    format!(
        "app = \"app\"\n[services.web]\nimage = \"app/sample:1\"\nhosts = [\"app.localhost\"]\ninit = true\n\
         {further}\n[services.web.env]\nVERSION = \"{version}\"\n[services.web.scale]\n{scale}\n"
    )
}

/// What this machine's clock says; tests of processes have no other.
#[expect(clippy::disallowed_methods, reason = "processes run in real time")]
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// Does nothing for a time: what is loaded or measured over one.
#[expect(clippy::disallowed_methods, reason = "processes run in real time")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// A client that keeps its connection.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    connection: Option<BufReader<TcpStream>>,
}

impl Client {
    /// One that will connect when it asks.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self { address, connection: None }
    }

    /// Asks; status and body.
    ///
    /// # Errors
    /// When no whole answer comes.
    pub fn get(&mut self, host: &str, path: &str) -> io::Result<(u16, String)> {
        let mut reader = match self.connection.take() {
            Some(reader) => reader,
            None => {
                let stream = TcpStream::connect(self.address)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(Duration::from_secs(60)))?;
                BufReader::new(stream)
            }
        };
        reader.get_mut().write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())?;
        let broken = |what: &str| io::Error::new(io::ErrorKind::UnexpectedEof, what.to_owned());
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| broken("no status"))?;
        let (mut length, mut close) = (None, false);
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Err(broken("the head broke off"));
            }
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse().ok(),
                "connection" => close |= value.trim().eq_ignore_ascii_case("close"),
                _ => {}
            }
        }
        let mut body = vec![0; length.ok_or_else(|| broken("no length"))?];
        reader.read_exact(&mut body)?;
        if !close {
            self.connection = Some(reader);
        }
        Ok((status, String::from_utf8_lossy(&body).trim().to_owned()))
    }
}

/// What one request of a load came to.
#[derive(Debug, Clone)]
pub struct Shot {
    /// When it was sent.
    pub begun: Instant,
    /// When its answer was there.
    pub ended: Instant,
    /// The answer, or why there is none.
    pub answer: Result<String, String>,
}

/// Clients that ask one after the other until they are told to stop.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<Shot>>>,
}

impl Load {
    /// So many clients, each on a connection of its own that it keeps.
    #[must_use]
    pub fn start(server: &Server, clients: usize, host: &str, path: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let (stop, address) = (Arc::clone(&stop), server.http);
            let (host, path) = (host.to_owned(), path.to_owned());
            std::thread::spawn(move || {
                let (mut client, mut shots) = (Client::new(address), Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    let begun = now();
                    let answer = match client.get(&host, &path) {
                        Ok((200, body)) => Ok(body),
                        Ok((status, body)) => Err(format!("{status}: {body}")),
                        Err(error) => Err(error.to_string()),
                    };
                    if answer.is_err() {
                        // Where nobody listens it fails at once, and would do nothing else.
                        pause(Duration::from_millis(5));
                    }
                    shots.push(Shot { begun, ended: now(), answer });
                }
                shots
            })
        };
        let clients = (0..clients).map(client).collect();
        Self { stop, clients }
    }

    /// Ends it; all that was asked, in order of the answers.
    ///
    /// # Panics
    /// When a client does.
    #[must_use]
    pub fn end(self) -> Vec<Shot> {
        self.stop.store(true, Ordering::Relaxed);
        let mut shots: Vec<Shot> =
            self.clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        shots.sort_by_key(|shot| shot.ended);
        shots
    }
}

/// Those without a good answer.
#[must_use]
pub fn failed(shots: &[Shot]) -> Vec<&Shot> {
    shots.iter().filter(|shot| shot.answer.is_err()).collect()
}
