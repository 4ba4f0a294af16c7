//! The edge beside nginx and HAProxy where not all is well: an instance that fails and one that is slow among
//! eight, and twice the load that the instances can do.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use clap::Args;

use super::{
    addresses,
    peers::{Peer, Setup},
};
use crate::{
    figures::{count, median, number, quantile, table},
    image::Program,
    load::{Load, Plan, Sample, times},
    minato::{self, Server, host},
    patience::Patience,
    processes::expect,
    promises::Promises,
    wire::{Connection, get},
};

/// What one of the sides left behind is over.
const SETTLE: Duration = Duration::from_secs(3);
/// Who is answered later than this has gone.
const IN_TIME: f64 = 1_000.0;
/// Instances under twice their load, requests that each works on at once, and the milliseconds that it takes.
const WORKERS: (usize, u32, u32) = (2, 4, 20);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Rounds
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Requests a second, where an instance fails
    #[arg(long, default_value_t = 400)]
    rate: u32,
}

impl Arguments {
    pub(crate) fn of(self, quick: bool) -> Self {
        if quick { Self { rounds: 1, seconds: 3, ..self } } else { self }
    }
}

/// What came of one side's turn.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// The share of requests that failed, in percent.
    failed: f64,
    p50: f64,
    p99: f64,
    /// Answers a second that came in time.
    good: f64,
}

impl Seen {
    fn of(samples: &[Sample], seconds: u64) -> Self {
        let good = times(samples);
        let in_time = good.iter().filter(|took| **took <= IN_TIME).count();
        let failed = count(samples.len() - good.len());
        Self {
            failed: failed * 100.0 / count(samples.len().max(1)),
            p50: quantile(&good, 0.5),
            p99: quantile(&good, 0.99),
            good: count(in_time) / count(usize::try_from(seconds).unwrap_or(1)),
        }
    }
}

/// Who is asked, in turn.
const SIDES: [&str; 3] = ["Minato", "nginx", "HAProxy"];

pub(crate) fn outliers(arguments: &Arguments, patience: &Patience) -> Result<Promises> {
    let (folder, server) = prepared(patience)?;
    let keys = "scale = { min = 8, max = 8 }\nresources = { memory = \"32MiB\" }\n\
                recycle = { requests = 0 }";
    server.apply(patience, &minato::services(Program::Moody, 1, keys))?;
    let mut promises = Promises::default();
    for status in ["503", "500"] {
        let mut rounds = Vec::new();
        for _ in 0..arguments.rounds {
            // Minato replaces who fails for good, so it comes last, and each round begins with those that are.
            let instances = ready(&server, patience, 8)?;
            let setup = Setup { breaks: true, ..Setup::default() };
            let peers = peers(patience, folder.path(), &instances, setup)?;
            let places = [server.http(), peers[0].address, peers[1].address];
            let mut seen = [None; 3];
            for side in [1, 2, 0] {
                mood(&instances, &[status, "slow"])?;
                let plan = plan(places[side], "/", arguments.rate, 64);
                seen[side] = Some(turn(patience, &plan, arguments.seconds)?);
                // Who was replaced meanwhile needs no better mood.
                drop(mood(&instances, &[]));
                patience.rest(SETTLE)?;
            }
            rounds.push(seen);
        }
        println!(
            "one of eight answers {status}, one is 300 ms late; {} requests a second, {} rounds of {} s\n",
            arguments.rate, arguments.rounds, arguments.seconds
        );
        println!("{}", report(&rounds));
        let failed = |side| middle(&rounds, side, |seen| seen.failed);
        let least = failed(1).min(failed(2));
        promises.at_most(&format!("{status}: percent failed, no more than others'"), failed(0), least, None);
    }
    Ok(promises)
}

