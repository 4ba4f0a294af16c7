//! Numbers that are lent and given back, the one given back last being lent last: addresses and
//! ranges of ids are as long unused as can be before somebody else has them.

use std::{collections::BTreeSet, ops::Range};

/// The numbers of a range, and which of them are lent.
#[derive(Debug)]
pub(crate) struct Rotation {
    range: Range<u32>,
    next: u32,
    lent: BTreeSet<u32>,
}

impl Rotation {
    pub(crate) fn new(range: Range<u32>) -> Self {
        Self { next: range.start, range, lent: BTreeSet::new() }
    }

    /// A number that nobody has; `None`: all are lent.
    pub(crate) fn lend(&mut self) -> Option<u32> {
        let number = (self.next..self.range.end)
            .chain(self.range.start..self.next)
            .find(|number| !self.lent.contains(number))?;
        self.lent.insert(number);
        self.next = if number + 1 < self.range.end { number + 1 } else { self.range.start };
        Some(number)
    }

    /// Takes a certain number, as somebody has it already; whether it was free.
    pub(crate) fn take(&mut self, number: u32) -> bool {
        self.range.contains(&number) && self.lent.insert(number)
    }

    /// Takes a number back.
    pub(crate) fn give_back(&mut self, number: u32) {
        self.lent.remove(&number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_round_before_it_lends_again() {
        let mut numbers = Rotation::new(10..14);
        assert_eq!((numbers.lend(), numbers.lend()), (Some(10), Some(11)));
        numbers.give_back(10);
        assert_eq!((numbers.lend(), numbers.lend(), numbers.lend()), (Some(12), Some(13), Some(10)));
        assert_eq!(numbers.lend(), None);
        numbers.give_back(12);
        assert_eq!(numbers.lend(), Some(12));
    }

    #[test]
    fn leaves_out_what_is_taken() {
        let mut numbers = Rotation::new(0..3);
        assert!(numbers.take(0) && !numbers.take(0) && !numbers.take(3));
        assert_eq!((numbers.lend(), numbers.lend(), numbers.lend()), (Some(1), Some(2), None));
        assert_eq!(Rotation::new(5..5).lend(), None);
    }
}
