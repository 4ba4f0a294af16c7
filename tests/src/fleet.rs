//! Many services of one app, and many clients at once.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails here")]

use std::{
    net::SocketAddr,
    sync::{Arc, Barrier},
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    http::{self, Answer},
    sample::now,
};

/// An app `fleet` of so many sample services, `s0`, `s1`, …, each alike: further lines of each, and its
/// scale.
#[must_use]
pub fn manifest(services: usize, further: &str, scale: &str) -> String {
    let one = |number| {
        format!(
            "[services.s{number}]\nimage = \"app/sample:1\"\nhosts = [\"{}\"]\n{further}\n\
             [services.s{number}.scale]\n{scale}\n",
            host(number)
        )
    };
    let services: String = (0..services).map(one).collect();
    format!("app = \"fleet\"\n{services}")
}

/// The host of one of them.
#[must_use]
pub fn host(number: usize) -> String {
    format!("s{number}.localhost")
}

/// What a client of a crowd got, and when.
#[derive(Debug)]
pub struct Got {
    /// Whom it asked.
    pub host: String,
    /// How long it took.
    pub took: Duration,
    /// When it had it.
    pub at: Instant,
    /// The answer, or why there is none.
    pub answer: Result<Answer, String>,
}

impl Got {
    /// The answer's status; 0: there is none.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.answer.as_ref().map_or(0, |answer| answer.status)
    }

    /// A header of the answer.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.answer.as_ref().ok()?.header(name)
    }
}

/// Asks everything at once, each by a client of its own with a connection of its own.
///
/// # Panics
/// When there can't be so many clients.
#[must_use]
pub fn crowd(address: SocketAddr, wanted: impl IntoIterator<Item = (String, String)>) -> Vec<Got> {
    let wanted: Vec<_> = wanted.into_iter().collect();
    room_for(wanted.len());
    let together = Arc::new(Barrier::new(wanted.len()));
    let client = |(host, path): (String, String)| {
        let together = Arc::clone(&together);
        let ask = move || {
            together.wait();
            let begun = now();
            let answer = http::get(address, &host, &path).map_err(|error| error.to_string());
            Got { host, took: begun.elapsed(), at: now(), answer }
        };
        std::thread::Builder::new().stack_size(256 << 10).spawn(ask).unwrap()
    };
    let clients: Vec<_> = wanted.into_iter().map(client).collect();
    clients.into_iter().map(|client| client.join().unwrap()).collect()
}

/// Descriptors for so many connections.
fn room_for(connections: usize) {
    let limit = getrlimit(Resource::Nofile);
    let needed = connections as u64 + 256;
    if limit.current.is_some_and(|current| current < needed) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(needed), ..limit }).unwrap();
    }
}

/// Those without an answer of the service itself, for a message.
#[must_use]
pub fn failed(all: &[Got]) -> Vec<String> {
    let failed = all.iter().filter(|got| got.status() != 200);
    failed.map(|got| format!("{} after {:?}: {:?}", got.host, got.took, got.answer)).take(5).collect()
}
