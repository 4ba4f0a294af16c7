//! The log files of instances: one record a line, `<number> <unix ms> <o|e> <text>`.
//!
//! Numbers count from 0 over an instance's life and times never go back, so that a place in a log
//! is found by halving. Written by the keeper alone; read by anyone at any time.

use std::{io, path::Path};

use minato_model::{node::Stream, time::Moment};

/// The longest text of a record, in bytes; what is longer is cut, and ends in `…`.
pub const TEXT_MAX: usize = 16 * 1024;

/// One line that an instance wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Which of the instance's lines.
    pub line: u64,
    /// When the keeper read it.
    pub at: Moment,
    /// Where it was written to.
    pub stream: Stream,
    /// Without its end; what is not UTF-8 is replaced.
    pub text: String,
}

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// So that the last record is the log's last.
    Tail,
    /// After the line with this number.
    AfterLine(u64),
    /// With the first line of this moment or later.
    Since(Moment),
}

/// At most `limit` records, oldest first. A log that isn't there is empty.
///
/// # Errors
/// The files can't be read.
pub fn read(_path: &Path, _begin: Begin, _limit: usize) -> io::Result<Vec<Record>> {
    Ok(Vec::new())
}
