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

/// What is idle most of the time shall be small: with huge pages the allocator of an idle server holds
/// twice what it uses. Instances get them back.
fn do_without_huge_pages() {
    // A kernel without huge pages refuses, and is right.
    rustix::thread::disable_transparent_huge_pages(true).unwrap_or_default();
}

fn main() -> ExitCode {
    minato_runtime::memory::give_back_at_once();
    let mut arguments = std::env::args_os();
    let first = arguments.nth(1);
    // Two programs hide in this one: the keeper, which the server starts, and the sample
    // application, which the demo packs into images.
    match first.as_deref().and_then(|first| first.to_str()) {
        Some("keeper") => {
            do_without_huge_pages();
            minato_runtime::keeper::main(arguments)
        }
        #[cfg(feature = "demo")]
        Some("market") => market::main(arguments),
        _ => cli::run(),
    }
}
