//! Fields of a request that tell who asks.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| minato_edge::checks::fields(bytes));
