//! The server killed with `kill -9` and started again, and a new one taking over with `--upgrade`, each
//! with many instances that run on, under load on all their services.

use std::{collections::BTreeSet, path::Path, time::Duration, time::Instant};

use anyhow::Result;
use serde_json::Value;

use super::Arguments;
use crate::{
    figures::{count, kinds, ms, number, quantile, table, times},
    image::Program,
    load::{self, Load, Plan, Sample},
    minato::{self, Server, host},
    patience::{Patience, STEP, now},
    promises::Promises,
};

const SERVICES: usize = 10;
/// What a change does to the load is over after it.
const AFTER: Duration = Duration::from_secs(2);

pub(super) fn run(
    arguments: &Arguments,
    patience: &Patience,
    program: &Path,
    below: &Path,
) -> Result<Promises> {
    let mut server = Server::start(patience, program, below, "")?;
    server.push(patience, below, Program::Many)?;
    let keys = format!(
        "scale = {{ min = {0}, max = {0} }}\nresources = {{ memory = \"32MiB\", pids = 64 }}",
        arguments.tens
    );
    server.apply(patience, &minato::services(Program::Many, SERVICES, &keys))?;
    server.ready(patience, SERVICES * arguments.tens)?;
    let mut promises = Promises::default();
    if arguments.servers > 0 {
        promises.extend(kills(arguments, patience, &mut server)?);
    }
    if arguments.upgrades > 0 {
        promises.extend(upgrades(arguments, patience, &mut server)?);
    }
    Ok(promises)
}

fn load(arguments: &Arguments, server: &Server) -> Load {
    Load::start(&Plan {
        address: server.http(),
        hosts: (0..SERVICES).map(host).collect(),
        path: "/",
        rate: arguments.rate,
        connections: 16,
    })
}

/// Who runs, by id and process.
fn running(instances: &[Value]) -> BTreeSet<(String, String)> {
    instances.iter().map(|one| (one["id"].to_string(), one["pid"].to_string())).collect()
}

/// One `kill -9`.
#[derive(Debug)]
struct Kill {
    killed: Instant,
    ready: Instant,
    /// When its effects are over.
    over: Instant,
    /// Milliseconds from the next server's exec to its first answer.
    first: f64,
    adopted: usize,
}

fn kills(arguments: &Arguments, patience: &Patience, server: &mut Server) -> Result<Promises> {
    let many = SERVICES * arguments.tens;
    let load = load(arguments, server);
    let mut kills = Vec::new();
    for _ in 0..arguments.servers {
        patience.rest(AFTER)?;
        let before = running(&server.ready(patience, many)?);
        let killed = now();
        server.kill()?;
        let begun = server.start_again()?;
        patience.until("an answer of the next server", STEP, || Ok(server.ask(&host(0), "/").ok()))?;
        let first = ms(begun.elapsed());
        server.wait_until_ready(patience)?;
        let ready = now();
        let adopted = running(&server.ready(patience, many)?).intersection(&before).count();
        patience.rest(AFTER)?;
        kills.push(Kill { killed, ready, over: now(), first, adopted });
    }
    let samples = load.finish()?;
    let between = |from: Instant, to: Instant| {
        samples.iter().filter(move |sample| from <= sample.sent && sample.sent < to)
    };
    let lost: Vec<_> =
        kills.iter().flat_map(|kill| load::failures(between(kill.killed, kill.ready))).collect();
    let failed: Vec<_> =
        kills.iter().flat_map(|kill| load::failures(between(kill.ready, kill.over))).collect();
    let firsts: Vec<f64> = kills.iter().map(|kill| kill.first).collect();
    let adopted = kills.iter().map(|kill| kill.adopted).min().unwrap_or_default();
    println!("kill -9 of the server with {many} instances, {} times\n", kills.len());
    let head = ["ms", "samples", "p50", "p90", "p99", "max"];
    println!("{}", table(&head, &[times("from exec to the first answer", &firsts)]));
    println!("requests in all: {}; failed while no server was there: {}", samples.len(), lost.len());
    println!("failed after it was ready: {}\n{}", failed.len(), kinds(&failed));
    let mut promises = Promises::default();
    let slowest = quantile(&firsts, 1.0);
    promises.at_most(&format!("P17 first answer with {many} instances, ms"), slowest, 1_000.0, None);
    promises.at_least("P17 adopted, fewest", count(adopted), count(many), None);
    promises.at_most("P17 failed after ready", count(failed.len()), 0.0, None);
    Ok(promises)
}

fn upgrades(arguments: &Arguments, patience: &Patience, server: &mut Server) -> Result<Promises> {
    let many = SERVICES * arguments.tens;
    let load = load(arguments, server);
    let (mut windows, mut took, mut kept) = (Vec::new(), Vec::new(), many);
    for _ in 0..arguments.upgrades {
        patience.rest(AFTER)?;
        let before = running(&server.ready(patience, many)?);
        let begun = now();
        server.upgrade(patience)?;
        took.push(ms(begun.elapsed()));
        kept = kept.min(running(&server.ready(patience, many)?).intersection(&before).count());
        patience.rest(AFTER / 2)?;
        windows.push((begun, now()));
    }
    patience.rest(AFTER)?;
    let samples = load.finish()?;
    let inside = |sample: &&Sample| windows.iter().any(|(from, to)| (*from..*to).contains(&sample.due));
    let (during, beside): (Vec<_>, Vec<_>) = samples.iter().partition(inside);
    let failed = load::failures(&samples);
    println!("--upgrade with {many} instances, {} times\n", windows.len());
    let rows = [
        times("requests during it", &load::times(during)),
        times("requests beside it", &load::times(beside)),
        times("from the new server's exec to the old one's end", &took),
    ];
    println!("{}", table(&["ms", "samples", "p50", "p90", "p99", "max"], &rows));
    println!("longest time without an answer: {} ms", number(longest_gap(&samples)));
    println!("requests in all: {}; failed: {}\n{}", samples.len(), failed.len(), kinds(&failed));
    let mut promises = Promises::default();
    promises.at_most("P5 failed during `--upgrade`", count(failed.len()), 0.0, None);
    promises.at_least("instances that ran on, fewest", count(kept), count(many), None);
    Ok(promises)
}

/// The longest time in which no answer came, in milliseconds.
fn longest_gap(samples: &[Sample]) -> f64 {
    let good = samples.iter().filter(|sample| sample.outcome.is_ok());
    let mut ends: Vec<_> = good.map(|sample| sample.ended).collect();
    ends.sort_unstable();
    ends.windows(2).map(|pair| ms(pair[1] - pair[0])).fold(0.0, f64::max)
}
