//! Identities: what is read is written the same.
#![no_main]

use minato_identity::SpiffeId;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(id) = text.parse::<SpiffeId>() {
        assert_eq!(id.to_string(), text);
    }
});
