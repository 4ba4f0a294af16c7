//! What SQLite's errors mean to a caller.

use std::sync::Arc;

use rusqlite::{Error, ErrorCode, ffi};

use crate::StateError;

/// The meaning of an error after which nothing was written.
pub(super) fn meaning(error: Error) -> StateError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StateError::Full,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StateError::Damaged(Arc::new(error)),
        // Space for the index of the write-ahead log.
        _ if extended(&error) == Some(ffi::SQLITE_IOERR_SHMSIZE) => StateError::Full,
        _ => StateError::Storage(Arc::new(error)),
    }
}

/// Whether a failed COMMIT leaves it open what is on the disk. A full disk does not: the record that
/// ends the commit did not fit.
pub(super) fn leaves_open(error: &Error) -> bool {
    error.sqlite_error_code() != Some(ErrorCode::DiskFull)
}

/// Whether the disk failed to sync: the kernel may have dropped what was to be written and says so
/// only once, so nothing may be written on top.
pub(super) fn lost_sync(error: &Error) -> bool {
    matches!(extended(error), Some(ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC))
}

fn extended(error: &Error) -> Option<i32> {
    error.sqlite_error().map(|error| error.extended_code)
}
