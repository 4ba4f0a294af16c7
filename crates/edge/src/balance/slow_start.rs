//! A new instance gets less than its part at first: caches are cold, code isn't compiled yet.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::clock::Micros;

/// The whole part.
pub(super) const WHOLE: u32 = 1024;

/// Since when an instance's part rises.
#[derive(Debug)]
pub(crate) struct Rise {
    since: AtomicU64,
}

impl Rise {
    pub(crate) fn from(now: Micros) -> Self {
        Self { since: AtomicU64::new(now) }
    }

    /// It works again, and begins as a new one does.
    pub(crate) fn anew(&self, now: Micros) {
        self.since.store(now, Relaxed);
    }

    /// Its part, of [`WHOLE`] and at least 1, where it rises evenly `over` so long.
    pub(super) fn part(&self, now: Micros, over: Micros) -> u32 {
        let passed = now.saturating_sub(self.since.load(Relaxed));
        if passed >= over {
            return WHOLE;
        }
        u32::try_from(passed * u64::from(WHOLE) / over).unwrap_or(WHOLE).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_rises_evenly_and_again_after_a_trip() {
        let rise = Rise::from(100);
        let parts = [100, 350, 600, 1099, 1100, 9999].map(|now| rise.part(now, 1000));
        assert_eq!(parts, [1, 256, 512, 1022, WHOLE, WHOLE]);
        assert_eq!(rise.part(100, 0), WHOLE);
        rise.anew(2100);
        assert_eq!(rise.part(2600, 1000), 512);
    }
}
