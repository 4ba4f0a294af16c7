//! Where and when: figures mean little without it.

use std::process::Command;

/// One line about the machine and the moment.
#[expect(clippy::disallowed_methods, reason = "a report bears its date")]
pub(crate) fn line() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cores = cores();
    let load = read("/proc/loadavg");
    let load: Vec<_> = load.split(' ').take(3).collect();
    let date = jiff::Timestamp::try_from(std::time::SystemTime::now()).unwrap_or_default();
    format!(
        "{}, {cores} cores, kernel {}, load {}",
        date.strftime("%Y-%m-%d %H:%M UTC"),
        read("/proc/sys/kernel/osrelease"),
        load.join(" ")
    )
}

/// How many processors there are.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}

/// The first line of what a program says of its version.
pub(crate) fn version(program: &str) -> String {
    let output = Command::new(program).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}
