//! Commands that end: each has a bound, what it says is kept, and Ctrl-C reaches the benchmark alone.

use std::{
    fs::File,
    io::{ErrorKind, Read as _, Seek as _},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::patience::{Patience, STEP};

/// Runs a command to its end, within a minute; its output is returned, its failure has what it said.
pub(crate) fn run(patience: &Patience, command: &mut Command) -> Result<String> {
    let mut said = tempfile::tempfile()?;
    let mut child = start(command, &said)?;
    let name = command.get_program().to_string_lossy().into_owned();
    let status = match patience.until(&name, STEP, || Ok(child.try_wait()?)) {
        Ok(status) => status,
        Err(why) => {
            stop(&mut child, Duration::ZERO);
            return Err(why);
        }
    };
    let text = read(&mut said)?;
    if !status.success() {
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
        bail!("{name} {}: {status}\n{}", words.join(" "), text.trim_end());
    }
    Ok(text)
}

/// Runs a command of the end, whose failure changes nothing: it may have nothing to do.
pub(crate) fn run_at_the_end(command: &mut Command) {
    drop(run(&Patience::for_the_end(), command));
}

/// Starts a command in a process group of its own, with its output in a file.
pub(crate) fn start(command: &mut Command, output: &File) -> Result<Child> {
    let name = command.get_program().to_string_lossy().into_owned();
    command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?)
        .process_group(0)
        .spawn()
        .map_err(|error| missing(&name, &error))
}

/// What a file has, from its beginning.
pub(crate) fn read(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Ends a child that this process started: by SIGTERM, and after `grace` by SIGKILL.
pub(crate) fn stop(child: &mut Child, grace: Duration) {
    let end = Patience::for_the_end();
    if !grace.is_zero() {
        kill_process(Pid::from_child(child), Signal::TERM).unwrap_or_default();
        if end.until("an end", grace, || Ok(child.try_wait()?)).is_ok() {
            return;
        }
    }
    child.kill().unwrap_or_default();
    drop(child.wait());
}

/// Expects a program on the path.
pub(crate) fn expect(program: &str) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|folder| folder.join(program).is_file()) {
        return Ok(());
    }
    Err(missing(program, &ErrorKind::NotFound.into()))
}

fn missing(program: &str, error: &std::io::Error) -> anyhow::Error {
    let package = match program {
        "docker" | "dockerd" => "docker.io",
        "ip" => "iproute2",
        "cc" => "gcc",
        other => other,
    };
    if error.kind() == ErrorKind::NotFound {
        return anyhow!("{program} isn't there; on Debian: apt-get install {package}");
    }
    anyhow!("{program} can't be run: {error}")
}

/// Removes a control group of the benchmark's own from every hierarchy that has it.
pub(crate) fn remove_groups(name: &str) {
    let Ok(hierarchies) = std::fs::read_dir("/sys/fs/cgroup") else { return };
    let mut bases: Vec<_> = hierarchies.flatten().map(|entry| entry.path()).collect();
    bases.push("/sys/fs/cgroup".into());
    for base in bases {
        std::fs::remove_dir(base.join(name)).unwrap_or_default();
    }
}

/// Fails when this isn't root.
pub(crate) fn expect_root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let program = std::env::current_exe().context("this program isn't known")?;
    bail!("containers and networks need root: sudo -E {} …", program.display())
}

/// In what /proc/PID/stat counts, whatever the kernel's own clock does.
const TICK: Duration = Duration::from_millis(10);

/// The time that a process was on a processor: all its threads, and those that ended.
pub(crate) fn busy(pid: u32) -> Result<Duration> {
    times(&format!("/proc/{pid}/stat"), 11)
}

/// The time that this process's children, and theirs, were on a processor, once they have ended.
pub(crate) fn spent_by_children() -> Result<Duration> {
    times("/proc/self/stat", 13)
}

fn times(path: &str, skip: usize) -> Result<Duration> {
    let text = std::fs::read_to_string(path).with_context(|| format!("can't read {path}"))?;
    ticks(&text, skip).map(|ticks| TICK * ticks).with_context(|| format!("{path} is odd"))
}

/// Two fields, so many after the name, which is in brackets and may have spaces.
fn ticks(stat: &str, skip: usize) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(skip);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::ticks;

    #[test]
    fn names_with_brackets_are_skipped() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 5 0 0 0 31 11 5 6 20 0 5 0 99 1 2";
        assert_eq!((ticks(stat, 11), ticks(stat, 13)), (Some(42), Some(11)));
    }
}
