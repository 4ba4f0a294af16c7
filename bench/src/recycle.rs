//! Instances that are renewed all the time under constant load: phases with recycling and without take
//! turns in one run, and what differs is what recycling costs.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, bail};
use clap::Args;

use crate::{
    figures::{count, kinds, median, number, quantile, table, times},
    image::Program,
    load::{self, Load, Plan, Sample},
    minato::{self, host},
    patience::{Patience, now},
    promises::Promises,
};

/// Changes of the manifest and what they set off are over before a phase counts.
const SETTLE: Duration = Duration::from_millis(1_500);
/// A run that recycles so slowly doesn't recycle.
const PHASES_MAX: usize = 60;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Recycled instances, at least
    #[arg(long, default_value_t = 1_000)]
    recycles: usize,
    /// Services
    #[arg(long, default_value_t = 10)]
    services: usize,
    /// Instances of each
    #[arg(long, default_value_t = 4)]
    instances: usize,
    /// Requests a second, all services together
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// Requests after which an instance is renewed
    #[arg(long, default_value_t = 20)]
    requests: u32,
    /// Seconds of each phase
    #[arg(long, default_value_t = 10)]
    phase: u64,
}

impl Arguments {
    pub(crate) fn of(self, quick: bool) -> Self {
        if quick { Self { recycles: 10, services: 2, phase: 3, rate: 200, ..self } } else { self }
    }

    fn manifest(&self, recycle: &str) -> String {
        let keys = format!(
            "scale = {{ min = {0}, max = {0} }}\nrecycle = {{ {recycle}, in_flight = 0, memory_growth = 0 }}\n\
             resources = {{ memory = \"32MiB\" }}",
            self.instances
        );
        minato::services(Program::Many, self.services, &keys)
    }
}

/// A time with recycling, or without.
#[derive(Debug)]
struct Phase {
    recycling: bool,
    begun: std::time::Instant,
    ended: std::time::Instant,
}

impl Phase {
    fn times(&self, samples: &[Sample]) -> Vec<f64> {
        load::times(samples.iter().filter(|sample| self.begun <= sample.due && sample.due < self.ended))
    }
}

pub(crate) fn run(arguments: &Arguments, patience: &Patience) -> Result<Promises> {
    let (_folder, server) = minato::served(patience, Program::Many)?;
    let off = arguments.manifest("requests = 0, age = \"24h\"");
    let on = arguments.manifest(&format!("requests = {}, age = \"24h\"", arguments.requests));
    server.apply(patience, &off)?;
    server.ready(patience, arguments.services * arguments.instances)?;
    let load = Load::start(&Plan {
        address: server.http(),
        hosts: (0..arguments.services).map(host).collect(),
        path: "/",
        rate: arguments.rate,
        connections: 16,
    });
    let (mut phases, mut recycled) = (Vec::new(), BTreeSet::new());
    while recycled.len() < arguments.recycles {
        if phases.len() >= PHASES_MAX {
            bail!("only {} instances were recycled in {} phases", recycled.len(), phases.len());
        }
        for (recycling, manifest) in [(false, &off), (true, &on)] {
            server.apply(patience, manifest)?;
            patience.rest(SETTLE)?;
            let begun = now();
            patience.rest(Duration::from_secs(arguments.phase))?;
            phases.push(Phase { recycling, begun, ended: now() });
            let events = server.events("rehearsal")?;
            recycled.extend(events.iter().map(|event| event["instance"].to_string()));
        }
    }
    server.apply(patience, &off)?;
    patience.rest(SETTLE)?;
    let samples = load.finish()?;
    Ok(report(arguments, &phases, recycled.len(), &samples))
}

fn report(arguments: &Arguments, phases: &[Phase], recycled: usize, samples: &[Sample]) -> Promises {
    let of = |recycling| phases.iter().filter(move |phase| phase.recycling == recycling);
    let pooled = |recycling| of(recycling).flat_map(|phase| phase.times(samples)).collect::<Vec<_>>();
    let (with, without) = (pooled(true), pooled(false));
    let p99 =
        |recycling| of(recycling).map(|phase| quantile(&phase.times(samples), 0.99)).collect::<Vec<_>>();
    let added: Vec<f64> = p99(true).iter().zip(p99(false)).map(|(with, without)| with - without).collect();
    let seconds: f64 = of(true).map(|phase| (phase.ended - phase.begun).as_secs_f64()).sum();
    println!(
        "{} services of {} instances, {} requests a second over connections that stay open, {} phases of {} s",
        arguments.services,
        arguments.instances,
        arguments.rate,
        phases.len(),
        arguments.phase
    );
    println!("recycled: {recycled} instances, {} a second while on\n", number(count(recycled) / seconds));
    let head = ["answers by their turn, ms", "requests", "p50", "p90", "p99", "max"];
    println!("{}", table(&head, &[times("recycling", &with), times("no recycling", &without)]));
    println!("added p99, median of pairs of phases: {} ms", number(median(&added)));
    let failed = load::failures(samples);
    println!("requests in all: {}; failed: {}\n{}", samples.len(), failed.len(), kinds(&failed));
    let mut promises = Promises::default();
    promises.at_least("recycled", count(recycled), count(arguments.recycles), None);
    promises.at_most("P5 failed", count(failed.len()), 0.0, None);
    promises
}
