//! What one edge thread writes its lines with.

use std::{
    cell::{Cell, RefCell},
    sync::mpsc::TrySendError,
};

use super::{Batch, Format, Ink, common, date::Date, entry::Entry, json};
use crate::{balance::mix, clock::Clock};

/// Of a buffer.
const ROOM: usize = 64 * 1024;
/// A buffer is handed over when it has this much: the last line fits as well, nearly always.
const FULL: usize = ROOM - 2 * 1024;
/// Entries that are kept for the next lines, a few hundred bytes each.
const SPARE: usize = 256;

/// One thread's part of the log; none where nothing is logged.
pub(crate) struct Pen(Option<Writing>);

struct Writing {
    ink: Ink,
    clock: Clock,
    /// What the edge's clock shows is so many microseconds behind the time of day.
    offset: Cell<i64>,
    draws: Cell<u64>,
    /// Below this a draw is logged.
    threshold: u64,
    sheet: RefCell<Sheet>,
}

#[expect(clippy::vec_box, reason = "entries move between requests and here as pointers")]
struct Sheet {
    text: Vec<u8>,
    lines: u32,
    date: Date,
    spare: Vec<Box<Entry>>,
}

impl Pen {
    pub(crate) fn new(ink: Option<Ink>, clock: Clock, seed: u64) -> Self {
        Self(ink.map(|ink| {
            let sheet = Sheet {
                text: Vec::with_capacity(ROOM),
                lines: 0,
                date: Date::new(ink.format),
                spare: Vec::new(),
            };
            let writing = Writing {
                threshold: threshold(ink.sample),
                clock,
                offset: Cell::new(0),
                draws: Cell::new(seed),
                sheet: RefCell::new(sheet),
                ink,
            };
            writing.set_clock();
            writing
        }))
    }

    /// An entry to be filled, if there is a log.
    pub(crate) fn entry(&self) -> Option<Box<Entry>> {
        let writing = self.0.as_ref()?;
        Some(writing.sheet.borrow_mut().spare.pop().unwrap_or_else(|| Box::new(Entry::new())))
    }

    /// Writes an entry, if it is one of those that are logged.
    pub(crate) fn write(&self, entry: Box<Entry>) {
        let Some(writing) = &self.0 else { return };
        let sheet = &mut *writing.sheet.borrow_mut();
        if entry.is_special() || writing.draw() {
            let at = (i64::try_from(entry.began).unwrap_or(0) + writing.offset.get()).div_euclid(1000);
            match writing.ink.format {
                Format::Json => json::write(&mut sheet.text, &mut sheet.date, at, &entry),
                Format::Common => common::write(&mut sheet.text, &mut sheet.date, at, &entry),
            }
            sheet.lines += 1;
            if sheet.text.len() >= FULL {
                writing.hand_over(sheet);
            }
        }
        if sheet.spare.len() < SPARE {
            sheet.spare.push(entry);
        }
    }

    /// What is done once a second: hands over what there is.
    pub(crate) fn sweep(&self) {
        if let Some(writing) = &self.0 {
            writing.set_clock();
            writing.hand_over(&mut writing.sheet.borrow_mut());
        }
    }
}

impl Writing {
    /// Clocks drift, and the time of day is set now and then.
    fn set_clock(&self) {
        let now = i64::try_from(self.clock.now()).unwrap_or(0);
        self.offset.set((self.ink.clock)().0.saturating_mul(1000) - now);
    }

    /// Whether a line that nothing is special about is logged.
    fn draw(&self) -> bool {
        if self.threshold == u64::MAX {
            return true;
        }
        let draw = self.draws.get().wrapping_add(1);
        self.draws.set(draw);
        mix(draw) < self.threshold
    }

    fn hand_over(&self, sheet: &mut Sheet) {
        if sheet.lines == 0 {
            return;
        }
        let lines = std::mem::take(&mut sheet.lines);
        let text = std::mem::replace(&mut sheet.text, self.ink.desk.take());
        match self.ink.batches.try_send(Batch { text, lines }) {
            Ok(()) => {}
            Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) => {
                self.ink.desk.drop_lines(batch.lines);
                self.ink.desk.give_back(batch.text);
            }
        }
    }
}

impl Drop for Pen {
    fn drop(&mut self) {
        if let Some(writing) = &self.0 {
            writing.hand_over(&mut writing.sheet.borrow_mut());
        }
    }
}

/// A share of all draws.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share needs no more than fifty bits, and it is between 0 and 1"
)]
fn threshold(sample: f64) -> u64 {
    if sample >= 1.0 { u64::MAX } else { (sample.max(0.0) * u64::MAX as f64) as u64 }
}

#[cfg(test)]
mod tests {
    use std::{
        path::PathBuf,
        sync::{Arc, atomic::Ordering::Relaxed, mpsc},
    };

    use minato_model::time::Moment;

    use super::*;
    use crate::log::{AccessLog, Desk, WAITING, open};

    fn pen(sample: f64) -> (Pen, Arc<Desk>, mpsc::Receiver<Batch>) {
        let desk = Arc::new(Desk::default());
        let log = AccessLog {
            format: Format::Json,
            path: PathBuf::from("/nowhere"),
            sample,
            max_bytes: 1 << 20,
            clock: || Moment(1_795_506_012_007),
        };
        let (_, mut ink) = open(log, Arc::clone(&desk));
        let (batches, received) = mpsc::sync_channel(WAITING);
        ink.batches = batches;
        (Pen::new(Some(ink), Clock::start(), 7), desk, received)
    }

    fn write(pen: &Pen, status: u16) {
        let mut entry = pen.entry().unwrap();
        entry.begin("192.0.2.7".parse().unwrap(), 1);
        entry.status = status;
        pen.write(entry);
    }

    #[test]
    fn a_sample_leaves_out_what_is_not_special() {
        let lines = |sample, status| {
            let (pen, _, received) = pen(sample);
            for _ in 0..1_000 {
                write(&pen, status);
            }
            drop(pen);
            received.iter().map(|batch| batch.lines).sum::<u32>()
        };
        assert_eq!((lines(0.0, 200), lines(0.0, 503), lines(1.0, 200)), (0, 1_000, 1_000));
        let some = lines(0.25, 200);
        assert!((150..350).contains(&some), "{some}");
    }

    #[test]
    fn a_full_channel_drops_lines_and_counts_them() {
        let (pen, desk, received) = pen(1.0);
        let mut written = 0_u64;
        while desk.dropped.load(Relaxed) == 0 {
            write(&pen, 200);
            written += 1;
            assert!(written < 1_000_000, "it is bounded");
        }
        write(&pen, 200);
        let dropped = desk.dropped.load(Relaxed);
        let waiting: u64 = received.try_iter().map(|batch| u64::from(batch.lines)).sum();
        assert_eq!(waiting + dropped, written);
        pen.sweep();
        assert_eq!(received.try_iter().map(|batch| batch.lines).sum::<u32>(), 1, "there is room again");
    }

    #[test]
    fn the_rest_is_handed_over_at_the_end() {
        let (pen, _, received) = pen(1.0);
        write(&pen, 200);
        assert!(received.try_recv().is_err());
        drop(pen);
        let batch = received.try_recv().unwrap();
        assert_eq!(batch.lines, 1);
        assert!(batch.text.starts_with(b"{\"time\":\"2026-11-24T07:40:12.00"));
    }
}
