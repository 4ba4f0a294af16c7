//! Minato measured beside its peers, one command a claim:
//!
//! ```text
//! cargo run --release -p minato-bench -- cold-start | footprint | build-time
//! ```
//!
//! What a benchmark makes (processes, networks, control groups, folders) is gone after it, also when it
//! fails or is interrupted.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark speaks to whoever runs it")]

mod build_time;
mod cold_start;
mod docker;
mod figures;
mod footprint;
mod image;
mod machine;
mod minato;
mod network;
mod patience;
mod processes;
mod runc;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use patience::Patience;

#[derive(Debug, Parser)]
#[command(name = "minato-bench", about = "Measures Minato beside its peers")]
struct Arguments {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Debug, Subcommand)]
enum Benchmark {
    /// The first request to a service at zero, beside `runc run` and `docker run`
    ColdStart(cold_start::Arguments),
    /// Memory, processor and size of a server with ten services at zero
    Footprint(footprint::Arguments),
    /// A release build from nothing
    BuildTime,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let patience = Patience::until_interrupted();
    let done = match arguments.benchmark {
        Benchmark::ColdStart(arguments) => cold_start::run(&arguments, &patience),
        Benchmark::Footprint(arguments) => footprint::run(&arguments, &patience),
        Benchmark::BuildTime => build_time::run(&patience),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("minato-bench: {why:#}");
            ExitCode::FAILURE
        }
    }
}
