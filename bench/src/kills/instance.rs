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

/// What is asked of both: with an answer that takes two milliseconds one is in flight most of the time.
const PATH: &str = "/wait/2";
/// How long an instance serves before it is killed.
const SERVES: Duration = Duration::from_millis(1_500);

/// One kill, and the load meanwhile.
#[derive(Debug)]
struct Kill {
    at: Instant,
    instance: String,
    samples: Vec<Sample>,
}

impl Kill {
    /// Milliseconds until another instance has answered.
    fn gap(&self) -> Result<f64> {
        let next = |sample: &&Sample| {
            sample.ended > self.at && sample.outcome.as_ref().is_ok_and(|who| *who != self.instance)
        };
        let ended = self.samples.iter().filter(next).map(|sample| sample.ended).min();
        ended.map(|ended| ms(ended - self.at)).context("nobody answered after a kill")
    }
}

pub(super) fn run(
    arguments: &Arguments,
    patience: &Patience,
    program: &Path,
    below: &Path,
) -> Result<Promises> {
    let server = Server::start(patience, program, below, "")?;
    server.push(patience, below, Program::Many)?;
    // Each is killed once: twice within a minute would be a crash loop, which is another matter. The
    // last one is only woken.
    let services = arguments.instances + 1;
    let manifest = minato::services(Program::Many, services, "scale = { idle = \"300ms\" }");
    server.apply(patience, &manifest)?;
    let (mut cold, mut kills) = (Vec::new(), Vec::new());
    // The first wake of all warms caches and isn't counted.
    server.ask(&host(arguments.instances), PATH)?;
    for service in 0..arguments.instances {
        server.at_zero(patience)?;
        server.pool_filled(patience)?;
        cold.push(ms(server.ask(&host(arguments.instances), PATH)?.took));
        server.at_zero(patience)?;
        kills.push(kill(arguments.rate, patience, &server, &host(service))?);
    }
    report(&cold, &kills)
}

fn kill(rate: u32, patience: &Patience, server: &Server, host: &str) -> Result<Kill> {
    let plan =
        Plan { address: server.http(), hosts: vec![host.to_owned()], path: PATH, rate, connections: 8 };
    let load = Load::start(&plan);
    patience.rest(SERVES)?;
    let victim = alone(patience, server, None)?;
    server.pool_filled(patience)?;
    let pid = victim["pid"].as_i64().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    let instance = victim["id"].as_str().context("an instance without an id")?.to_owned();
    let at = now();
    kill_process(pid.context("an instance without a process")?, Signal::KILL)?;
    alone(patience, server, Some(&instance))?;
    patience.rest(SERVES)?;
    Ok(Kill { at, instance, samples: load.finish()? })
}

/// Waits until one instance other than `gone` is ready and no other runs.
fn alone(patience: &Patience, server: &Server, gone: Option<&str>) -> Result<Value> {
    patience.until("one instance to serve alone", STEP, || {
        let mut instances = server.instances()?;
        let one = instances.pop().filter(|one| one["state"] == "ready" && one["id"].as_str() != gone);
        Ok(one.filter(|_| instances.is_empty()))
    })
}

fn report(cold: &[f64], kills: &[Kill]) -> Result<Promises> {
    let gaps: Result<Vec<f64>> = kills.iter().map(Kill::gap).collect();
    let gaps = gaps?;
    let samples: Vec<_> = kills.iter().flat_map(|kill| &kill.samples).collect();
    let after = kills.iter().flat_map(|kill| kill.samples.iter().filter(|sample| sample.ended > kill.at));
    let failed = load::failures(samples.iter().copied());
    println!("kill -9 of a service's only instance under load, {} times\n", kills.len());
    let rows = [
        times("from the kill to another's first answer", &gaps),
        times("beside it: a service woken from zero, to its first byte", cold),
        times("requests of the load that ended after the kill", &load::times(after)),
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
