//! A request's target and hosts.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| minato_edge::checks::requests(bytes));
