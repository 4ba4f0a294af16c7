//! Starts and stops without a pause: callers ask one service at zero after the other, each stops when it
//! was idle for a moment, and is asked again when its turn comes. Then: what is left of them.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Result, anyhow};
use clap::Args;

use crate::{
    figures::{count, kinds, median, ms, number, table, times},
    image::Program,
    minato::{self, Server, host},
    patience::{Patience, now},
    promises::Promises,
};

/// From here on nothing may grow: what is allocated once was.
const WARM: usize = 1_000;
/// How long what has ended may take to be gone.
const AFTER: Duration = Duration::from_secs(5);
/// Up to here it is promised that memory doesn't grow.
const LAST: usize = 5_000;
/// So many starts are one figure of memory.
const SPAN: usize = 500;
/// Between two looks at the memory.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Seconds
    #[arg(long, default_value_t = 40)]
    seconds: u64,
    /// Callers, each with one request at a time
    #[arg(long, default_value_t = 2)]
    callers: usize,
    /// Services that are asked in turn: so many that each has stopped before its next turn
    #[arg(long, default_value_t = 600)]
    services: usize,
    /// Starts before anything is measured
    #[arg(long, default_value_t = WARM)]
    warm: usize,
}

impl Arguments {
    pub(crate) fn of(self, quick: bool) -> Self {
        if quick { Self { seconds: 3, services: 150, warm: 100, ..self } } else { self }
    }
}

/// What callers got.
#[derive(Debug, Default)]
struct Calls {
    /// Milliseconds to the first byte of answers for which an instance started.
    cold: Vec<f64>,
    /// Answers of instances that still ran.
    warm: usize,
    failed: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments, patience: &Patience) -> Result<Promises> {
    let (_folder, server) = minato::served(patience, Program::Ok)?;
    let manifest = minato::services(Program::Ok, arguments.services, "scale = { idle = \"100ms\" }");
    server.apply(patience, &manifest)?;
    let turns = AtomicUsize::new(0);
    let caller = Callers { patience, server: &server, turns: &turns, arguments };
    caller.call(|starts, _| starts >= arguments.warm)?;
    rest(patience, &server)?;
    let (objects, memory) = (server.objects(patience)?, server.resident()?);
    let before = server.starts()?;
    let begun = now();
    let (calls, looks) = watched(patience, &server, &turns, || {
        caller.call(|_, time| time >= Duration::from_secs(arguments.seconds))
    })?;
    let took = begun.elapsed();
    let running = server.instances()?.len();
    server.at_zero(patience)?;
    let stopped = begun.elapsed();
    let starts = server.starts()? - before;
    rest(patience, &server)?;
    let left = objects.growth(&server.objects(patience)?);
    let after = server.resident()?;
    let end = looks.last().map_or(0, |(starts, _)| *starts).min(LAST);
    let (first, last) = (memory_at(&looks, arguments.warm), memory_at(&looks, end.saturating_sub(SPAN)));
    println!(
        "{} callers, {} services in turn, {:.1} s; {running} still ran at the end, the last stopped {:.1} s later",
        arguments.callers,
        arguments.services,
        took.as_secs_f64(),
        (stopped - took).as_secs_f64()
    );
    println!("instances started: {starts:.0}; answers of instances that still ran: {}\n", calls.warm);
    let head = ["request to first byte, ms", "starts", "p50", "p90", "p99", "max"];
    println!("{}", table(&head, &[times("a start", &calls.cold)]));
    let head = format!("{} s after the last stop", AFTER.as_secs());
    let rows: Vec<_> = left
        .iter()
        .map(|(kind, before, after)| vec![(*kind).to_owned(), before.to_string(), after.to_string()])
        .collect();
    println!("{}", table(&[&head, &format!("after {} starts", arguments.warm), "at the end"], &rows));
    println!(
        "server and keeper resident, MB: {} at rest before and {} after; meanwhile, medians of {SPAN} starts, {} \
         after start {} and {} before start {end}\n",
        number(memory),
        number(after),
        number(first),
        arguments.warm,
        number(last)
    );
    print!("{}", kinds(&calls.failed));
    let mut promises = Promises::default();
    let rate = count(calls.cold.len()) / took.as_secs_f64();
    promises.at_least("P3b starts and stops a second", rate, 100.0, 200.0);
    promises.at_most("P3b failed", count(calls.failed.len()), 0.0, None);
    let surplus: usize = left.iter().map(|(_, before, after)| after.saturating_sub(*before)).sum();
    promises.at_most("P4 objects left", count(surplus), 0.0, None);
    promises.at_most("P4 more memory, MB", last - first, 2.0, None);
    Ok(promises)
}

