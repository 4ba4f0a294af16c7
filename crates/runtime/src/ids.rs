//! Ranges of user and group ids on the host, one of 65,536 per sandbox.
//!
//! A keeper takes a block of 1,024 ranges for as long as it lives, by a lock that all nodes of the
//! machine share. Blocks begin at 0x7000_0000, above what systems give to users and containers, and
//! any that touches what `/etc/subuid` or `/etc/subgid` give to others is left out.

use std::{fs, io, ops::Range, os::fd::OwnedFd, path::Path};

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, openat};
use serde::{Deserialize, Serialize};

/// The size of a sandbox's range.
pub const RANGE: u32 = 65_536;

/// Ranges in a block: the most sandboxes of a node at a time.
const RANGES: u32 = 1024;
/// Ids in a block.
const BLOCK: u64 = RANGE as u64 * RANGES as u64;
/// From 0x7000_0000 to 0xFC00_0000: the last ids of all mean "none" to some programs.
const BLOCKS: Range<u64> = 28..63;

/// The ranges that a keeper has for itself as long as it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    /// The first id.
    pub first: u32,
    /// How many ranges follow one another: the most sandboxes at a time.
    pub ranges: u32,
}

impl Ids {
    /// The first id of the range with this number; `None` past the last.
    #[must_use]
    pub fn range(&self, number: u32) -> Option<u32> {
        (number < self.ranges).then(|| self.first + number * RANGE)
    }
}

/// A block that is taken until this is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    /// Which ids.
    pub ids: Ids,
    _lock: OwnedFd,
}

/// Takes the first block that nobody has.
pub(crate) fn take() -> io::Result<Taken> {
    let folder = Path::new("/run/minato/ids");
    fs::create_dir_all(folder)?;
    let mut others = given_away(&fs::read_to_string("/etc/subuid").unwrap_or_default());
    others.extend(given_away(&fs::read_to_string("/etc/subgid").unwrap_or_default()));
    for block in BLOCKS {
        let range = block * BLOCK..(block + 1) * BLOCK;
        if others.iter().any(|other| other.start < range.end && range.start < other.end) {
            continue;
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let lock = openat(CWD, folder.join(block.to_string()), flags, Mode::RUSR | Mode::WUSR)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let first = u32::try_from(range.start).map_err(|_| io::ErrorKind::InvalidData)?;
            return Ok(Taken { ids: Ids { first, ranges: RANGES }, _lock: lock });
        }
    }
    Err(io::Error::new(io::ErrorKind::StorageFull, "every block of user ids is taken by another node"))
}

/// The ranges in a file of `name:first:count` lines.
fn given_away(text: &str) -> Vec<Range<u64>> {
    let parse = |line: &str| {
        let mut parts = line.split(':').skip(1);
        let first: u64 = parts.next()?.trim().parse().ok()?;
        let count: u64 = parts.next()?.trim().parse().ok()?;
        Some(first..first.saturating_add(count))
    };
    text.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_one_another_within_the_block() {
        let ids = Ids { first: 0x7000_0000, ranges: 2 };
        assert_eq!(ids.range(0), Some(0x7000_0000));
        assert_eq!(ids.range(1), Some(0x7001_0000));
        assert_eq!(ids.range(2), None);
        assert!(BLOCKS.end * BLOCK < u64::from(u32::MAX));
    }

    #[test]
    fn lines_that_give_nothing_away_are_left_out() {
        let given = given_away("me:100000:65536\n# a remark\n\nyou:x:1\nhe:7:1\n");
        assert_eq!(given, [100_000..165_536, 7..8]);
    }
}
