//! The first request to a service at zero, with sandboxes ready and without, round by round beside
//! `runc run` and, in fewer rounds, `docker run`, all with the same root file system.
//!
//! Timed: Minato from the client's connection to the edge until the first byte of the answer; the others
//! from the exec of their command until the first byte. Not timed: networks, images, coming to zero.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    docker::Docker,
    figures::{median, ms, number, quantile, table, times},
    image::{self, Program},
    machine,
    minato::{self, Server},
    network::{EAGER, Network},
    patience::Patience,
    processes::expect_root,
    promises::Promises,
    runc::Runc,
};

/// What is left of one round runs out before the next begins.
const SETTLE: Duration = Duration::from_millis(30);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Rounds of Minato and runc
    #[arg(long, default_value_t = 100)]
    rounds: usize,
    /// Rounds of docker, spread over them; 0 leaves it out
    #[arg(long, default_value_t = 20)]
    docker_rounds: usize,
}

impl Arguments {
    pub(crate) fn of(self, quick: bool) -> Self {
        if quick { Self { rounds: 4, docker_rounds: self.docker_rounds.min(1) } } else { self }
    }
}

/// Milliseconds until the first byte, one a round.
#[derive(Debug, Default)]
struct Samples {
    pooled: Own,
    cold: Own,
    runc: Vec<f64>,
    docker: Vec<f64>,
    /// The rounds in which docker had its turn.
    docker_turns: Vec<usize>,
}

/// Minato's own.
#[derive(Debug, Default)]
struct Own {
    total: Vec<f64>,
    /// What isn't in the start: the edge's and the decision's part, and the client's.
    around: Vec<f64>,
    phases: Vec<(String, Vec<f64>)>,
}

/// Who is measured.
#[derive(Debug)]
struct Peers {
    runc: Runc,
    docker: Option<Docker>,
    network: Network,
    pooled: Server,
    cold: Server,
}

pub(crate) fn run(arguments: &Arguments, patience: &Patience) -> Result<Promises> {
    expect_root()?;
    let program = minato::program()?;
    let folder = image::workshop()?;
    let root = image::make(patience, folder.path(), Program::Ok)?;
    let network = Network::make(patience, 1)?;
    let given = network.given().first().context("a network for runc")?;
    let runc = Runc::prepare(patience, folder.path(), &root, given)?;
    let docker = if arguments.docker_rounds == 0 {
        None
    } else {
        Docker::prepare(patience, folder.path(), &root, &network)
            .inspect_err(|why| println!("docker is left out: {why:#}\n"))
            .ok()
    };
    let server = |settings| -> Result<Server> {
        let server = Server::start(patience, &program, folder.path(), settings)?;
        server.push(patience, folder.path(), Program::Ok)?;
        server.apply(patience, &minato::services(Program::Ok, 1, "scale = { idle = \"100ms\" }"))?;
        Ok(server)
    };
    let peers = Peers { runc, docker, network, pooled: server("")?, cold: server("pool = 0\n")? };
    println!("{}", machine::line());
    println!("{}; {}\n", machine::version("runc"), machine::version("dockerd"));
    let samples = measure(arguments, patience, &peers)?;
    Ok(report(&samples))
}

fn measure(arguments: &Arguments, patience: &Patience, peers: &Peers) -> Result<Samples> {
    let mut samples = Samples::default();
    // The first round of each warms caches and isn't counted.
    own_round(patience, &peers.pooled, &mut Own::default())?;
    own_round(patience, &peers.cold, &mut Own::default())?;
    runc_round(patience, peers, 0)?;
    let every = arguments.rounds.div_ceil(arguments.docker_rounds.max(1));
    for round in 1..=arguments.rounds {
        // Who goes first changes, so that nobody always follows the same one's leftovers.
        for turn in 0..3 {
            match (turn + round) % 3 {
                0 => own_round(patience, &peers.pooled, &mut samples.pooled)?,
                1 => own_round(patience, &peers.cold, &mut samples.cold)?,
                _ => samples.runc.push(runc_round(patience, peers, round)?),
            }
        }
        if round % every == 0
            && let Some(docker) = &peers.docker
        {
            patience.rest(SETTLE)?;
            samples.docker.push(ms(peers.network.inside(|| docker.round(patience))?));
            samples.docker_turns.push(round - 1);
        }
    }
    Ok(samples)
}

