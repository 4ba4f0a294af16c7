//! A question for a name.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| minato_edge::checks::questions(bytes));
