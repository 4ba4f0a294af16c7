//! What a server weighs that does nothing: ten services at zero, each asked once before.

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{
    figures::table,
    image, machine,
    minato::{self, Server},
    patience::{Patience, now},
    processes::{busy, expect_root},
};

const SERVICES: usize = 10;
/// Megabytes of memory that all processes together may have.
const MEMORY_MAX: f64 = 40.0;
/// Percent of a core.
const PROCESSOR_MAX: f64 = 1.0;
/// Megabytes of the program.
const PROGRAM_MAX: f64 = 40.0;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Seconds over which the processor's share is taken
    #[arg(long, default_value_t = 30)]
    seconds: u64,
}

pub(crate) fn run(arguments: &Arguments, patience: &Patience) -> Result<()> {
    expect_root()?;
    let program = minato::program()?;
    let folder = image::workshop()?;
    let root = image::make(patience, folder.path())?;
    let server = Server::start(patience, &program, folder.path())?;
    server.apply(patience, &root, &manifest())?;
    for number in 0..SERVICES {
        server.ask(&format!("ok{number}.localhost"))?;
    }
    server.at_zero(patience)?;
    // What follows the last instance's end is over.
    patience.rest(Duration::from_secs(5))?;
    let (own, keeper) = (server.pid(), server.keeper()?);
    let before = busy(own)? + busy(keeper)?;
    let begun = now();
    patience.rest(Duration::from_secs(arguments.seconds))?;
    let elapsed = begun.elapsed();
    let spent = busy(own)? + busy(keeper)? - before;
    let (own, keeper) = (memory(own)?, memory(keeper)?);
    println!("{}; {SERVICES} services at zero, each asked once before\n", machine::line());
    let row = |what: &str, found: f64, bound: f64, unit: &str| {
        let word = if found < bound { "met" } else { "MISSED" };
        vec![what.to_owned(), format!("{found:.2} {unit}"), format!("< {bound:.0} {unit}"), word.to_owned()]
    };
    let share = 100.0 * spent.as_secs_f64() / elapsed.as_secs_f64();
    let size = std::fs::metadata(&program)?.len();
    let rows = [
        vec!["server, PSS".to_owned(), format!("{own:.2} MB"), String::new(), String::new()],
        vec!["keeper, PSS".to_owned(), format!("{keeper:.2} MB"), String::new(), String::new()],
        row("both, PSS", own + keeper, MEMORY_MAX, "MB"),
        row(&format!("processor, of one core over {} s", arguments.seconds), share, PROCESSOR_MAX, "%"),
        row("program", megabytes(size), PROGRAM_MAX, "MB"),
    ];
    println!("{}", table(&["idle", "found", "bound (P23)", ""], &rows));
    Ok(())
}

fn manifest() -> String {
    let service = |number| {
        format!(
            "[services.ok{number}]\nimage = \"bench/ok:1\"\nhosts = [\"ok{number}.localhost\"]\n\
             scale = {{ idle = \"100ms\" }}\n"
        )
    };
    let services: String = (0..SERVICES).map(service).collect();
    format!("app = \"bench\"\n{services}")
}

/// A process's share of memory, in megabytes; pages that are shared count in part.
fn memory(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(&path).with_context(|| format!("can't read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss in smaps_rollup")?;
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(megabytes(kibibytes << 10))
}

#[expect(clippy::cast_precision_loss, reason = "a size to show")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
