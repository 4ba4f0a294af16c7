//! Many routes beside few: two servers with the same instance behind one host, asked in turns; one of them has
//! thousands of other hosts.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Context as _, Result};

use super::{Arguments, Case, Client, Place, Side, measure, ratio, report};
use crate::{
    figures::{count, kinds, ms, number},
    image::Program,
    load::{Load, Plan, failures},
    machine,
    minato::{self, Server, host},
    patience::{Patience, now},
    processes::expect,
    promises::Promises,
};

/// Hosts beside the one that is asked: services of an app, hosts of each, and apps.
const MANY: [usize; 3] = [50, 10, 20];

pub(crate) fn run(arguments: &Arguments, patience: &Patience) -> Result<Promises> {
    expect("wrk")?;
    let (_few_folder, few) = minato::served(patience, Program::Quick)?;
    let (_many_folder, many) = minato::served(patience, Program::Quick)?;
    let keys = "scale = { min = 2, max = 2, concurrency = 1000 }\nrecycle = { requests = 0 }";
    for server in [&few, &many] {
        server.apply(patience, &minato::services(Program::Quick, 1, keys))?;
        server.ready(patience, 2)?;
    }
    let before = resident(&many)?;
    let [services, hosts, apps] = MANY;
    for app in 0..apps {
        many.apply(patience, &manifest(app, services, hosts))?;
    }
    let routes = services * hosts * apps;
    let grown = resident(&many)?.saturating_sub(before);
    let host = host(0);
    let place =
        |server: &Server| Place { address: server.http(), http2: server.http(), host: &host, tls: false };
    let sides = [
        Side { name: "10,000 routes", place: place(&many), pids: Box::new(|| Ok(vec![many.pid()])) },
        Side { name: "one route", place: place(&few), pids: Box::new(|| Ok(vec![few.pid()])) },
    ];
    println!("{} threads each; {} rounds of {} s\n", machine::cores(), arguments.rounds, arguments.seconds);
    let case = Case { name: "many routes", client: Client::Http1("/small"), connections: 64 };
    let rounds = measure(arguments, patience, &case, &sides)?;
    println!("{}\n{}", case.name, report(&sides, &rounds));
    println!(
        "{routes} hosts of {} services: the server's memory grew by {} MiB, {} KiB a service\n",
        services * apps,
        number(kibibytes(grown) / 1024.0),
        number(kibibytes(grown) / kibibytes(u64::try_from(services * apps).unwrap_or(1))),
    );
    let mut promises = Promises::default();
    promises.at_most(
        "P8 cpu a request with 10,000 routes, of that with one",
        ratio(&rounds, 1, |f| f.cpu),
        1.05,
        None,
    );
    swap(arguments, patience, &mut promises)?;
    Ok(promises)
}

/// Moves a host from one service to another and back, under load: how long after the API's answer the old
/// one's last answer comes.
fn swap(arguments: &Arguments, patience: &Patience, promises: &mut Promises) -> Result<()> {
    let (_folder, server) = minato::served(patience, Program::Many)?;
    let manifest = |owner: usize| {
        let service = |number: usize| {
            let hosts = if number == owner { format!("hosts = [\"{}\"]\n", host(0)) } else { String::new() };
            let image = Program::Many.image();
            format!(
                "[services.s{number}]\nimage = \"{image}\"\n{hosts}scale = {{ min = 1, max = 1, concurrency = 100 }}\n"
            )
        };
        format!("app = \"bench\"\n{}{}", service(0), service(1))
    };
    server.apply(patience, &manifest(0))?;
    let ready = server.ready(patience, 2)?;
    let of = |service: &str| {
        let one = ready.iter().find(|one| one["service"] == service);
        one.and_then(|one| one["id"].as_str()).map(str::to_owned).context("an instance without an id")
    };
    let instances = [of("s0")?, of("s1")?];
    let load = Load::start(&Plan {
        address: server.http(),
        hosts: vec![host(0)],
        path: "/",
        rate: 1_000,
        connections: 32,
    });
    let mut moved = Vec::new();
    for turn in 1..=2 * arguments.rounds {
        patience.rest(Duration::from_millis(500))?;
        let asked = now();
        moved.push((asked, server.applied(&manifest(turn % 2))?, instances[(turn + 1) % 2].clone()));
    }
    patience.rest(Duration::from_millis(500))?;
    let samples = load.finish()?;
    // From then on it may be the old service's again.
    let until = moved.iter().skip(1).map(|(asked, ..)| Some(*asked)).chain([None]);
    let late = moved.iter().zip(until).map(|((_, answered, old), until)| {
        let theirs = samples.iter().filter(|sample| sample.outcome.as_ref().is_ok_and(|name| name == old));
        let within = theirs.filter(|sample| until.is_none_or(|until| sample.ended < until));
        within.map(|sample| sample.ended.saturating_duration_since(*answered)).max().map_or(0.0, ms)
    });
    let late = late.fold(0.0, f64::max);
    let failed = failures(&samples);
    println!(
        "a host moved {} times under 1,000 requests a second: the old service's last answer came {} ms after \
         the API's at most; {} of {} requests failed\n",
        moved.len(),
        number(late),
        failed.len(),
        samples.len()
    );
    println!("{}", kinds(&failed));
    promises.at_most("P8 the old route's last answer, ms after the API's", late, 50.0, None);
    promises.at_most("P8 failed while routes change", count(failed.len()), 0.0, None);
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "far below what a float holds exactly")]
fn kibibytes(count: u64) -> f64 {
    count as f64
}

/// An app of services that are at rest, each with hosts of its own.
fn manifest(app: usize, services: usize, hosts: usize) -> String {
    let mut text = format!("app = \"many{app}\"\n");
    for service in 0..services {
        let all: Vec<_> = (0..hosts).map(|n| format!("\"h{n}.s{service}.a{app}.localhost\"")).collect();
        // Writing to a String never fails.
        write!(
            text,
            "[services.s{service}]\nimage = \"{}\"\nhosts = [{}]\n",
            Program::Quick.image(),
            all.join(", ")
        )
        .unwrap_or_default();
    }
    text
}

/// What the server holds, in KiB.
fn resident(server: &Server) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
