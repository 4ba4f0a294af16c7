//! What every engine refuses, alike: the limits of etcd, so that what works on one machine works on
//! more.

use std::collections::BTreeSet;

use crate::{Guard, StateError, Write};

/// The longest key, in bytes.
pub const KEY_BYTES: usize = 1024;

/// The largest commit: keys and values together. etcd takes requests of 1.5 MiB; 32 KiB of that are
/// left for the framing of 256 operations.
pub const COMMIT_BYTES: usize = 1536 * 1024 - 32 * 1024;

/// The most guards, and the most writes, of one commit (etcd: `--max-txn-ops`).
pub const COMMIT_OPERATIONS: usize = 128;

/// The most items of one page.
pub const PAGE_ITEMS: usize = 1000;

/// From this size of keys and values on a page takes no further item: it bounds the memory of a list.
pub const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// Whether a commit keeps to the limits; gives its size in bytes.
///
/// # Errors
/// `EmptyKey`, `TooLarge`, `TooMany` or `WrittenTwice`.
pub fn check(guards: &[Guard], writes: &[Write]) -> Result<usize, StateError> {
    for (what, count) in [("guards", guards.len()), ("writes", writes.len())] {
        if count > COMMIT_OPERATIONS {
            return Err(StateError::TooMany { what, count, limit: COMMIT_OPERATIONS });
        }
    }
    let mut size = 0;
    for key in guards.iter().map(Guard::key).chain(writes.iter().map(Write::key)) {
        check_key(key)?;
        size += key.len();
    }
    for write in writes {
        if let Write::Put { value, .. } = write {
            size += value.len();
        }
    }
    if size > COMMIT_BYTES {
        return Err(StateError::TooLarge { what: "the commit", size, limit: COMMIT_BYTES });
    }
    let mut written = BTreeSet::new();
    match writes.iter().find(|write| !written.insert(write.key())) {
        Some(write) => Err(StateError::WrittenTwice { key: write.key().to_owned() }),
        None => Ok(size),
    }
}

/// Whether a key may be used.
///
/// # Errors
/// `EmptyKey` or `TooLarge`.
pub fn check_key(key: &str) -> Result<(), StateError> {
    match key.len() {
        0 => Err(StateError::EmptyKey),
        size if size > KEY_BYTES => Err(StateError::TooLarge { what: "the key", size, limit: KEY_BYTES }),
        _ => Ok(()),
    }
}
