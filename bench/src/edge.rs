//! The edge beside nginx and HAProxy: the same instances behind all three, asked in turns within one run.
//! What is compared is the median of the ratios of each round, not of the figures: two shared cores give
//! different figures from minute to minute.

mod client;
mod peers;
pub(crate) mod routes;
pub(crate) mod tls;
pub(crate) mod trouble;

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{
    figures::{median, number, table},
    image::Program,
    machine,
    minato::{self, Server, host},
    patience::Patience,
    processes::{busy, expect},
    promises::Promises,
};
use client::{Client, Seen};
use peers::{Peer, Setup};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Rounds of each case
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Only cases whose name holds this
    #[arg(long, default_value = "")]
    only: String,
}

impl Arguments {
    pub(crate) fn of(self, quick: bool) -> Self {
        if quick { Self { rounds: 1, seconds: 1, ..self } } else { self }
    }
}

/// What is asked, and how.
#[derive(Debug, Clone, Copy)]
struct Case {
    name: &'static str,
    client: Client,
    connections: u32,
}

const CASES: [Case; 9] = [
    Case { name: "128 B, 1 connection", client: Client::Http1("/small"), connections: 1 },
    Case { name: "128 B, 64 connections", client: Client::Http1("/small"), connections: 64 },
    Case { name: "128 B, 512 connections", client: Client::Http1("/small"), connections: 512 },
    Case { name: "256 KiB, 1 connection", client: Client::Http1("/large"), connections: 1 },
    Case { name: "256 KiB, 64 connections", client: Client::Http1("/large"), connections: 64 },
    Case { name: "10 KiB sent, 1 connection", client: Client::Post("/small"), connections: 1 },
    Case { name: "10 KiB sent, 64 connections", client: Client::Post("/small"), connections: 64 },
    Case { name: "128 B at 30 % of the load", client: Client::Paced("/small"), connections: 64 },
    Case {
        name: "h2c, 128 B, 16 connections of 16 streams",
        client: Client::Http2("/small"),
        connections: 16,
    },
];

/// One measurement.
#[derive(Debug, Clone, Copy)]
struct Figures {
    seen: Seen,
    /// Microseconds of processor a request.
    cpu: f64,
}

/// Where it is asked, and for which host.
#[derive(Debug, Clone, Copy)]
struct Place<'a> {
    address: SocketAddr,
    /// By HTTP/2.
    http2: SocketAddr,
    host: &'a str,
    /// Whether it is asked by TLS.
    tls: bool,
}

/// One that answers: where, and the processes whose time counts.
struct Side<'a> {
    name: &'static str,
    place: Place<'a>,
    pids: Box<dyn Fn() -> Result<Vec<u32>> + 'a>,
}

pub(crate) fn run(arguments: &Arguments, patience: &Patience) -> Result<Promises> {
    for program in ["nginx", "haproxy", "wrk", "h2load"] {
        expect(program)?;
    }
    let (folder, server) = minato::served(patience, Program::Quick)?;
    let keys = "scale = { min = 2, max = 2, concurrency = 1000 }\nresources = { memory = \"64MiB\" }\nrecycle = { requests = 0 }";
    server.apply(patience, &minato::services(Program::Quick, 1, keys))?;
    let instances = addresses(&server, patience, 2)?;
    let bare = Peer::nginx(patience, folder.path(), &instances, Setup::default())?;
    let full = Peer::nginx(patience, folder.path(), &instances, Setup { full: true, ..Setup::default() })?;
    let haproxy = Peer::haproxy(patience, folder.path(), &instances, Setup::default())?;
    let host = host(0);
    let of = |peer: &Peer| Place { address: peer.address, http2: peer.http2(), host: &host, tls: false };
    let own = Place { address: server.http(), http2: server.http(), host: &host, tls: false };
    let sides = [
        Side { name: "Minato", place: own, pids: Box::new(|| Ok(vec![server.pid()])) },
        Side { name: "nginx", place: of(&bare), pids: Box::new(|| bare.pids()) },
        Side { name: "nginx, the same features", place: of(&full), pids: Box::new(|| full.pids()) },
        Side { name: "HAProxy", place: of(&haproxy), pids: Box::new(|| haproxy.pids()) },
    ];
    println!("{} threads each; {} rounds of {} s\n", machine::cores(), arguments.rounds, arguments.seconds);
    compare(arguments, patience, (&CASES, &sides), promise)
}

