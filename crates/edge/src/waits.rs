//! How long the requests of one edge thread have waited for their answer to begin.
//!
//! Each thread keeps its own requests in order and tells only since when the oldest waits, in its own
//! cell of the target: whoever asks reads one cell a thread, and a request writes to memory that no
//! other thread writes.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use crate::{
    clock::{Clock, Micros},
    target::Target,
};

/// Those of one thread.
#[derive(Debug)]
pub(crate) struct Waits {
    clock: Clock,
    thread: usize,
    lines: RefCell<BTreeMap<u64, Rc<Line>>>,
}

/// Those for one instance. As many as have a place on it, at most.
#[derive(Debug)]
struct Line {
    target: Arc<Target>,
    thread: usize,
    clock: Clock,
    next: Cell<u64>,
    since: RefCell<BTreeMap<u64, Micros>>,
}

/// A request that an instance has, until it is dropped or [over](Wait::over).
#[derive(Debug)]
pub(crate) struct Wait {
    line: Rc<Line>,
    /// `None`: it isn't the instance that is waited for.
    number: Cell<Option<u64>>,
    over: Cell<bool>,
}

impl Waits {
    pub(crate) fn new(clock: Clock, thread: usize) -> Self {
        Self { clock, thread, lines: RefCell::default() }
    }

    /// An instance gets a request.
    pub(crate) fn begin(&self, target: &Arc<Target>) -> Rc<Wait> {
        let mut lines = self.lines.borrow_mut();
        let line = lines.entry(target.serial).or_insert_with(|| {
            Rc::new(Line {
                target: Arc::clone(target),
                thread: self.thread,
                clock: self.clock,
                next: Cell::new(0),
                since: RefCell::default(),
            })
        });
        let wait = Wait { line: Rc::clone(line), number: Cell::new(None), over: Cell::new(false) };
        wait.resume();
        Rc::new(wait)
    }

    /// Forgets instances that are being taken away and have no request. Called from time to time.
    pub(crate) fn sweep(&self) {
        self.lines.borrow_mut().retain(|_, line| Rc::strong_count(line) > 1 || !line.target.is_withdrawn());
    }
}

impl Line {
    /// Tells since when the oldest waits.
    fn tell(&self, since: &BTreeMap<u64, Micros>) {
        if let Some(cell) = self.target.oldest.get(self.thread) {
            cell.store(since.first_key_value().map_or(0, |(_, since)| *since), Relaxed);
        }
    }
}

impl Wait {
    /// From now on the client is waited for.
    pub(crate) fn pause(&self) {
        let Some(number) = self.number.take() else { return };
        let mut since = self.line.since.borrow_mut();
        let was_oldest = since.first_key_value().is_some_and(|(first, _)| *first == number);
        since.remove(&number);
        if was_oldest {
            self.line.tell(&since);
        }
    }

    /// From now on the instance is waited for.
    pub(crate) fn resume(&self) {
        if self.number.get().is_some() || self.over.get() {
            return;
        }
        let number = self.line.next.get();
        self.line.next.set(number + 1);
        self.number.set(Some(number));
        let mut since = self.line.since.borrow_mut();
        since.insert(number, self.line.clock.now());
        if since.len() == 1 {
            self.line.tell(&since);
        }
    }

    /// The answer has begun, or won't.
    pub(crate) fn over(&self) {
        self.over.set(true);
        self.pause();
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.over();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::target::tests::target;

    #[tokio::test(start_paused = true)]
    async fn the_oldest_is_told_whoever_ends_first() {
        let clock = Clock::start();
        let target = Arc::new(target(1));
        let waits = Waits::new(clock, 0);
        let check = |expected: Option<u64>| {
            assert_eq!(target.traffic(clock).oldest, expected.map(Duration::from_secs));
        };
        let second = || tokio::time::advance(Duration::from_secs(1));
        check(None);
        let first = waits.begin(&target);
        second().await;
        let other = waits.begin(&target);
        second().await;
        check(Some(2));
        first.over();
        check(Some(1));
        first.resume();
        check(Some(1));
        other.pause();
        check(None);
        second().await;
        other.resume();
        check(Some(0));
        drop(other);
        check(None);
        target.withdraw();
        drop(first);
        waits.sweep();
        assert!(waits.lines.borrow().is_empty());
    }
}
