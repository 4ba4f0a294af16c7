//! A server that goes on after the command that started it: whoever waits for that command, as a
//! service manager's reload does, waits until the server is ready and no longer.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
};

use anyhow::Context as _;

use crate::{failure::Failure, show};

/// The flag that brings here.
const FLAG: &str = "--background";

/// Runs this very command line without the flag as a process of its own, and says what it says first.
pub(crate) fn run() -> Result<(), Failure> {
    super::must_be_root()?;
    let program = std::env::current_exe().context("can't find this program")?;
    let mut child = Command::new(program)
        .args(std::env::args_os().skip(1).filter(|word| word != FLAG))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // What a terminal sends to the command doesn't reach it.
        .process_group(0)
        .spawn()
        .context("can't start the server")?;
    let mut line = String::new();
    if let Some(said) = child.stdout.take() {
        BufReader::new(said).read_line(&mut line).context("can't hear the server")?;
    }
    if line.starts_with("ready ") {
        show::line(line.trim_end());
        return Ok(());
    }
    let status = child.wait().context("can't wait for the server")?;
    Err(anyhow::anyhow!("the server is not ready: it ended with {status}; what it said is above").into())
}