pub(crate) fn overload(arguments: &Arguments, patience: &Patience) -> Result<Promises> {
    let (folder, server) = prepared(patience)?;
    let (instances, workers, takes) = WORKERS;
    let keys = format!(
        "scale = {{ min = {instances}, max = {instances}, concurrency = {workers}, concurrency_max = {workers} }}\n\
         resources = {{ memory = \"256MiB\", pids = 4000 }}\nrecycle = {{ requests = 0 }}\ntimeout = \"30s\"",
    );
    server.apply(patience, &minato::services(Program::Moody, 1, &keys))?;
    let addresses = ready(&server, patience, instances)?;
    let setup = Setup { most: Some(workers), ..Setup::default() };
    let peers = peers(patience, folder.path(), &addresses, setup)?;
    let places = [server.http(), peers[0].address, peers[1].address];
    let able = u32::try_from(instances).unwrap_or(1) * workers * 1_000 / takes;
    let mut rounds = Vec::new();
    for round in 0..arguments.rounds {
        let mut seen = [None; 3];
        for step in 0..3 {
            let side = (round + step) % 3;
            seen[side] =
                Some(turn(patience, &plan(places[side], "/work", 2 * able, 800), arguments.seconds)?);
            patience.rest(2 * SETTLE)?;
        }
        rounds.push(seen);
    }
    println!(
        "{instances} instances that can do {able} requests a second together, asked {} times a second by 800 \
         connections; in time is within a second. nginx hands all of them on, HAProxy lets them wait.\n",
        2 * able
    );
    println!("{}", report(&rounds));
    let mut promises = Promises::default();
    let good = middle(&rounds, 0, |seen| seen.good);
    promises.at_least("overload: answers in time, of what can be done", good / f64::from(able), 0.8, 0.95);
    promises.at_most(
        "overload: p99 of what is served, ms",
        middle(&rounds, 0, |seen| seen.p99),
        1_000.0,
        500.0,
    );
    Ok(promises)
}

fn prepared(patience: &Patience) -> Result<(tempfile::TempDir, Server)> {
    expect("nginx")?;
    expect("haproxy")?;
    minato::served(patience, Program::Moody)
}

fn ready(server: &Server, patience: &Patience, count: usize) -> Result<Vec<SocketAddr>> {
    addresses(server, patience, count)
}

fn peers(
    patience: &Patience,
    folder: &std::path::Path,
    instances: &[SocketAddr],
    setup: Setup<'_>,
) -> Result<[Peer; 2]> {
    Ok([Peer::nginx(patience, folder, instances, setup)?, Peer::haproxy(patience, folder, instances, setup)?])
}

fn plan(address: SocketAddr, path: &'static str, rate: u32, connections: u32) -> Plan {
    Plan { address, hosts: vec![host(0)], path, rate, connections }
}

fn turn(patience: &Patience, plan: &Plan, seconds: u64) -> Result<Seen> {
    let load = Load::start(plan);
    patience.rest(Duration::from_secs(seconds))?;
    Ok(Seen::of(&load.finish()?, seconds))
}

/// Sets the moods of the first instances; the others are well.
fn mood(instances: &[SocketAddr], moods: &[&str]) -> Result<()> {
    let moods = moods.iter().copied().chain(std::iter::repeat("well"));
    for (instance, mood) in instances.iter().zip(moods) {
        let asked = || Connection::open(*instance)?.ask(&get("mood", &format!("/mood/{mood}")));
        asked().with_context(|| format!("the instance {instance} takes no mood"))?;
    }
    Ok(())
}

fn middle(rounds: &[[Option<Seen>; 3]], side: usize, figure: impl Fn(&Seen) -> f64) -> f64 {
    median(&rounds.iter().filter_map(|round| round[side].as_ref()).map(figure).collect::<Vec<_>>())
}

fn report(rounds: &[[Option<Seen>; 3]]) -> String {
    let rows: Vec<_> = SIDES
        .iter()
        .enumerate()
        .map(|(side, name)| {
            let of = |figure: fn(&Seen) -> f64| number(middle(rounds, side, figure));
            vec![
                (*name).to_owned(),
                of(|seen| seen.failed),
                of(|seen| seen.p50),
                of(|seen| seen.p99),
                of(|seen| seen.good),
            ]
        })
        .collect();
    table(&["", "failed, %", "p50 ms", "p99 ms", "in time a second"], &rows)
}
