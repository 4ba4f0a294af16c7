//! Everything that is issued, renewed under constant load: roots, intermediates, and with them every instance.
//! One server's certificates live as long as ever, the other's so short that a root's whole turn passes.

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{
    figures::{count, kinds, number, quantile, table, times},
    image::{self, Program},
    load::{self, Load, Plan, Sample},
    machine,
    minato::{self, Server, host, program},
    patience::Patience,
    processes::expect_root,
    promises::Promises,
};

/// How long a root lives where nothing is scaled.
const ROOT: Duration = Duration::from_secs(90 * 24 * 3_600);
/// Starts are over, and nothing of them counts.
const SETTLE: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Services
    #[arg(long, default_value_t = 10)]
    services: usize,
    /// Instances of each
    #[arg(long, default_value_t = 20)]
    instances: usize,
    /// Requests a second, all services together
    #[arg(long, default_value_t = 300)]
    rate: u32,
    /// Seconds that a root lives
    #[arg(long, default_value_t = 600)]
    root: u64,
    /// Seconds of load on each server; a root signs for a third of its life
    #[arg(long, default_value_t = 240)]
    seconds: u64,
}

impl Arguments {
    pub(crate) fn of(self, quick: bool) -> Self {
        if quick { Self { services: 2, instances: 4, seconds: 20, root: 300, ..self } } else { self }
    }
}

/// What a server went through.
struct Seen {
    samples: Vec<Sample>,
    starts: f64,
    roots: usize,
    intermediates: usize,
}

pub(crate) fn run(arguments: &Arguments, patience: &Patience) -> Result<Promises> {
    expect_root()?;
    let (program, folder) = (program()?, image::workshop()?);
    println!("{}\n", machine::line());
    let life = Duration::from_secs(arguments.root);
    let scale = format!("[tls]\nlifetime_scale = {:e}\n", life.as_secs_f64() / ROOT.as_secs_f64());
    let mut seen = Vec::new();
    for settings in ["", &scale] {
        let server = Server::start(patience, &program, folder.path(), settings)?;
        server.push(patience, folder.path(), Program::Many)?;
        seen.push(serve(arguments, patience, &server)?);
    }
    let [still, rotating] = &seen[..] else { return Ok(Promises::default()) };
    Ok(report(arguments, still, rotating))
}

fn serve(arguments: &Arguments, patience: &Patience, server: &Server) -> Result<Seen> {
    let keys = format!(
        "scale = {{ min = {0}, max = {0} }}\nresources = {{ memory = \"32MiB\" }}\n\
         recycle = {{ requests = 0, age = \"24h\", in_flight = 0, memory_growth = 0 }}",
        arguments.instances
    );
    server.apply(patience, &minato::services(Program::Many, arguments.services, &keys))?;
    patience.rest(SETTLE)?;
    let before = server.starts()?;
    let load = Load::start(&Plan {
        address: server.http(),
        hosts: (0..arguments.services).map(host).collect(),
        path: "/",
        rate: arguments.rate,
        connections: 16,
    });
    patience.rest(Duration::from_secs(arguments.seconds))?;
    let samples = load.finish()?;
    let starts = server.starts().context("how many instances were started")? - before;
    let made = |kind| Ok::<_, anyhow::Error>(server.events(kind)?.len());
    Ok(Seen { samples, starts, roots: made("root_rotated")?, intermediates: made("intermediate_renewed")? })
}

fn report(arguments: &Arguments, still: &Seen, rotating: &Seen) -> Promises {
    let all = arguments.services * arguments.instances;
    println!(
        "{all} instances, {} requests a second over connections that stay open, {} s each\n",
        arguments.rate, arguments.seconds
    );
    println!(
        "a root lives {} s: {} roots and {} intermediates were made, {:.0} instances replaced, {} a second\n",
        arguments.root,
        rotating.roots,
        rotating.intermediates,
        rotating.starts,
        number(rotating.starts / count(usize::try_from(arguments.seconds).unwrap_or(1)))
    );
    let (with, without) = (load::times(rotating.samples.iter()), load::times(still.samples.iter()));
    let head = ["answers by their turn, ms", "requests", "p50", "p90", "p99", "max"];
    println!("{}", table(&head, &[times("all is renewed", &with), times("nothing is", &without)]));
    println!("added p99: {} ms", number(quantile(&with, 0.99) - quantile(&without, 0.99)));
    let failed = load::failures(&rotating.samples);
    println!("requests in all: {}; failed: {}\n{}", rotating.samples.len(), failed.len(), kinds(&failed));
    let mut promises = Promises::default();
    promises.at_least("P13 instances replaced", rotating.starts, count(all), None);
    promises.at_least("P13 roots made", count(rotating.roots), 1.0, None);
    promises.at_least("P13 intermediates made", count(rotating.intermediates), 1.0, None);
    promises.at_most("P13 failed", count(failed.len()), 0.0, None);
    promises
}
