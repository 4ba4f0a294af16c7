//! Root file systems that nobody here made: Debian's own packages, unpacked by `mmdebstrap`.
//!
//! They are kept below `target/tmp/images`, so that only the first run downloads.
#![expect(clippy::unwrap_used, reason = "a test without its image fails here")]

use std::{
    fs::{self, File},
    path::PathBuf,
    process::Command,
};

use crate::run;

/// Whether the packages' own scripts run in it, which set up users and links.
#[derive(Debug, Clone, Copy)]
pub enum Made {
    /// The files of the packages and of what they depend on, and no more.
    Extracted,
    /// A small system in which the packages are installed.
    Installed,
}

/// A tar archive of a root file system with these packages, without devices, which no image may bring.
///
/// # Panics
/// When it can't be made.
#[must_use]
pub fn packages(names: &str, made: Made) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.ancestors().nth(3).unwrap().join("tmp/images");
    fs::create_dir_all(&folder).unwrap();
    let suite = suite();
    let variant = match made {
        Made::Extracted => "extract",
        Made::Installed => "essential",
    };
    let tar = folder.join(format!("{suite}-{variant}-{names}.tar"));
    // One at a time: tests run beside one another, and in several processes.
    let lock = File::create(tar.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    if !tar.exists() {
        let partial = tar.with_extension("partial");
        run(Command::new("mmdebstrap")
            .args(["--quiet", "--mode=root", "--format=tar", "--skip=output/dev"])
            .args([format!("--variant={variant}"), format!("--include={names}")])
            .args(["doc", "man", "locale"].map(|part| format!("--dpkgopt=path-exclude=/usr/share/{part}/*")))
            .arg(&suite)
            .arg(&partial))
        .ok();
        fs::rename(&partial, &tar).unwrap();
    }
    tar
}

/// The release of Debian that this machine runs, else the oldest with all the packages.
fn suite() -> String {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let debian = release.lines().any(|line| line == "ID=debian");
    let name = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    name.filter(|_| debian).unwrap_or("bookworm").to_owned()
}
