//! Many at once: a hundred services at zero, a thousand clients of one service at zero, and sixteen
//! services at zero beside as many `runc run`.
//!
//! All clients are connected before; every time is from the first request of the herd to the end of an
//! answer.

use std::{sync::Barrier, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use clap::Args;

use crate::{
    crowd::{self, Answers},
    figures::{count, kinds, median, ms, number, table, times},
    image::{self, Program},
    machine,
    minato::{self, Server, host},
    network::Network,
    patience::{Patience, now},
    processes::expect_root,
    promises::Promises,
    runc::Runc,
    wire::get,
};

/// So many services at zero are asked at once beside runc.
const BURST: u8 = 16;
/// With sixteen that look for their first answer, each looks less often: looking costs processors.
const PATIENT: Duration = Duration::from_millis(2);
/// How long the one service's program takes for an answer: long enough that all clients are there
/// before the first has its answer.
const WORK: u32 = 500;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Rounds of each herd
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Services at zero that are asked at once
    #[arg(long, default_value_t = 100)]
    services: usize,
    /// Clients of the one service
    #[arg(long, default_value_t = 1000)]
    clients: usize,
}

impl Arguments {
    pub(crate) fn of(self, quick: bool) -> Self {
        if quick { Self { rounds: 1, ..self } } else { self }
    }
}

pub(crate) fn run(arguments: &Arguments, patience: &Patience) -> Result<Promises> {
    expect_root()?;
    let program = minato::program()?;
    let folder = image::workshop()?;
    println!("{}; {}\n", machine::line(), machine::version("runc"));
    let server = Server::start(patience, &program, folder.path(), "")?;
    server.push(patience, folder.path(), Program::Ok)?;
    server.push(patience, folder.path(), Program::Many)?;
    let mut promises = services(arguments, patience, &server)?;
    promises.extend(burst(arguments, patience, &server, folder.path())?);
    promises.extend(clients(arguments, patience, &server)?);
    Ok(promises)
}

/// P2: as many services as are asked for, each by one client.
fn services(arguments: &Arguments, patience: &Patience, server: &Server) -> Result<Promises> {
    let many = arguments.services;
    server.apply(patience, &minato::services(Program::Ok, many, "scale = { idle = \"100ms\" }"))?;
    let mut all = Answers::default();
    let mut last = Vec::new();
    for _ in 0..arguments.rounds {
        let answers = ask_at_zero(patience, server, many)?;
        last.push(answers.last());
        all.extend(answers);
    }
    println!("{many} services at zero asked at once, {} times", arguments.rounds);
    show(&[times("an answer", &all.times), times("the last answer of a round", &last)], &all);
    let mut promises = Promises::default();
    promises.at_most("P2 slowest answer, ms", all.last(), 1_000.0, None);
    promises.at_most("P2 failed", count(all.failed.len()), 0.0, None);
    let warm = arguments.rounds * many - all.cold - all.failed.len();
    promises.at_most("P2 answers that didn't need a start", count(warm), 0.0, None);
    Ok(promises)
}

fn ask_at_zero(patience: &Patience, server: &Server, many: usize) -> Result<Answers> {
    server.at_zero(patience)?;
    server.pool_filled(patience)?;
    patience.rest(Duration::from_millis(100))?;
    let requests: Vec<_> = (0..many).map(|number| get(&host(number), "/")).collect();
    let answers = crowd::ask(patience, server.http(), &requests)?;
    server.at_zero(patience)?;
    Ok(answers)
}

