//! How long a release build takes from nothing, on two cores.

use std::{process::Command, time::Duration};

use anyhow::{Result, bail};

use crate::{
    image, machine, minato,
    patience::{Patience, now},
    processes::{read, spent_by_children, start, stop},
    promises::Promises,
};

/// What a clean build may take.
const BOUND: Duration = Duration::from_secs(8 * 60);
/// A build that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60 * 60);

pub(crate) fn run(patience: &Patience) -> Result<Promises> {
    let target = image::workshop()?;
    let before = machine::line();
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["build", "--release", "--locked", "--jobs", "2", "--package", "minato", "--manifest-path"])
        .arg(minato::workspace().join("Cargo.toml"))
        .env("CARGO_TARGET_DIR", target.path())
        // A cache of compiled crates would make it another measurement.
        .env("RUSTC_WRAPPER", "")
        .env("CARGO_BUILD_RUSTC_WRAPPER", "");
    let mut output = tempfile::tempfile()?;
    let begun = now();
    let mut child = start(&mut command, &output)?;
    let status = patience.until("the build", PATIENCE, || Ok(child.try_wait()?));
    let took = begun.elapsed();
    if status.is_err() {
        stop(&mut child, Duration::from_secs(10));
    }
    if !status?.success() {
        bail!("the build failed:\n{}", read(&mut output)?);
    }
    println!("before: {before}\nafter:  {}\n", machine::line());
    let minutes = |time: Duration| time.as_secs_f64() / 60.0;
    // On a shared machine this tells more than the wall: two cores of its own need half of it, and more.
    println!("on processors: {:.1} min\n", minutes(spent_by_children()?));
    let mut promises = Promises::default();
    promises.at_most("clean release build, 2 jobs, min (P24)", minutes(took), minutes(BOUND), None);
    Ok(promises)
}
