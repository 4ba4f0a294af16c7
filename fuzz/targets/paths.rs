//! A request's path.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| minato_edge::checks::paths(bytes));