/// Looks at the memory while something goes on: one look alone is a matter of what was freed just then.
fn watched<T: Send>(
    patience: &Patience,
    server: &Server,
    turns: &AtomicUsize,
    something: impl FnOnce() -> Result<T> + Send,
) -> Result<(T, Vec<(usize, f64)>)> {
    std::thread::scope(|scope| {
        let going = scope.spawn(something);
        let mut looks = Vec::new();
        while !going.is_finished() {
            looks.push((turns.load(Ordering::Relaxed), server.resident()?));
            patience.rest(LOOK)?;
        }
        let result = going.join().map_err(|_| anyhow!("a caller panicked"))??;
        Ok((result, looks))
    })
}

/// The median of the looks from one start to [`SPAN`] later.
fn memory_at(looks: &[(usize, f64)], from: usize) -> f64 {
    let within = looks.iter().filter(|(starts, _)| (from..from + SPAN).contains(starts));
    median(&within.map(|(_, memory)| *memory).collect::<Vec<_>>())
}

/// Until the node is as it is at rest: nothing runs, the pool is as full as it is meant to be.
fn rest(patience: &Patience, server: &Server) -> Result<()> {
    server.at_zero(patience)?;
    server.pool_filled(patience)?;
    patience.rest(AFTER)
}

/// Who asks.
struct Callers<'a> {
    patience: &'a Patience,
    server: &'a Server,
    /// Requests so far, over all calls: the next service's turn.
    turns: &'a AtomicUsize,
    arguments: &'a Arguments,
}

impl Callers<'_> {
    /// All callers ask until it is enough, by the number of starts and the time.
    fn call(&self, enough: impl Fn(usize, Duration) -> bool + Sync) -> Result<Calls> {
        let (starts, over, begun) = (AtomicUsize::new(0), AtomicBool::new(false), now());
        let one = || -> Result<Calls> {
            let mut calls = Calls::default();
            while !over.load(Ordering::Relaxed) {
                self.patience.check().inspect_err(|_| over.store(true, Ordering::Relaxed))?;
                let service = self.turns.fetch_add(1, Ordering::Relaxed) % self.arguments.services.max(1);
                match self.server.ask(&host(service), "/") {
                    Ok(first) if first.phases.is_empty() => calls.warm += 1,
                    Ok(first) => {
                        starts.fetch_add(1, Ordering::Relaxed);
                        calls.cold.push(ms(first.took));
                    }
                    Err(why) => calls.failed.push(format!("{why:#}")),
                }
                if enough(starts.load(Ordering::Relaxed), begun.elapsed()) {
                    over.store(true, Ordering::Relaxed);
                }
            }
            Ok(calls)
        };
        let mut all = Calls::default();
        let joined: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.arguments.callers).map(|_| scope.spawn(one)).collect();
            threads.into_iter().map(|thread| thread.join()).collect()
        });
        for calls in joined {
            let calls = calls.map_err(|_| anyhow!("a caller ended early"))??;
            all.cold.extend(calls.cold);
            all.warm += calls.warm;
            all.failed.extend(calls.failed);
        }
        Ok(all)
    }
}
