//! What a release had to carry lately.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::clock::Micros;

/// The window of [`Peaks::peak`], in seconds: one cell each.
const WINDOW: usize = 60;

/// The greatest load of each of the last 60 seconds, and when there was one at all.
#[derive(Debug, Default)]
pub(crate) struct Peaks {
    /// Second in the upper half, load in the lower: a later second is always greater. Made with the first
    /// load: of many thousand releases few have any.
    cells: OnceLock<Box<[AtomicU64; WINDOW]>>,
    last: AtomicU64,
}

impl Peaks {
    /// The load was `total` until now, or is from now on.
    pub(crate) fn note(&self, now: Micros, total: u32) {
        // To the millisecond: a line of memory that all threads write to costs each of them.
        let last = self.last.load(Relaxed);
        if last == 0 || now > last + 1_000 {
            self.last.fetch_max(now, Relaxed);
        }
        let second = now / 1_000_000;
        let value = (second << 32) | u64::from(total);
        let cells = self.cells.get_or_init(|| Box::new([const { AtomicU64::new(0) }; WINDOW]));
        if let Some(cell) = usize::try_from(second).ok().and_then(|at| cells.get(at % WINDOW))
            && cell.load(Relaxed) < value
        {
            cell.fetch_max(value, Relaxed);
        }
    }

    /// The greatest load of the last 60 seconds.
    pub(crate) fn peak(&self, now: Micros) -> u32 {
        let oldest = (now / 1_000_000).saturating_sub(59);
        let cells = self.cells.get().into_iter().flat_map(|cells| cells.iter());
        let loads = cells.filter_map(|cell| {
            let value = cell.load(Relaxed);
            (value >> 32 >= oldest).then_some(value & 0xffff_ffff)
        });
        loads.max().and_then(|load| u32::try_from(load).ok()).unwrap_or(0)
    }

    /// How long there has been no request, if there ever was one.
    pub(crate) fn idle(&self, now: Micros, total: u32) -> Option<Duration> {
        let last = self.last.load(Relaxed);
        let idle = if total > 0 { 0 } else { now.saturating_sub(last) };
        (last > 0).then(|| Duration::from_micros(idle))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_lasts_for_sixty_seconds() {
        let peaks = Peaks::default();
        let at = |second: u64| second * 1_000_000 + 5;
        assert_eq!(peaks.idle(at(1), 0), None);
        peaks.note(at(1), 3);
        peaks.note(at(1), 9);
        peaks.note(at(1), 4);
        peaks.note(at(30), 5);
        assert_eq!(peaks.peak(at(60)), 9);
        assert_eq!(peaks.peak(at(61)), 5);
        assert_eq!(peaks.peak(at(90)), 0);
        assert_eq!(peaks.idle(at(90), 0), Some(Duration::from_secs(60)));
        assert_eq!(peaks.idle(at(90), 1), Some(Duration::ZERO));
        peaks.note(at(61), 2);
        assert_eq!(peaks.peak(at(61)), 5, "an old cell is used anew");
    }
}
