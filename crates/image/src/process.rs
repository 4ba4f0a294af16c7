//! What an instance runs: a release's own words over its image's.

use minato_model::{code::Code, release::ReleaseSpec};

use crate::manifest::ImageConfig;

/// Where programs are looked for when neither image nor release says.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A process to be started in an image's tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// The program and its arguments; never empty.
    pub argv: Vec<String>,
    /// Its environment, each name once: the image's in its order, then the release's by name.
    pub env: Vec<(String, String)>,
    /// Where it starts: absolute, without `.` and `..`.
    pub cwd: String,
    /// Whom it runs as, for [`crate::users::resolve`].
    pub user: String,
    /// The number of the signal that asks it to end.
    pub stop_signal: i32,
    /// Paths that become memory file systems, sorted, each once.
    pub volumes: Vec<String>,
}

/// Why there is nothing to start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProcessError {
    /// Neither image nor release says what to run.
    #[error("the image has neither entrypoint nor cmd: write the `command` of the service")]
    NoCommand,
    /// The program's name is empty.
    #[error("the command begins with an empty word: nothing can be run by that name")]
    EmptyCommand,
    /// A zero byte, which no argument of a process can have.
    #[error("{0} has a zero byte, which no process can be given")]
    ZeroByte(&'static str),
    /// A name that no variable can have.
    #[error("`{0}` is no name of an environment variable")]
    VariableName(String),
    /// A signal that isn't known.
    #[error("the image's stop signal `{0}` is no signal of Linux")]
    StopSignal(String),
    /// A path that leads upwards or isn't absolute.
    #[error("the image's volume `{0}` is no absolute path without `..`")]
    Volume(String),
}

impl ProcessError {
    /// The code that stands for it.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::NoCommand | Self::EmptyCommand => Code::EntrypointMissing,
            Self::ZeroByte(_) | Self::VariableName(_) | Self::StopSignal(_) | Self::Volume(_) => {
                Code::ImageRefused
            }
        }
    }
}

/// What runs when `release` is started from an image of this configuration.
///
/// # Errors
/// When there is no command, or something in it can't be given to a process.
pub fn resolve(image: &ImageConfig, release: &ReleaseSpec) -> Result<Process, ProcessError> {
    let argv = if release.command.is_empty() {
        [image.entrypoint.as_slice(), image.cmd.as_slice()].concat()
    } else {
        release.command.clone()
    };
    match argv.first().map(String::as_str) {
        None => return Err(ProcessError::NoCommand),
        Some("") => return Err(ProcessError::EmptyCommand),
        Some(_) => {}
    }
    if argv.iter().any(|word| word.contains('\0')) {
        return Err(ProcessError::ZeroByte("the command"));
    }
    let mut volumes = release.writable.clone();
    for path in &image.volumes {
        volumes.push(absolute(path).ok_or_else(|| ProcessError::Volume(shown(path)))?);
    }
    volumes.sort();
    volumes.dedup();
    Ok(Process {
        argv,
        env: environment(image, release)?,
        cwd: working_directory(&image.working_dir)?,
        user: if release.user.is_empty() { image.user.clone() } else { release.user.clone() },
        stop_signal: image.stop_signal.as_deref().map_or(Ok(SIGTERM), signal)?,
        volumes,
    })
}

fn environment(image: &ImageConfig, release: &ReleaseSpec) -> Result<Vec<(String, String)>, ProcessError> {
    let mut env: Vec<(String, String)> = Vec::new();
    let path = ("PATH".to_owned(), PATH.to_owned());
    let releases = release.env.iter().map(|(name, value)| (name.clone(), value.clone()));
    for (name, value) in std::iter::once(path).chain(image.env.iter().cloned()).chain(releases) {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(ProcessError::VariableName(shown(&name)));
        }
        if value.contains('\0') {
            return Err(ProcessError::ZeroByte("the environment"));
        }
        match env.iter_mut().find(|(known, _)| *known == name) {
            Some(known) => known.1 = value,
            None => env.push((name, value)),
        }
    }
    Ok(env)
}

/// From the root, as a path in a tree: an image's working directory may be written carelessly.
fn working_directory(path: &str) -> Result<String, ProcessError> {
    if path.contains('\0') {
        return Err(ProcessError::ZeroByte("the working directory"));
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    Ok(format!("/{}", parts.join("/")))
}

/// A volume's path without empty parts and `.`; `None`: it can't be one.
fn absolute(path: &str) -> Option<String> {
    if !path.starts_with('/') || path.contains('\0') {
        return None;
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    // A memory file system over the root would hide the image.
    if parts.is_empty() || parts.contains(&"..") { None } else { Some(format!("/{}", parts.join("/"))) }
}

fn shown(text: &str) -> String {
    text.chars().take(160).flat_map(char::escape_debug).collect()
}

const SIGTERM: i32 = 15;

/// `SIGQUIT`, `QUIT`, `3`, `SIGRTMIN+3`.
fn signal(text: &str) -> Result<i32, ProcessError> {
    // The numbers of x86, ARM, RISC-V, POWER and S/390; only MIPS, SPARC and Alpha differ.
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    // What the C libraries call SIGRTMIN and SIGRTMAX: the kernel's first two are theirs.
    const REALTIME: (i32, i32) = (34, 64);
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = if let Ok(number) = name.parse::<i32>() {
        Some(number)
    } else if let Some(offset) = name.strip_prefix("RTMIN") {
        let offset = if offset.is_empty() { Some(0) } else { offset.strip_prefix('+').and_then(digits) };
        offset.map(|offset| REALTIME.0 + offset)
    } else if let Some(offset) = name.strip_prefix("RTMAX") {
        let offset = if offset.is_empty() { Some(0) } else { offset.strip_prefix('-').and_then(digits) };
        offset.map(|offset| REALTIME.1 - offset)
    } else {
        (1..).zip(NAMES).find(|(_, known)| *known == name).map(|(number, _)| number)
    };
    number.filter(|number| (1..=64).contains(number)).ok_or_else(|| ProcessError::StopSignal(shown(text)))
}

fn digits(text: &str) -> Option<i32> {
    text.parse::<u8>().ok().map(i32::from)
}

#[cfg(test)]
mod tests;
