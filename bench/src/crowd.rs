//! Many clients that ask at the same moment: their connections stand before, and one thread writes all
//! requests and reads all answers, so that the clients cost little of the processors that are measured.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

use crate::{
    figures::ms,
    patience::{Patience, now},
    wire::{self, Answer},
};

/// How long all answers together may take.
const ALL_MAX: Duration = Duration::from_secs(60);

/// What the crowd got.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// Milliseconds from the first request to the end of each good answer.
    pub(crate) times: Vec<f64>,
    /// Of those: how many waited for a start.
    pub(crate) cold: usize,
    /// What else came, one for each.
    pub(crate) failed: Vec<String>,
}

impl Answers {
    /// The last good answer.
    pub(crate) fn last(&self) -> f64 {
        self.times.iter().copied().fold(0.0, f64::max)
    }

    /// Adds those of another round.
    pub(crate) fn extend(&mut self, other: Self) {
        self.times.extend(other.times);
        self.cold += other.cold;
        self.failed.extend(other.failed);
    }

    fn take(&mut self, took: Duration, outcome: Result<Answer, String>) {
        match outcome {
            Ok(answer) if answer.status == 200 => {
                self.times.push(ms(took));
                self.cold += usize::from(!wire::phases(&answer.head).is_empty());
            }
            Ok(answer) => self.failed.push(format!("{} {}", answer.status, answer.body.trim_end())),
            Err(why) => self.failed.push(why),
        }
    }
}

#[derive(Debug)]
struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

/// Sends all these requests at once, a connection for each, and waits for every answer.
pub(crate) fn ask(patience: &Patience, address: SocketAddr, requests: &[String]) -> Result<Answers> {
    allow_files();
    let open = |_| -> Result<Client> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Client { stream, received: Vec::new() })
    };
    let clients: Result<Vec<Client>> = requests.iter().map(open).collect();
    let mut clients = clients.context("a client of the crowd can't connect")?;
    patience.rest(Duration::from_millis(100))?;
    let begun = now();
    for (client, request) in clients.iter_mut().zip(requests) {
        client.stream.write_all(request.as_bytes()).context("a client of the crowd can't ask")?;
    }
    let mut answers = Answers::default();
    while !clients.is_empty() {
        patience.check()?;
        if begun.elapsed() > ALL_MAX {
            answers.failed.extend(clients.iter().map(|_| "no answer".to_owned()));
            break;
        }
        clients = listen(clients, begun, &mut answers)?;
    }
    Ok(answers)
}

/// Waits until some have something, reads it, and returns who still waits.
fn listen(clients: Vec<Client>, begun: Instant, answers: &mut Answers) -> Result<Vec<Client>> {
    let mut waits: Vec<_> = clients.iter().map(|client| PollFd::new(&client.stream, PollFlags::IN)).collect();
    let bound = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    poll(&mut waits, Some(&bound))?;
    let ready: Vec<_> = waits.iter().map(|wait| !wait.revents().is_empty()).collect();
    let mut left = Vec::with_capacity(clients.len());
    for (mut client, ready) in clients.into_iter().zip(ready) {
        match ready.then(|| client.read()).flatten() {
            Some(outcome) => answers.take(begun.elapsed(), outcome),
            None => left.push(client),
        }
    }
    Ok(left)
}

impl Client {
    /// Reads what is there; the outcome, once there is one.
    fn read(&mut self) -> Option<Result<Answer, String>> {
        let mut chunk = [0; 4096];
        let ended = match self.stream.read(&mut chunk) {
            Ok(count) => {
                self.received.extend_from_slice(chunk.get(..count)?);
                count == 0
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(error) => return Some(Err(error.to_string())),
        };
        wire::answer(&self.received, ended).map_err(|error| error.to_string()).transpose()
    }
}

/// A crowd has more connections than a shell allows files.
fn allow_files() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .unwrap_or_default();
}
