//! Chores of the project: `cargo xtask test` runs every test on a fresh machine, `cargo xtask ci` all
//! that guards a change.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a chore speaks to whoever runs it")]

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, ExitCode, Stdio},
};

/// What the tests use besides Rust, as Debian calls it.
const PACKAGES: [&str; 18] = [
    "buildah",
    "busybox-static",
    "curl",
    "docker.io",
    "gcc",
    "iproute2",
    "libc6-dev",
    "mmdebstrap",
    "musl-tools",
    "nftables",
    "nodejs",
    "openssl",
    "pebble",
    "podman",
    "procps",
    "python3",
    "runc",
    "skopeo",
];

/// Programs by which a machine without dpkg is judged.
const PROGRAMS: [&str; 14] = [
    "buildah",
    "busybox",
    "curl",
    "docker",
    "ip",
    "mmdebstrap",
    "musl-gcc",
    "nft",
    "node",
    "openssl",
    "pebble",
    "podman",
    "runc",
    "skopeo",
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["test", rest @ ..] => test(rest, Again::Never),
        ["ci"] => ci(),
        ["packages"] => packages(),
        _ => Err("usage: cargo xtask test [FILTER …] | ci | packages".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Whether tests that fail are run once more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    Never,
    /// Alone, and told loudly: a machine that is shared may stand still for longer than a test waits.
    Once,
}

/// Every test: those of the crates, and those that run the real binary with real parts.
fn test(rest: &[&str], again: Again) -> Result<(), String> {
    if !is_root()? {
        return Err(
            "the tests make containers and networks: run them as root, `sudo -E cargo xtask test`".to_owned()
        );
    }
    packages()?;
    // The tests start the program itself.
    run("cargo", &["build", "--locked", "--package", "minato"])?;
    let mut arguments = vec!["test", "--locked", "--workspace", "--no-fail-fast"];
    if !rest.is_empty() {
        arguments.push("--");
        arguments.extend(rest);
    }
    let Err((why, failed)) = tests(&arguments) else { return Ok(()) };
    if again == Again::Never || failed.is_empty() || failed.len() > AGAIN_MAX {
        return Err(why);
    }
    for target in &failed {
        let mut arguments = vec!["test", "--locked"];
        arguments.extend(target.split_whitespace());
        arguments.extend(["--", "--test-threads=1"]);
        run("cargo", &arguments)?;
        println!("xtask: UNSTEADY: {target} failed, and passed alone: find out why, and mend it");
    }
    Ok(())
}

/// More test programs than this fail by no accident.
const AGAIN_MAX: usize = 3;

/// Runs tests; else why not, and the test programs that failed, as `cargo test` takes them.
fn tests(arguments: &[&str]) -> Result<(), (String, Vec<String>)> {
    println!("xtask: cargo {}", arguments.join(" "));
    let why = |why: String| (why, Vec::new());
    let mut cargo = Command::new("cargo")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| why(format!("cargo can't be run: {error}")))?;
    let mut failed = Vec::new();
    for line in cargo.stderr.take().into_iter().flat_map(|stderr| BufReader::new(stderr).split(b'\n')) {
        let line = line.map_err(|error| why(format!("what cargo says can't be read: {error}")))?;
        let line = String::from_utf8_lossy(&line);
        eprintln!("{line}");
        // At its end cargo lists them: `-p NAME --test FILE`, in backquotes.
        let target = line.trim().strip_prefix('`').and_then(|line| line.strip_suffix('`'));
        failed.extend(target.filter(|target| target.starts_with("-p ")).map(str::to_owned));
    }
    let status = cargo.wait().map_err(|error| why(error.to_string()))?;
    if status.success() { Ok(()) } else { Err((format!("cargo test: {status}"), failed)) }
}

/// What guards a change, in the order of what fails soonest.
fn ci() -> Result<(), String> {
    run("cargo", &["fmt", "--all", "--check"])?;
    run("cargo", &["deny", "--locked", "check", "bans", "licenses", "sources"])?;
    run("cargo", &["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    test(&[], Again::Once)?;
    run("cargo", &["doc", "--locked", "--workspace", "--no-deps", "--document-private-items"])
}

/// Installs what the tests use, where that is possible; else names what is missing.
fn packages() -> Result<(), String> {
    let debian = Path::new("/usr/bin/apt-get").exists();
    if !debian {
        let missing: Vec<_> = PROGRAMS.iter().filter(|program| !on_path(program)).copied().collect();
        if missing.is_empty() {
            return Ok(());
        }
        return Err(format!(
            "the tests need {}; install them with your system's packages",
            missing.join(", ")
        ));
    }
    let missing: Vec<_> = PACKAGES.iter().filter(|package| !installed(package)).copied().collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("xtask: installing {}", missing.join(" "));
    run("apt-get", &["update", "-qq"])?;
    let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
    arguments.extend(missing);
    run("apt-get", &arguments)
}

fn installed(package: &str) -> bool {
    // Some machines have a newer program from elsewhere under the name of a package.
    let named = match package {
        "nodejs" => "node",
        "gcc" | "curl" | "python3" => package,
        _ => "",
    };
    let known = Command::new("dpkg-query").args(["-W", "-f=${Status}", package]).output();
    let known = known.is_ok_and(|output| output.stdout.ends_with(b"install ok installed"));
    known || (!named.is_empty() && on_path(named))
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn is_root() -> Result<bool, String> {
    let status = std::fs::read_to_string("/proc/self/status").map_err(|error| error.to_string())?;
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    Ok(uid.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0"))
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    println!("xtask: {program} {}", arguments.join(" "));
    let status = Command::new(program)
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("RUSTDOCFLAGS", "-D warnings")
        .status()
        .map_err(|error| format!("{program} can't be run: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{program} {}: {status}", arguments.join(" "))) }
}
