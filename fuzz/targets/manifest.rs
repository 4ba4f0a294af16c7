//! A manifest: it is read whole, or refused with a place that is in it.
#![no_main]

use minato_model::manifest::{Source, parse};

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Err(problems) = parse(&[Source { name: "fuzz.toml", text }]) {
        let lines = u32::try_from(text.lines().count()).unwrap_or(u32::MAX).max(1);
        assert!(problems.problems.iter().all(|problem| problem.line.is_none_or(|line| line <= lines + 1)), "{text:?}");
    }
});
