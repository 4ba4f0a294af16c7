//! The keeper alone, for the tests of this crate.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == minato_runtime::keeper::ARGUMENT) {
        return minato_runtime::keeper::main(args);
    }
    ExitCode::from(2)
}
