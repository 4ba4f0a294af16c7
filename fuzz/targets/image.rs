//! An image's manifest, as a registry is given it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    drop(minato_image::manifest::parse(bytes, None));
});
