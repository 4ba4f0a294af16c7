//! Minato measured beside its peers, one command a claim:
//!
//! ```text
//! cargo run --release -p minato-bench -- cold-start | herd | churn | recycle | rotation | kills | edge | edge-tls | outliers | overload | footprint | build-time
//! ```
//!
//! What a benchmark makes (processes, networks, control groups, folders) is gone after it, also when it
//! fails or is interrupted.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark speaks to whoever runs it")]

mod build_time;
mod churn;
mod cold_start;
mod crowd;
mod docker;
mod edge;
mod figures;
mod footprint;
mod herd;
mod image;
mod kernel;
mod kills;
mod load;
mod machine;
mod minato;
mod network;
mod patience;
mod processes;
mod promises;
mod recycle;
mod rotation;
mod runc;
mod wire;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use patience::Patience;

#[derive(Debug, Parser)]
#[command(name = "minato-bench", about = "Measures Minato beside its peers")]
struct Arguments {
    /// Fail when a promise is missed, not only when the run itself fails
    #[arg(long, global = true)]
    check: bool,
    /// A few rounds only, to see that it works; the figures mean nothing
    #[arg(long, global = true)]
    quick: bool,
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Debug, Subcommand)]
enum Benchmark {
    /// The first request to a service at zero, beside `runc run` and `docker run`
    ColdStart(cold_start::Arguments),
    /// Many services at zero asked at once, and one asked by many
    Herd(herd::Arguments),
    /// Starts and stops without a pause, and what is left of them
    Churn(churn::Arguments),
    /// Instances renewed all the time under constant load
    Recycle(recycle::Arguments),
    /// Roots, intermediates and every instance renewed under constant load (P13)
    Rotation(rotation::Arguments),
    /// `kill -9` of an instance and of the server, and a new server taking over, under load
    Kills(kills::Arguments),
    /// Requests through the edge, beside nginx and HAProxy
    Edge(edge::Arguments),
    /// The same with TLS: at the door, and to instances
    EdgeTls(edge::Arguments),
    /// One failing and one slow instance among eight, beside nginx and HAProxy
    Outliers(edge::trouble::Arguments),
    /// Twice the load that the instances can do, likewise
    Overload(edge::trouble::Arguments),
    /// Many routes beside few: cpu a request, memory (P8)
    Routes(edge::Arguments),
    /// Memory, processor and size of a server with ten services at zero
    Footprint(footprint::Arguments),
    /// A release build from nothing
    BuildTime,
}

fn main() -> ExitCode {
    let Arguments { check, quick, benchmark } = Arguments::parse();
    let patience = Patience::until_interrupted();
    let done = match benchmark {
        Benchmark::ColdStart(arguments) => cold_start::run(&arguments.of(quick), &patience),
        Benchmark::Herd(arguments) => herd::run(&arguments.of(quick), &patience),
        Benchmark::Churn(arguments) => churn::run(&arguments.of(quick), &patience),
        Benchmark::Recycle(arguments) => recycle::run(&arguments.of(quick), &patience),
        Benchmark::Rotation(arguments) => rotation::run(&arguments.of(quick), &patience),
        Benchmark::Kills(arguments) => kills::run(&arguments.of(quick), &patience),
        Benchmark::Edge(arguments) => edge::run(&arguments.of(quick), &patience),
        Benchmark::EdgeTls(arguments) => edge::tls::run_all(&arguments.of(quick), &patience),
        Benchmark::Outliers(arguments) => edge::trouble::outliers(&arguments.of(quick), &patience),
        Benchmark::Overload(arguments) => edge::trouble::overload(&arguments.of(quick), &patience),
        Benchmark::Routes(arguments) => edge::routes::run(&arguments.of(quick), &patience),
        Benchmark::Footprint(arguments) => footprint::run(&arguments.of(quick), &patience),
        Benchmark::BuildTime => build_time::run(&patience),
    };
    match done {
        Ok(promises) => {
            println!("{}", promises.table());
            let missed = promises.missed();
            if check && !missed.is_empty() {
                eprintln!("minato-bench: missed: {}", missed.join("; "));
                return ExitCode::FAILURE;
            }
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("minato-bench: {why:#}");
            ExitCode::FAILURE
        }
    }
}
