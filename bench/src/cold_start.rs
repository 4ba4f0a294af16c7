//! The first request to a service at zero, round by round beside `runc run` and, in fewer rounds,
//! `docker run`, all with the same root file system.
//!
//! Timed: Minato from the client's connection to the edge until the first byte of the answer; the others
//! from the exec of their command until the first byte. Not timed: networks, images, coming to zero.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    docker::Docker,
    figures::{median, ms, quantile, table},
    image, machine,
    minato::{self, Server},
    network::Network,
    patience::Patience,
    processes::expect_root,
    runc::Runc,
};

const MANIFEST: &str = r#"
app = "bench"
[services.ok]
image = "bench/ok:1"
hosts = ["ok.localhost"]
[services.ok.scale]
idle = "100ms"
"#;

/// How many times faster than `runc run` a cold start has to be, at the median.
const MUST: f64 = 2.0;

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

/// Milliseconds until the first byte, one a round.
#[derive(Debug, Default)]
struct Samples {
    minato: Vec<f64>,
    runc: Vec<f64>,
    runc_ratios: Vec<f64>,
    docker: Vec<f64>,
    docker_ratios: Vec<f64>,
    phases: Vec<(String, Vec<f64>)>,
}

/// Who is measured.
#[derive(Debug)]
struct Peers {
    runc: Runc,
    docker: Option<Docker>,
    network: Network,
    server: Server,
}

pub(crate) fn run(arguments: &Arguments, patience: &Patience) -> Result<()> {
    expect_root()?;
    let program = minato::program()?;
    let folder = image::workshop()?;
    let root = image::make(patience, folder.path())?;
    let network = Network::make(patience)?;
    let runc = Runc::prepare(patience, folder.path(), &root, &network)?;
    let docker = if arguments.docker_rounds == 0 {
        None
    } else {
        Docker::prepare(patience, folder.path(), &root, &network)
            .inspect_err(|why| println!("docker is left out: {why:#}\n"))
            .ok()
    };
    patience.check()?;
    let server = Server::start(patience, &program, folder.path())?;
    server.apply(patience, &root, MANIFEST)?;
    let peers = Peers { runc, docker, network, server };
    println!("{}", machine::line());
    println!("{}; {}\n", machine::version("runc"), machine::version("dockerd"));
    let samples = measure(arguments, patience, &peers)?;
    report(&samples);
    Ok(())
}

fn measure(arguments: &Arguments, patience: &Patience, peers: &Peers) -> Result<Samples> {
    let mut samples = Samples::default();
    // The first round of each warms caches and isn't counted.
    minato_round(patience, peers, &mut Samples::default())?;
    runc_round(patience, peers, 0)?;
    let every = arguments.rounds.div_ceil(arguments.docker_rounds.max(1));
    for round in 1..=arguments.rounds {
        // Who goes first changes, so that neither always follows the other's leftovers.
        let (own, runc) = if round % 2 == 0 {
            let own = minato_round(patience, peers, &mut samples)?;
            (own, runc_round(patience, peers, round)?)
        } else {
            let runc = runc_round(patience, peers, round)?;
            (minato_round(patience, peers, &mut samples)?, runc)
        };
        samples.minato.push(own);
        samples.runc.push(runc);
        samples.runc_ratios.push(runc / own);
        if round % every == 0
            && let Some(docker) = &peers.docker
        {
            patience.rest(SETTLE)?;
            let took = ms(peers.network.inside(|| docker.round(patience))?);
            samples.docker.push(took);
            samples.docker_ratios.push(took / own);
        }
    }
    Ok(samples)
}

fn minato_round(patience: &Patience, peers: &Peers, samples: &mut Samples) -> Result<f64> {
    peers.server.at_zero(patience)?;
    patience.rest(SETTLE)?;
    let first = peers.server.ask("ok.localhost").context("a cold request")?;
    if first.phases.is_empty() {
        bail!("a request that should have started an instance found one");
    }
    for (name, time) in first.phases {
        match samples.phases.iter_mut().find(|(known, _)| *known == name) {
            Some((_, times)) => times.push(time),
            None => samples.phases.push((name, vec![time])),
        }
    }
    peers.server.at_zero(patience)?;
    Ok(ms(first.took))
}

fn runc_round(patience: &Patience, peers: &Peers, round: usize) -> Result<f64> {
    patience.rest(SETTLE)?;
    Ok(ms(peers.network.inside(|| peers.runc.round(patience, round))?))
}

fn report(samples: &Samples) {
    let mut rows = vec![
        row("Minato, cold, through the edge", &samples.minato),
        row("`runc run`, network given", &samples.runc),
    ];
    if !samples.docker.is_empty() {
        rows.push(row("`docker run -d`", &samples.docker));
    }
    println!("{}", table(&["request or exec to first byte, ms", "rounds", "p50", "p90", "p99"], &rows));
    let mut rows = vec![ratio("runc / Minato", &samples.runc_ratios, &samples.runc, &samples.minato)];
    if !samples.docker.is_empty() {
        rows.push(ratio("docker / Minato", &samples.docker_ratios, &samples.docker, &samples.minato));
    }
    println!("{}", table(&["ratio", "median of pairs", "p50 / p50", "p99 / p99"], &rows));
    let rows: Vec<_> = samples
        .phases
        .iter()
        .map(|(name, times)| vec![name.clone(), number(median(times)), number(quantile(times, 0.99))])
        .collect();
    println!("{}", table(&["phase of Minato's start, ms", "p50", "p99"], &rows));
    let found = median(&samples.runc_ratios);
    let word = if found >= MUST { "met" } else { "MISSED" };
    println!("must: cold p50 ≤ {} of runc's; found {:.2}: {word}", 1.0 / MUST, 1.0 / found);
}

fn row(name: &str, samples: &[f64]) -> Vec<String> {
    let figures = [0.5, 0.9, 0.99].map(|share| number(quantile(samples, share)));
    [vec![name.to_owned(), samples.len().to_string()], figures.to_vec()].concat()
}

fn ratio(name: &str, pairs: &[f64], peer: &[f64], own: &[f64]) -> Vec<String> {
    let of = |share| number(quantile(peer, share) / quantile(own, share));
    vec![name.to_owned(), number(median(pairs)), of(0.5), of(0.99)]
}

fn number(value: f64) -> String {
    format!("{value:.2}")
}