/// Measures the cases that are wanted, shows what was found, and says what was promised of it.
fn compare(
    arguments: &Arguments,
    patience: &Patience,
    (cases, sides): (&[Case], &[Side<'_>]),
    promise: impl Fn(&mut Promises, &Case, &[Vec<Figures>]),
) -> Result<Promises> {
    let mut promises = Promises::default();
    for case in cases.iter().filter(|case| case.name.contains(&arguments.only)) {
        let rounds = measure(arguments, patience, case, sides)?;
        println!("{}\n{}", case.name, report(sides, &rounds));
        promise(&mut promises, case, &rounds);
        let failed: f64 = rounds.iter().filter_map(|round| Some(round.first()?.seen.failed)).sum();
        promises.at_most(&format!("failed: {}", case.name), failed, 0.0, None);
    }
    Ok(promises)
}

fn addresses(server: &Server, patience: &Patience, count: usize) -> Result<Vec<SocketAddr>> {
    let ready = server.ready(patience, count)?;
    let address = |one: &serde_json::Value| {
        let text = one["address"].as_str().context("an instance without an address")?;
        let ip: std::net::IpAddr = text.split(':').next().unwrap_or_default().parse()?;
        Ok(SocketAddr::from((ip, crate::image::PORT)))
    };
    ready.iter().map(address).collect()
}

/// All sides in each round, each time beginning with another.
fn measure(
    arguments: &Arguments,
    patience: &Patience,
    case: &Case,
    sides: &[Side<'_>],
) -> Result<Vec<Vec<Figures>>> {
    let time = Duration::from_secs(arguments.seconds);
    // What the slowest can do tells what 30 % of it is.
    let mut rate = None;
    if case.client.is_paced() {
        let unpaced = Client::Http1("/small");
        let mut least = f64::INFINITY;
        for side in sides {
            let seen = unpaced.run(patience, side.place, case.connections, time, None)?;
            least = least.min(seen.rate);
        }
        rate = Some(least * 0.3);
    }
    let mut rounds = Vec::new();
    for round in 0..arguments.rounds {
        let mut figures: Vec<Option<Figures>> = vec![None; sides.len()];
        for step in 0..sides.len() {
            let at = (round + step) % sides.len();
            let (Some(side), Some(place)) = (sides.get(at), figures.get_mut(at)) else { continue };
            let spent = || -> Result<Duration> { (side.pids)()?.into_iter().map(busy).sum() };
            let before = spent()?;
            let seen = case.client.run(patience, side.place, case.connections, time, rate)?;
            let spent = spent()?.saturating_sub(before);
            *place = Some(Figures { seen, cpu: spent.as_secs_f64() * 1e6 / seen.requests.max(1.0) });
        }
        rounds.push(figures.into_iter().flatten().collect());
    }
    Ok(rounds)
}

/// The median over the rounds of a figure of Minato's divided by a peer's.
fn ratio(rounds: &[Vec<Figures>], peer: usize, figure: impl Fn(&Figures) -> f64) -> f64 {
    let of = |round: &Vec<Figures>| Some(figure(round.first()?) / figure(round.get(peer)?));
    median(&rounds.iter().filter_map(of).collect::<Vec<_>>())
}

fn report(sides: &[Side<'_>], rounds: &[Vec<Figures>]) -> String {
    let middle = |side: usize, figure: &dyn Fn(&Figures) -> f64| {
        median(&rounds.iter().filter_map(|round| round.get(side)).map(figure).collect::<Vec<_>>())
    };
    let rows: Vec<_> = sides
        .iter()
        .enumerate()
        .map(|(side, Side { name, .. })| {
            let ratios = match side {
                0 => ["", ""].map(str::to_owned),
                _ => [number(ratio(rounds, side, |f| f.seen.rate)), number(ratio(rounds, side, |f| f.cpu))],
            };
            let figures = [
                format!("{:.0}", middle(side, &|f| f.seen.rate)),
                number(middle(side, &|f| f.cpu)),
                number(middle(side, &|f| f.seen.p50)),
                number(middle(side, &|f| f.seen.p99)),
                format!("{:.0}", middle(side, &|f| f.seen.failed)),
            ];
            [vec![(*name).to_owned()], figures.to_vec(), ratios.to_vec()].concat()
        })
        .collect();
    let head = [
        "",
        "requests/s",
        "cpu µs",
        "p50 ms",
        "p99 ms",
        "failed",
        "Minato's requests/s, times",
        "Minato's cpu, times",
    ];
    table(&head, &rows)
}

fn promise(promises: &mut Promises, case: &Case, rounds: &[Vec<Figures>]) {
    let rate = |peer| ratio(rounds, peer, |f| f.seen.rate);
    let cpu = |peer| ratio(rounds, peer, |f| f.cpu);
    match case.name {
        "128 B, 64 connections" => {
            promises.at_most("P7 cpu a request, of nginx", cpu(1), 0.95, 0.82);
            promises.at_least("P7 requests/s, of nginx", rate(1), 1.05, 1.2);
            promises.at_least("P7 requests/s, of nginx with the same features", rate(2), 1.35, 1.5);
            promises.at_least("P7 requests/s, of HAProxy", rate(3), 1.0, 1.15);
        }
        "256 KiB, 64 connections" => {
            promises.at_least("256 KiB: requests/s, of nginx with tuned buffers", rate(1), 1.2, 1.6);
        }
        "128 B at 30 % of the load" => {
            promises.at_most("at 30 %: p50, of nginx", ratio(rounds, 1, |f| f.seen.p50), 1.05, 0.9);
            promises.at_most("at 30 %: p99, of nginx", ratio(rounds, 1, |f| f.seen.p99), 1.1, 0.8);
        }
        _ => {}
    }
}
