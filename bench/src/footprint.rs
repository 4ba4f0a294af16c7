//! What a server weighs that does nothing: ten services at zero, each asked once before.

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{
    figures::table,
    image::{self, Program},
    kernel::{megabytes, share},
    machine,
    minato::{self, Server},
    patience::{Patience, now},
    processes::{busy, expect_root},
    promises::Promises,
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

impl Arguments {
    pub(crate) fn of(self, quick: bool) -> Self {
        if quick { Self { seconds: 3 } } else { self }
    }
}

pub(crate) fn run(arguments: &Arguments, patience: &Patience) -> Result<Promises> {
    expect_root()?;
    let program = minato::program()?;
    let folder = image::workshop()?;
    let server = Server::start(patience, &program, folder.path(), "")?;
    server.push(patience, folder.path(), Program::Ok)?;
    server.apply(patience, &minato::services(Program::Ok, SERVICES, "scale = { idle = \"100ms\" }"))?;
    for number in 0..SERVICES {
        server.ask(&minato::host(number), "/")?;
    }
    server.at_zero(patience)?;
    // What follows the last instance's end is over.
    patience.rest(Duration::from_secs(5))?;
    let (own, keeper) = (server.pid(), server.keeper()?);
    let parked = parked(keeper)?;
    let processes = || -> Result<_> { Ok(busy(own)? + busy(keeper)?) };
    let before = processes()?;
    let begun = now();
    patience.rest(Duration::from_secs(arguments.seconds))?;
    let elapsed = begun.elapsed();
    let spent = processes()? - before;
    println!("{}; {SERVICES} services at zero, each asked once before\n", machine::line());
    let (own, keeper) = (megabytes(share(own)?), megabytes(share(keeper)?));
    let shares: Result<Vec<u64>> = parked.iter().map(|&pid| share(pid)).collect();
    let waiting = megabytes(shares?.iter().sum());
    let row = |what: String, found: f64| vec![what, format!("{found:.2}")];
    let rows = [
        row("server".to_owned(), own),
        row("keeper".to_owned(), keeper),
        row(format!("{} parked inits", parked.len()), waiting),
    ];
    println!("{}", table(&["idle, PSS", "MB"], &rows));
    let mut promises = Promises::default();
    promises.at_most("all together, PSS, MB (P23)", own + keeper + waiting, MEMORY_MAX, None);
    let busy = 100.0 * spent.as_secs_f64() / elapsed.as_secs_f64();
    let what = format!("processor, % of one core over {} s (P23)", arguments.seconds);
    promises.at_most(&what, busy, PROCESSOR_MAX, None);
    let size = std::fs::metadata(&program)?.len();
    promises.at_most("program, MB (P23)", megabytes(size), PROGRAM_MAX, None);
    Ok(promises)
}

/// The first processes of the sandboxes that wait: the keeper's children.
fn parked(keeper: u32) -> Result<Vec<u32>> {
    let path = format!("/proc/{keeper}/task/{keeper}/children");
    let text = std::fs::read_to_string(&path).with_context(|| format!("can't read {path}"))?;
    text.split_whitespace().map(|pid| Ok(pid.parse()?)).collect()
}
