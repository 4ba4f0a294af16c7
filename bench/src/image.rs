//! The root file system that all are measured with: one static program that answers `ok`.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    patience::Patience,
    processes::{expect, run},
};

/// What answers, and the port that it listens on.
pub(crate) const PROGRAM: &str = "/ok";
/// Where it listens.
pub(crate) const PORT: u16 = 8080;

/// Compiles the program into a new folder below, with the mount points that runc wants in a read-only
/// root.
pub(crate) fn make(patience: &Patience, below: &Path) -> Result<PathBuf> {
    expect("cc")?;
    let root = below.join("rootfs");
    for folder in ["", "dev", "proc", "tmp"] {
        let path = root.join(folder);
        std::fs::create_dir_all(&path)?;
        let mode = if folder == "tmp" { 0o1777 } else { 0o755 };
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
    }
    let source = below.join("ok.rs");
    std::fs::write(&source, include_str!("../image/ok.rs"))?;
    run(
        patience,
        Command::new("rustc")
            .args(["--edition=2024", "-Copt-level=2", "-Cpanic=abort", "-Cstrip=symbols"])
            .arg("-Ctarget-feature=+crt-static")
            .arg("-o")
            .arg(root.join(PROGRAM.trim_start_matches('/')))
            .arg(&source),
    )
    .context("the static server can't be compiled")?;
    Ok(root)
}

/// A folder on a disk, which a container's mapped root may pass through.
pub(crate) fn workshop() -> Result<tempfile::TempDir> {
    let folder = tempfile::Builder::new().prefix("minato-bench-").tempdir_in("/var/tmp")?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711))?;
    Ok(folder)
}
