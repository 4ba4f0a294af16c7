//! `minato`: parse, run, report. What the parts are and who is handed to whom is in `roles`; each
//! command is a file in `cli`.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod cli;
mod client;
mod config;
#[cfg(feature = "demo")]
mod demo;
mod failure;
mod push;
mod roles;
mod show;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let first = arguments.nth(1);
    // Two programs hide in this one: the keeper, which the server starts, and the sample
    // application, which the demo packs into images.
    match first.as_deref().and_then(|first| first.to_str()) {
        Some("keeper") => minato_runtime::keeper::main(arguments),
        #[cfg(feature = "demo")]
        Some("market") => market::main(arguments),
        _ => cli::run(),
    }
}
