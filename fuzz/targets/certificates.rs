//! What a certificate says of itself.
#![no_main]

use minato_identity::inspect;
use rustls_pki_types::CertificateDer;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let certificate = CertificateDer::from(bytes);
    drop(inspect::validity(&certificate));
    drop(inspect::names(&certificate));
    drop(inspect::rsa_bits(&certificate));
});
