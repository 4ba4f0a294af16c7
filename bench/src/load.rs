//! Constant load: so many requests a second whatever the answers take, over connections that stay open.
//!
//! Each request has its time, and its answer is measured from that time, not from when the connection
//! was free for it: who waits behind a slow answer counts as slow too. A connection that the other side
//! closed while nothing was asked is opened anew; one that breaks after a request was sent is a failure,
//! and nothing is sent twice.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};

use crate::{
    figures::ms,
    patience::{now, pause},
    wire::{Connection, get},
};

/// What is asked, and how often.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) address: SocketAddr,
    /// Asked in turn.
    pub(crate) hosts: Vec<String>,
    pub(crate) path: &'static str,
    /// Requests a second, all connections together.
    pub(crate) rate: u32,
    pub(crate) connections: u32,
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// When its turn was.
    pub(crate) due: Instant,
    /// When it was sent.
    pub(crate) sent: Instant,
    /// When its answer was whole, or it had failed.
    pub(crate) ended: Instant,
    /// The body of a good answer (who gave it), or what came instead.
    pub(crate) outcome: Result<String, String>,
}

impl Sample {
    /// Milliseconds from its turn to its end.
    pub(crate) fn took(&self) -> f64 {
        ms(self.ended - self.due)
    }
}

/// Load that is on.
#[derive(Debug)]
pub(crate) struct Load {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Sample>>>,
}

impl Load {
    /// Begins.
    pub(crate) fn start(plan: &Plan) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let begun = now() + Duration::from_millis(20);
        let thread = |lane| {
            let (plan, over) = (plan.clone(), Arc::clone(&over));
            std::thread::spawn(move || ask_in_turn(&plan, lane, begun, &over))
        };
        Self { threads: (0..plan.connections).map(thread).collect(), over }
    }

    /// Ends, and tells of every request by its time.
    pub(crate) fn finish(mut self) -> Result<Vec<Sample>> {
        self.over.store(true, Ordering::Relaxed);
        let mut samples = Vec::new();
        for thread in self.threads.drain(..) {
            samples.extend(thread.join().map_err(|_| anyhow!("a thread of the load ended early"))?);
        }
        samples.sort_by_key(|sample| sample.due);
        Ok(samples)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Every so-and-so-many-th of the requests, beginning with the `lane`-th.
fn ask_in_turn(plan: &Plan, lane: u32, begun: Instant, over: &AtomicBool) -> Vec<Sample> {
    let requests: Vec<_> = plan.hosts.iter().map(|host| get(host, plan.path)).collect();
    let every = Duration::from_secs(1) / plan.rate.max(1);
    let mut samples = Vec::new();
    let mut connection = None;
    let turns = (lane..u32::MAX).step_by(plan.connections.max(1) as usize);
    for (turn, request) in turns.zip(requests.iter().cycle().skip(lane as usize % requests.len().max(1))) {
        let due = begun + every * turn;
        while !over.load(Ordering::Relaxed) && now() < due {
            pause(due.saturating_duration_since(now()).min(Duration::from_millis(50)));
        }
        if over.load(Ordering::Relaxed) {
            break;
        }
        let sent = now();
        let outcome = ask(&mut connection, plan.address, request);
        samples.push(Sample { due, sent, ended: now(), outcome });
    }
    samples
}

fn ask(slot: &mut Option<Connection>, address: SocketAddr, request: &str) -> Result<String, String> {
    let mut connection = match slot.take().filter(Connection::stands) {
        Some(connection) => connection,
        None => Connection::open(address).map_err(|error| format!("connecting: {error}"))?,
    };
    let answer = connection.ask(request).map_err(|error| format!("asked: {error}"))?;
    if answer.status != 200 {
        return Err(format!("{} {}", answer.status, answer.body.trim_end()));
    }
    if answer.reusable {
        *slot = Some(connection);
    }
    Ok(answer.body)
}

/// Milliseconds of the good answers.
pub(crate) fn times<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Vec<f64> {
    samples.into_iter().filter(|sample| sample.outcome.is_ok()).map(Sample::took).collect()
}

/// What the failed requests got, each kind with its number.
pub(crate) fn failures<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Vec<String> {
    let failed = samples.into_iter().filter_map(|sample| sample.outcome.as_ref().err());
    failed.cloned().collect()
}