fn own_round(patience: &Patience, server: &Server, samples: &mut Own) -> Result<()> {
    server.at_zero(patience)?;
    server.pool_filled(patience)?;
    patience.rest(SETTLE)?;
    let first = server.ask(&minato::host(0), "/").context("a cold request")?;
    let total = ms(first.took);
    let Some((_, start)) = first.phases.iter().find(|(name, _)| name == "start") else {
        bail!("a request that should have started an instance found one");
    };
    samples.total.push(total);
    samples.around.push(total - start);
    for (name, time) in first.phases {
        match samples.phases.iter_mut().find(|(known, _)| *known == name) {
            Some((_, times)) => times.push(time),
            None => samples.phases.push((name, vec![time])),
        }
    }
    server.at_zero(patience)
}

fn runc_round(patience: &Patience, peers: &Peers, round: usize) -> Result<f64> {
    patience.rest(SETTLE)?;
    Ok(ms(peers.network.inside(|| peers.runc.round(patience, round, EAGER))?))
}

fn report(samples: &Samples) -> Promises {
    let Samples { pooled, cold, runc, docker, docker_turns } = samples;
    let mut rows = vec![
        times("Minato, a sandbox ready", &pooled.total),
        times("Minato, no pool", &cold.total),
        times("`runc run`, network given", runc),
    ];
    if !docker.is_empty() {
        rows.push(times("`docker run -d`", docker));
    }
    println!(
        "{}",
        table(&["request or exec to first byte, ms", "rounds", "p50", "p90", "p99", "max"], &rows)
    );
    let pairs = |own: &[f64]| runc.iter().zip(own).map(|(runc, own)| runc / own).collect::<Vec<_>>();
    let turns = docker.iter().zip(docker_turns);
    let docker_pairs: Vec<f64> =
        turns.filter_map(|(docker, &turn)| Some(docker / pooled.total.get(turn)?)).collect();
    let ratios = [
        ("runc / Minato, a sandbox ready", pairs(&pooled.total), runc, &pooled.total),
        ("runc / Minato, no pool", pairs(&cold.total), runc, &cold.total),
        ("docker / Minato, a sandbox ready", docker_pairs, docker, &pooled.total),
    ];
    let rows: Vec<_> = ratios.iter().map(|(name, pairs, peer, own)| ratio(name, pairs, peer, own)).collect();
    println!("{}", table(&["ratio", "median of pairs", "p50 / p50", "p99 / p99"], &rows));
    print_phases("a sandbox ready", pooled);
    print_phases("no pool", cold);
    let [(_, ready, ..), (_, none, ..), (_, docker_pairs, ..)] = &ratios;
    let mut promises = Promises::default();
    promises.at_least("P1 sandbox ready, p50, runc / Minato", median(ready), 10.0, 20.0);
    let p99 = quantile(runc, 0.99) / quantile(&pooled.total, 0.99);
    promises.at_least("P1 sandbox ready, p99, runc / Minato", p99, 6.0, 15.0);
    promises.at_least("P1 pool empty, p50, runc / Minato", median(none), 4.0, 6.0);
    if !docker.is_empty() {
        promises.at_least("P1 sandbox ready, p50, docker / Minato", median(docker_pairs), 100.0, None);
    }
    promises
}

fn print_phases(which: &str, own: &Own) {
    let row = |name: &str, times: &[f64]| {
        vec![name.to_owned(), number(median(times)), number(quantile(times, 0.99))]
    };
    let mut rows: Vec<_> = own.phases.iter().map(|(name, times)| row(name, times)).collect();
    rows.push(row("before and after it: client, edge, decision, answer", &own.around));
    println!(
        "{}",
        table(&[&format!("Minato's start, {which}, ms since its beginning"), "p50", "p99"], &rows)
    );
}

fn ratio(name: &str, pairs: &[f64], peer: &[f64], own: &[f64]) -> Vec<String> {
    let of = |share| number(quantile(peer, share) / quantile(own, share));
    vec![name.to_owned(), number(median(pairs)), of(0.5), of(0.99)]
}