/// P3b: sixteen at once, in turn with sixteen of runc.
fn burst(
    arguments: &Arguments,
    patience: &Patience,
    server: &Server,
    below: &std::path::Path,
) -> Result<Promises> {
    let root = image::make(patience, below, Program::Ok)?;
    let network = Network::make(patience, BURST)?;
    let runcs: Result<Vec<_>> =
        network.given().iter().map(|given| Runc::prepare(patience, below, &root, given)).collect();
    let runcs = runcs?;
    let (mut all, mut own, mut peer) = (Answers::default(), Vec::new(), Vec::new());
    for round in 0..=arguments.rounds {
        let answers = ask_at_zero(patience, server, usize::from(BURST))?;
        let last = runc_burst(patience, &network, &runcs, round)?;
        // The first round warms caches and isn't counted.
        if round > 0 {
            own.push(answers.last());
            peer.push(last);
            all.extend(answers);
        }
    }
    let ratios: Vec<f64> = own.iter().zip(&peer).map(|(own, peer)| peer / own).collect();
    println!("{BURST} at once, {} times", arguments.rounds);
    show(
        &[times("Minato, the last answer", &own), times("`runc run`, network given, the last answer", &peer)],
        &all,
    );
    let mut promises = Promises::default();
    promises.at_least("P3b last of 16, median of pairs, runc / Minato", median(&ratios), 15.0, None);
    promises.at_most("P3b failed", count(all.failed.len()), 0.0, None);
    Ok(promises)
}

/// Milliseconds until the last of them answered.
fn runc_burst(patience: &Patience, network: &Network, runcs: &[Runc], round: usize) -> Result<f64> {
    patience.rest(Duration::from_millis(100))?;
    let barrier = Barrier::new(runcs.len());
    let one = |runc: &Runc| {
        network.inside(|| {
            barrier.wait();
            let begun = now();
            let took = runc.round(patience, round, PATIENT)?;
            Ok((begun, begun + took))
        })
    };
    let rounds: Result<Vec<_>> = std::thread::scope(|scope| {
        let threads: Vec<_> = runcs.iter().map(|runc| scope.spawn(|| one(runc))).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.map(|joined| joined.map_err(|_| anyhow!("a thread of the benchmark ended early"))?).collect()
    });
    let rounds = rounds?;
    let first = rounds.iter().map(|(begun, _)| begun).min().context("nobody started")?;
    let last = rounds.iter().map(|(_, ended)| ended).max().context("nobody answered")?;
    Ok(ms(*last - *first))
}

/// P3: one service, asked by a thousand.
fn clients(arguments: &Arguments, patience: &Patience, server: &Server) -> Result<Promises> {
    let mut promises = Promises::default();
    let wide = arguments.clients.max(1);
    let scales = [
        (format!("concurrency = {wide}"), format!("concurrency = {wide}, concurrency_max = {wide}, "), 1.0),
        ("the defaults".to_owned(), String::new(), 20.0),
    ];
    for (name, scale, starts) in scales {
        let keys = format!(
            "scale = {{ {scale}idle = \"100ms\" }}\nresources = {{ pids = 4096, memory = \"256MiB\" }}"
        );
        server.apply(patience, &minato::services(Program::Many, 1, &keys))?;
        let (mut all, mut started) = (Answers::default(), Vec::new());
        for _ in 0..arguments.rounds {
            server.at_zero(patience)?;
            server.pool_filled(patience)?;
            let before = server.starts()?;
            let request = get(&host(0), &format!("/wait/{WORK}"));
            all.extend(crowd::ask(patience, server.http(), &vec![request; arguments.clients])?);
            server.at_zero(patience)?;
            started.push(server.starts()? - before);
        }
        println!("{} clients on one service at zero, {name}; an answer takes {WORK} ms", arguments.clients);
        show(&[times("an answer", &all.times)], &all);
        let list: Vec<_> = started.iter().map(|starts| format!("{starts:.0}")).collect();
        println!("starts in each round: {}\n", list.join(", "));
        let most = started.iter().copied().fold(0.0, f64::max);
        let least = started.iter().copied().fold(f64::INFINITY, f64::min);
        promises.at_most(&format!("P3 starts, {name}, most"), most, starts, None);
        promises.at_least(&format!("P3 starts, {name}, fewest"), least, starts, None);
        promises.at_most(&format!("P3 failed, {name}"), count(all.failed.len()), 0.0, None);
    }
    Ok(promises)
}

fn show(rows: &[Vec<String>], answers: &Answers) {
    println!(
        "\n{}",
        table(&["first request to the end of, ms", "samples", "p50", "p90", "p99", "max"], rows)
    );
    let share = 100.0 * count(answers.cold) / count((answers.times.len() + answers.failed.len()).max(1));
    println!("cold: {} %; failed: {}\n{}", number(share), answers.failed.len(), kinds(&answers.failed));
}
