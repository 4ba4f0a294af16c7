//! Runs inside an instance and makes one attempt to get out, named by its first argument. It says what
//! came of it in one line: `outcome ok`, `outcome errno N`, or `outcome said WORDS`.

#![expect(clippy::print_stdout, reason = "that is what it is for")]

use std::io;

mod calls;
mod files;
mod mounts;
mod network;
mod processes;
mod raw;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = calls::attempt(&words)
        .or_else(|| mounts::attempt(&words))
        .or_else(|| files::attempt(&words))
        .or_else(|| processes::attempt(&words))
        .or_else(|| network::attempt(&words))
        .unwrap_or_else(|| said("there is no such attempt"));
    match result {
        Ok(()) => println!("outcome ok"),
        Err(error) => match error.raw_os_error() {
            Some(number) => println!("outcome errno {number}"),
            None => println!("outcome said {error}"),
        },
    }
}

/// An attempt that failed otherwise than by an error of the system.
fn said<T>(words: impl Into<String>) -> io::Result<T> {
    Err(io::Error::other(words.into()))
}
