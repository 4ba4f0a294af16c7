//! Programs that tests bring, compiled from `tests/programs` by the machine's compilers.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::run;

/// Where the source of one is.
#[must_use]
pub fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(name)
}

/// A server in Rust that answers on `$PORT`; with everything inside it, or with shared libraries.
///
/// # Panics
/// When it can't be compiled.
#[must_use]
pub fn answer(below: &Path, whole: bool) -> PathBuf {
    let program = below.join(if whole { "answer-static" } else { "answer-dynamic" });
    let linked = if whole { "target-feature=+crt-static" } else { "target-feature=-crt-static" };
    run(Command::new("rustc")
        .args(["--edition", "2024", "-C", linked, "-o"])
        .arg(&program)
        .arg(source("answer.rs")))
    .ok();
    program
}

/// A server in C that asks the service that it is told; with the machine's C library, or with musl.
///
/// # Panics
/// When it can't be compiled.
#[must_use]
pub fn asker(below: &Path, musl: bool) -> PathBuf {
    let program = below.join(if musl { "asker-musl" } else { "asker-glibc" });
    let mut compiler = Command::new(if musl { "musl-gcc" } else { "gcc" });
    compiler.arg(if musl { "-static" } else { "-O1" }).arg("-o").arg(&program).arg(source("asker.c"));
    run(&mut compiler).ok();
    program
}

/// The same for Node.js, as one argument after `-e`.
///
/// # Panics
/// When it can't be read.
#[must_use]
pub fn asker_for_node() -> String {
    std::fs::read_to_string(source("asker.js")).unwrap_or_else(|error| panic!("asker.js: {error}"))
}
