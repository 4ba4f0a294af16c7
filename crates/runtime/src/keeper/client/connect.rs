//! The way to a keeper: one that is there is greeted, else one is started. Nothing here waits for ever.

use std::{
    fs,
    io::{self, Read},
    os::fd::OwnedFd,
    path::Path,
    process::{ChildStdout, Command, Stdio},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        RecvFlags, SendFlags, connect,
        sockopt::{Timeout, set_socket_timeout},
    },
};

use super::{
    super::{
        ARGUMENT, Config, READY, TAKEN, address, new_socket, open_folder,
        protocol::{FIRST, Reply, Request},
    },
    KeeperError,
};
use crate::{ids::Ids, init::monotonic, spec::Held, wire};

/// The longest that a keeper may take to be there, and to say what it holds.
pub(super) const START_MAX: Duration = Duration::from_secs(10);

/// Connects, if somebody listens.
pub(super) fn connect_to(config: &Config) -> io::Result<OwnedFd> {
    let directory = open_folder(&config.data.join("keeper"))?;
    let socket = new_socket()?;
    // For what is said before anything is asked; the reading thread waits for ever.
    set_socket_timeout(&socket, Timeout::Recv, Some(START_MAX))?;
    set_socket_timeout(&socket, Timeout::Send, Some(START_MAX))?;
    connect(&socket, &address(&directory)?)?;
    Ok(socket)
}

/// Starts a keeper; `None`: there is one that is just starting or ending.
pub(super) fn start(config: &Config, limit: Duration) -> Result<Option<std::process::Child>, KeeperError> {
    let failed = |what: &str, error: &io::Error| KeeperError::Start { reason: format!("{what}: {error}") };
    let folder = config.data.join("keeper");
    fs::create_dir_all(&folder).map_err(|error| failed("its folder", &error))?;
    let log = open_log(&folder).map_err(|error| failed("its log", &error))?;
    let mut process = Command::new(&config.exe)
        .arg(ARGUMENT)
        .arg(&config.data)
        .arg(&config.id)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|error| failed("executing the server's own binary", &error))?;
    let said = match process.stdout.take() {
        Some(stdout) => listen_to(stdout, limit),
        None => Ok(String::new()),
    };
    match said.as_deref().map(str::trim) {
        Ok(READY) => return Ok(Some(process)),
        Ok(_) => {}
        // It can only have ended already.
        Err(_) => drop(process.kill()),
    }
    drop(process.wait());
    match said {
        Ok(said) if said.trim() == TAKEN => Ok(None),
        Ok(said) => Err(KeeperError::Start { reason: said.trim().to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            let reason = format!("it did not come to serve within {} s, and was killed", limit.as_secs_f32());
            Err(KeeperError::Start { reason })
        }
        Err(error) => Err(failed("listening to it", &error)),
    }
}

/// What a keeper says up to the end of its standard output.
fn listen_to(mut stdout: ChildStdout, limit: Duration) -> io::Result<String> {
    let end = monotonic() + u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX / 2);
    let mut said = Vec::new();
    loop {
        let left = Timespec::try_from(Duration::from_nanos(end.saturating_sub(monotonic())));
        match poll(&mut [PollFd::new(&stdout, PollFlags::IN)], left.ok().as_ref()) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Err(rustix::io::Errno::INTR) => continue,
            result => result?,
        };
        let mut piece = [0; 512];
        match stdout.read(&mut piece)? {
            0 => return Ok(String::from_utf8_lossy(&said).into_owned()),
            length => said.extend_from_slice(&piece[..length]),
        }
    }
}

/// The keepers' log goes on over each of them, for a former one's end is told in it; it is turned over
/// before it is long.
fn open_log(folder: &Path) -> io::Result<fs::File> {
    const LOG_MAX: u64 = 256 << 10;
    let path = folder.join("log");
    let file = fs::OpenOptions::new().append(true).create(true).open(&path)?;
    if file.metadata()?.len() < LOG_MAX {
        return Ok(file);
    }
    fs::rename(&path, folder.join("log.1"))?;
    fs::OpenOptions::new().append(true).create(true).open(&path)
}

/// What it means that the first words fail.
fn unheard(error: io::Error) -> KeeperError {
    match error.raw_os_error() {
        // It died with them unread.
        Some(libc::ECONNRESET | libc::EPIPE) => KeeperError::Gone,
        Some(libc::EAGAIN) => {
            let reason = format!("one is there, but doesn't answer within {} s", START_MAX.as_secs());
            KeeperError::Start { reason }
        }
        _ => KeeperError::Io(error),
    }
}

/// Says hello in `ours`: what is held, and the version that is spoken from now on.
pub(super) fn first_words(socket: &OwnedFd, ours: u32) -> Result<(Vec<Held>, Ids, u32), KeeperError> {
    let hello = wire::encode(&Request::Hello { version: ours }, &[]).map_err(KeeperError::Io)?;
    wire::send(socket, &hello, &[], SendFlags::empty()).map_err(unheard)?;
    let next = || wire::receive(socket, RecvFlags::empty()).map_err(unheard)?.ok_or(KeeperError::Gone);
    let message = next()?;
    let (reply, _) = wire::decode(&message.bytes).map_err(KeeperError::Io)?;
    let Reply::Hello { version, ids, held: count } = reply else { return Err(KeeperError::Gone) };
    if !(FIRST..=ours).contains(&version) {
        return Err(KeeperError::Version { theirs: version, ours });
    }
    let mut held = Vec::new();
    while held.len() < count {
        let message = next()?;
        let (reply, tag) = wire::decode(&message.bytes).map_err(KeeperError::Io)?;
        if let Reply::Held(mut one) = reply {
            one.tag = tag.to_vec();
            held.push(*one);
        }
    }
    Ok((held, ids, version))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A data directory, and a keeper that is a script.
    fn script(text: &str) -> (tempfile::TempDir, Config) {
        let folder = tempfile::tempdir().unwrap();
        let exe = folder.path().join("keeper.sh");
        fs::write(&exe, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&exe, fs::Permissions::from_mode(0o755)).unwrap();
        let config = Config { data: folder.path().join("data"), id: "00000000".into(), exe };
        (folder, config)
    }

    #[test]
    fn one_that_hangs_is_killed_and_told() {
        let (_folder, config) = script("echo beginning; exec sleep 1000");
        let error = start(&config, Duration::from_millis(500)).unwrap_err().to_string();
        assert!(error.contains("did not come to serve within 0.5 s"), "{error}");
    }

    #[test]
    fn what_a_former_keeper_said_is_kept_and_bounded() {
        let (folder, config) = script("echo told $1 >&2; echo no; exit 1");
        for _ in 0..2 {
            start(&config, START_MAX).unwrap_err();
        }
        let log = folder.path().join("data/keeper/log");
        assert_eq!(fs::read_to_string(&log).unwrap(), "told keeper\ntold keeper\n");
        fs::write(&log, vec![b'x'; 300 << 10]).unwrap();
        start(&config, START_MAX).unwrap_err();
        assert_eq!(fs::read_to_string(&log).unwrap(), "told keeper\n");
        assert_eq!(log.with_extension("1").metadata().unwrap().len(), 300 << 10);
    }
}
