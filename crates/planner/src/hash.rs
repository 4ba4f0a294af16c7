//! SHA-256 in hexadecimal: what names a release and a plan.

use std::fmt::Write as _;

use aws_lc_rs::digest;

/// SHA-256 of the bytes, as 64 lower-case hexadecimal digits.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(64);
    for byte in digest::digest(&digest::SHA256, bytes).as_ref() {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
