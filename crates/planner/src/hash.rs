//! SHA-256 in hexadecimal: what names a release and a plan.

use aws_lc_rs::digest;

/// SHA-256 of the bytes, as 64 lower-case hexadecimal digits.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, bytes);
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
