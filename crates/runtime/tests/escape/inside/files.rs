//! Files, device nodes, sockets with a path, and programs that give rights.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::{
        fd::AsFd,
        unix::{fs::OpenOptionsExt, process::CommandExt},
    },
    process::Command,
};

use rustix::{
    fs::{CWD, FileType, Mode, fstatfs, makedev, mknodat},
    process::{geteuid, getuid},
};

use crate::said;

/// Magic numbers of the kernel's own file systems.
const PROC: i64 = 0x9fa0;
const SYSFS: i64 = 0x6265_6572;

pub(crate) fn attempt(words: &[&str]) -> Option<io::Result<()>> {
    match *words {
        ["read", path] => Some(read(path)),
        ["list", path] => Some(fs::read_dir(path).map(drop)),
        ["create", path] => Some(create(path)),
        ["open_kernels", path] => Some(open_kernels(path, false)),
        ["open_kernels_to_write", path] => Some(open_kernels(path, true)),
        ["node", kind, major, minor] => Some(node(kind, major.parse().ok()?, minor.parse().ok()?)),
        ["open", path] => {
            Some(OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map(drop))
        }
        ["become", program, what] => Some(Err(Command::new(program).arg(what).exec())),
        ["is_root"] => Some(match geteuid().is_root() && !getuid().is_root() {
            true => Ok(()),
            false => said(format!("still user {}", geteuid().as_raw())),
        }),
        ["has_capability"] => Some(has_capability()),
        _ => None,
    }
}

fn read(path: &str) -> io::Result<()> {
    let mut byte = [0];
    match File::open(path)?.read(&mut byte)? {
        0 => said("nothing in it"),
        _ => Ok(()),
    }
}

/// Makes a file and takes it away.
pub(crate) fn create(path: &str) -> io::Result<()> {
    File::create_new(path)?;
    fs::remove_file(path)
}

/// Opens a file of `/proc` or `/sys`, and is not content with what hides it. Nothing is written.
fn open_kernels(path: &str, to_write: bool) -> io::Result<()> {
    let file = OpenOptions::new().read(!to_write).write(to_write).open(path)?;
    let kind = fstatfs(file.as_fd())?.f_type;
    if kind == PROC || kind == SYSFS { Ok(()) } else { said("hidden by something else") }
}

/// Makes a device node and opens it.
fn node(kind: &str, major: u32, minor: u32) -> io::Result<()> {
    let kind = if kind == "block" { FileType::BlockDevice } else { FileType::CharacterDevice };
    mknodat(CWD, "/tmp/node", kind, Mode::from_raw_mode(0o600), makedev(major, minor))?;
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/tmp/node").map(drop)
}

fn has_capability() -> io::Result<()> {
    let status = fs::read_to_string("/proc/self/status")?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default().trim();
    match effective.bytes().all(|digit| digit == b'0') {
        true => said("no capability"),
        false => Ok(()),
    }
}
