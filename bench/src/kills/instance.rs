//! `kill -9` of the only instance of a service under load, and beside it, in turn, a service that is woken
//! from zero: whoever asks shall wait no longer for the one than for the other.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::Arguments;
use crate::{
    figures::{count, kinds, median, ms, number, quantile, table, times},
    image::Program,
    load::{self, Load, Plan, Sample},
    minato::{self, Server, host},
    patience::{Patience, STEP, now},
    promises::Promises,
};

/// The service that is killed.
const LOADED: &str = "s0";
/// What is asked of both: with an answer that takes two milliseconds one is in flight most of the time.
const PATH: &str = "/wait/2";
/// How long an instance serves before it is killed.
const SERVES: Duration = Duration::from_millis(1_500);

#[derive(Debug)]
struct Kill {
    at: Instant,
    instance: String,
}

pub(super) fn run(
    arguments: &Arguments,
    patience: &Patience,
    program: &Path,
    below: &Path,
) -> Result<Promises> {
    let server = Server::start(patience, program, below, "")?;
    server.push(patience, below, Program::Many)?;
    // `s0` stays up by its load, `s1` is at zero as soon as nobody asks.
    server.apply(patience, &minato::services(Program::Many, 2, "scale = { idle = \"300ms\" }"))?;
    let load = Load::start(&Plan {
        address: server.http(),
        hosts: vec![host(0)],
        path: PATH,
        rate: arguments.rate,
        connections: 8,
    });
    let (mut cold, mut kills) = (Vec::new(), Vec::new());
    for _ in 0..arguments.instances {
        patience.rest(SERVES)?;
        alone(patience, &server, None)?;
        server.pool_filled(patience)?;
        cold.push(ms(server.ask(&host(1), PATH)?.took));
        let victim = alone(patience, &server, None)?;
        server.pool_filled(patience)?;
        let pid = victim["pid"].as_i64().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let instance = victim["id"].as_str().context("an instance without an id")?.to_owned();
        let at = now();
        kill_process(pid.context("an instance without a process")?, Signal::KILL)?;
        alone(patience, &server, Some(&instance))?;
        kills.push(Kill { at, instance });
    }
    patience.rest(SERVES)?;
    let samples = load.finish()?;
    report(&cold, &kills, &samples)
}

/// Waits until one instance of the loaded service is ready, other than `gone`, and nothing else runs.
fn alone(patience: &Patience, server: &Server, gone: Option<&str>) -> Result<Value> {
    patience.until("one instance to serve alone", STEP, || {
        let mut instances = server.instances()?;
        let one = instances.pop().filter(|one| one["state"] == "ready" && one["service"] == LOADED);
        Ok(one.filter(|one| instances.is_empty() && one["id"].as_str() != gone))
    })
}

fn report(cold: &[f64], kills: &[Kill], samples: &[Sample]) -> Result<Promises> {
    let gap = |kill: &Kill| {
        let next = |sample: &&Sample| {
            sample.ended > kill.at && sample.outcome.as_ref().is_ok_and(|who| *who != kill.instance)
        };
        let ended = samples.iter().filter(next).map(|sample| sample.ended).min();
        ended.map(|ended| ms(ended - kill.at)).context("nobody answered after a kill")
    };
    let gaps: Result<Vec<f64>> = kills.iter().map(gap).collect();
    let gaps = gaps?;
    let failed = load::failures(samples);
    println!("kill -9 of the only instance under load, {} times\n", kills.len());
    let rows = [
        times("from the kill to another's first answer", &gaps),
        times("beside it: a service woken from zero, to its first byte", cold),
        times("every request of the load", &load::times(samples)),
    ];
    println!("{}", table(&["ms", "samples", "p50", "p90", "p99", "max"], &rows));
    let ratios: Vec<f64> = gaps.iter().zip(cold).map(|(gap, cold)| gap / cold).collect();
    println!("gap / cold start: {} (median of pairs)", number(median(&ratios)));
    println!("requests in all: {}; failed: {}\n{}", samples.len(), failed.len(), kinds(&failed));
    let mut promises = Promises::default();
    promises.at_most("P6 failed", count(failed.len()), 0.0, None);
    let bound = quantile(cold, 0.99);
    promises.at_most("P6 another's answer, p50, ms; within p99 of a cold start", median(&gaps), bound, None);
    Ok(promises)
}
