//! The head of an instance's answer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| minato_edge::checks::answer_head(bytes));
