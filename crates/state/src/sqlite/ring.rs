//! The recent revisions in memory, for those who keep up.

use std::{collections::VecDeque, sync::Arc};

use super::Config;
use crate::{Change, Changes, Revision};

/// How many revisions are handed out at once: bounds the time under the lock.
const TAKEN: usize = 256;

/// The newest revisions, without a gap.
#[derive(Debug)]
pub(super) struct Ring {
    entries: VecDeque<Arc<Changes>>,
    bytes: usize,
    /// The revision after the newest.
    next: Revision,
    max_entries: usize,
    max_bytes: usize,
}

/// Where a revision is.
#[derive(Debug)]
pub(super) enum Place {
    /// It has not happened yet.
    Ahead,
    /// It is here: it and the following ones.
    Here(Vec<Arc<Changes>>),
    /// It is older than all that is here.
    Behind,
}

impl Ring {
    pub(super) fn new(newest: Revision, config: &Config) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            next: newest + 1,
            max_entries: config.ring_revisions,
            max_bytes: config.ring_bytes,
        }
    }

    /// Adds the next revision; the oldest make room.
    pub(super) fn push(&mut self, changes: Changes) {
        self.next = changes.revision + 1;
        self.bytes += size(&changes);
        self.entries.push_back(Arc::new(changes));
        while self.entries.len() > self.max_entries || self.bytes > self.max_bytes {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= size(&oldest);
        }
    }

    pub(super) fn find(&self, from: Revision) -> Place {
        if from >= self.next {
            return Place::Ahead;
        }
        let back = usize::try_from(self.next - from).unwrap_or(usize::MAX);
        match self.entries.len().checked_sub(back) {
            Some(first) => Place::Here(self.entries.iter().skip(first).take(TAKEN).cloned().collect()),
            None => Place::Behind,
        }
    }
}

fn size(changes: &Changes) -> usize {
    let one = |change: &Change| match change {
        Change::Put(item) => item.key.len() + item.value.len(),
        Change::Delete { key } => key.len(),
    };
    changes.changes.iter().map(|change| one(change) + size_of::<Change>()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(max_entries: usize, max_bytes: usize, revisions: std::ops::Range<Revision>) -> Ring {
        let config = Config { ring_revisions: max_entries, ring_bytes: max_bytes, ..Config::default() };
        let mut ring = Ring::new(revisions.start - 1, &config);
        for revision in revisions {
            ring.push(Changes { revision, changes: vec![Change::Delete { key: "k".repeat(100) }] });
        }
        ring
    }

    #[test]
    fn finds_what_it_holds_and_no_more() {
        let ring = ring(3, 1 << 20, 10..20);
        assert!(matches!(ring.find(20), Place::Ahead));
        assert!(matches!(ring.find(16), Place::Behind));
        let Place::Here(found) = ring.find(17) else { panic!("17 should be there") };
        assert_eq!(found.iter().map(|changes| changes.revision).collect::<Vec<_>>(), [17, 18, 19]);
    }

    #[test]
    fn holds_no_more_bytes_than_it_may() {
        assert!(matches!(ring(100, 500, 10..20).find(11), Place::Behind));
        assert!(matches!(ring(100, 0, 10..20).find(19), Place::Behind));
        assert!(matches!(ring(0, 500, 10..20).find(20), Place::Ahead));
    }
}
