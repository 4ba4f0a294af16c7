//! The root file systems that are measured with: each one static program.

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

/// Where the programs listen.
pub(crate) const PORT: u16 = 8080;
/// What answers in [`Program::Ok`]'s root.
pub(crate) const PROGRAM: &str = "/ok";

/// A program that answers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Program {
    /// Says `ok`, one connection after the other: the least that can be started.
    Ok,
    /// Serves many at once, over connections that stay open, and says which instance it is.
    Many,
    /// Serves as many requests as it can, and does nothing beside.
    Quick,
    /// Answers well, slowly or not at all, as it is told; works on four requests at a time.
    Moody,
    /// nginx, by mutual TLS with its instance's own identity.
    Sealed,
}

impl Program {
    /// Its path in its root, which names its image too.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Ok => PROGRAM,
            Self::Many => "/many",
            Self::Quick => "/quick",
            Self::Moody => "/moody",
            Self::Sealed => "/sealed",
        }
    }

    /// The words that start it.
    pub(crate) fn entry(self) -> String {
        match self {
            Self::Sealed => format!("[\"{}\", \"-c\", \"/nginx.conf\"]", self.path()),
            Self::Ok | Self::Many | Self::Quick | Self::Moody => format!("[\"{}\"]", self.path()),
        }
    }

    /// The image's reference.
    pub(crate) fn image(self) -> String {
        format!("bench{}:1", self.path())
    }

    /// What it is compiled from; `None`: it is the machine's own.
    fn source(self) -> Option<&'static str> {
        match self {
            Self::Ok => Some(include_str!("../image/ok.rs")),
            Self::Many => Some(include_str!("../image/many.rs")),
            Self::Quick => Some(include_str!("../image/quick.rs")),
            Self::Moody => Some(include_str!("../image/moody.rs")),
            Self::Sealed => None,
        }
    }
}

/// Compiles a program into a new root below, with the mount points that runc wants in a read-only one.
pub(crate) fn make(patience: &Patience, below: &Path, program: Program) -> Result<PathBuf> {
    expect("cc")?;
    let name = program.path().trim_start_matches('/');
    let root = below.join(format!("{name}-root"));
    for folder in ["", "dev", "proc", "tmp"] {
        let path = root.join(folder);
        std::fs::create_dir_all(&path)?;
        let mode = if folder == "tmp" { 0o1777 } else { 0o755 };
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
    }
    let Some(text) = program.source() else {
        nginx(patience, &root, name)?;
        return Ok(root);
    };
    let source = below.join(format!("{name}.rs"));
    std::fs::write(&source, text)?;
    run(
        patience,
        Command::new("rustc")
            .args(["--edition=2024", "-Copt-level=2", "-Cpanic=abort", "-Cstrip=symbols"])
            .arg("-Ctarget-feature=+crt-static")
            .arg("-o")
            .arg(root.join(name))
            .arg(&source),
    )
    .context("the static server can't be compiled")?;
    Ok(root)
}

/// Puts the machine's nginx into a root, with the libraries that it loads.
fn nginx(patience: &Patience, root: &Path, name: &str) -> Result<()> {
    let program = Path::new("/usr/sbin/nginx");
    std::fs::copy(program, root.join(name))?;
    std::fs::write(root.join("nginx.conf"), include_str!("../image/nginx.conf"))?;
    // It looks up the user that it would change to, also where it stays who it is.
    std::fs::create_dir_all(root.join("etc"))?;
    std::fs::write(root.join("etc/passwd"), "root:x:0:0::/:/\nnobody:x:65534:65534::/:/\n")?;
    std::fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    let loads = run(patience, Command::new("ldd").arg(program))?;
    for library in loads.split_whitespace().filter(|word| word.starts_with('/')) {
        let to = root.join(library.trim_start_matches('/'));
        std::fs::create_dir_all(to.parent().unwrap_or(root))?;
        std::fs::copy(library, to)?;
    }
    Ok(())
}

/// A folder on a disk, which a container's mapped root may pass through.
pub(crate) fn workshop() -> Result<tempfile::TempDir> {
    let folder = tempfile::Builder::new().prefix("minato-bench-").tempdir_in("/var/tmp")?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711))?;
    Ok(folder)
}
