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
    release::Release,
    target::Target,
};

/// Those of one thread.
#[derive(Debug)]
pub(crate) struct Waits {
    clock: Clock,
    thread: usize,
    lines: RefCell<BTreeMap<u64, Rc<Line>>>,
}

/// Those for one instance, in the order in which they began to wait. As many as have a place on it, at most.
#[derive(Debug)]
pub(crate) struct Line {
    /// Whose instance it is: who counts for it refers to this line, which is the thread's own.
    pub(crate) release: Arc<Release>,
    target: Arc<Target>,
    thread: usize,
    clock: Clock,
    places: RefCell<Places>,
}

/// A list through places that are used again: what waits in it joins at its end, and leaves from anywhere.
#[derive(Debug, Default)]
struct Places {
    all: Vec<Place>,
    free: Vec<usize>,
    first: Option<usize>,
    last: Option<usize>,
}

#[derive(Debug)]
struct Place {
    since: Micros,
    before: Option<usize>,
    after: Option<usize>,
}

/// A request that an instance has, until it is dropped or [over](Wait::over).
#[derive(Debug)]
pub(crate) struct Wait {
    line: Rc<Line>,
    /// `None`: it isn't the instance that is waited for.
    place: Cell<Option<usize>>,
    over: Cell<bool>,
}

impl Waits {
    pub(crate) fn new(clock: Clock, thread: usize) -> Self {
        Self { clock, thread, lines: RefCell::default() }
    }

    /// An instance gets a request.
    pub(crate) fn begin(&self, release: &Arc<Release>, target: &Arc<Target>) -> Rc<Wait> {
        let mut lines = self.lines.borrow_mut();
        let line = lines.entry(target.serial).or_insert_with(|| {
            Rc::new(Line {
                release: Arc::clone(release),
                target: Arc::clone(target),
                thread: self.thread,
                clock: self.clock,
                places: RefCell::default(),
            })
        });
        let wait = Wait { line: Rc::clone(line), place: Cell::new(None), over: Cell::new(false) };
        wait.resume();
        Rc::new(wait)
    }

    /// Forgets instances that are being taken away and have no request. Called from time to time.
    pub(crate) fn sweep(&self) {
        self.lines.borrow_mut().retain(|_, line| Rc::strong_count(line) > 1 || !line.target.is_withdrawn());
    }
}

impl Places {
    fn join(&mut self, since: Micros) -> usize {
        let place = Place { since, before: self.last, after: None };
        let at = match self.free.pop() {
            Some(at) => {
                if let Some(free) = self.all.get_mut(at) {
                    *free = place;
                }
                at
            }
            None => {
                self.all.push(place);
                self.all.len() - 1
            }
        };
        match self.last.and_then(|last| self.all.get_mut(last)) {
            Some(last) => last.after = Some(at),
            None => self.first = Some(at),
        }
        self.last = Some(at);
        at
    }

    fn leave(&mut self, at: usize) {
        let Some(Place { before, after, .. }) = self.all.get(at) else { return };
        let (before, after) = (*before, *after);
        match before.and_then(|before| self.all.get_mut(before)) {
            Some(before) => before.after = after,
            None => self.first = after,
        }
        match after.and_then(|after| self.all.get_mut(after)) {
            Some(after) => after.before = before,
            None => self.last = before,
        }
        self.free.push(at);
    }
}

impl Line {
    /// Tells since when the oldest waits.
    fn tell(&self, places: &Places) {
        if let Some(cell) = self.target.oldest.get(self.thread) {
            let oldest = places.first.and_then(|first| places.all.get(first));
            cell.store(oldest.map_or(0, |oldest| oldest.since), Relaxed);
        }
    }
}

impl Wait {
    /// Where it waits.
    pub(crate) fn line(&self) -> &Rc<Line> {
        &self.line
    }

    /// From now on the client is waited for.
    pub(crate) fn pause(&self) {
        let Some(place) = self.place.take() else { return };
        let mut places = self.line.places.borrow_mut();
        let was_oldest = places.first == Some(place);
        places.leave(place);
        if was_oldest {
            self.line.tell(&places);
        }
    }

    /// From now on the instance is waited for.
    pub(crate) fn resume(&self) {
        if self.place.get().is_some() || self.over.get() {
            return;
        }
        let mut places = self.line.places.borrow_mut();
        let place = places.join(self.line.clock.recent());
        self.place.set(Some(place));
        if places.first == Some(place) {
            self.line.tell(&places);
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

    struct Agent;

    impl minato_model::routing::Wake for Agent {
        fn wake(&self, _: &minato_model::ids::ReleaseKey, _: u32) {}
        fn suspect(&self, _: &minato_model::ids::InstanceId) {}
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_is_told_whoever_ends_first() {
        let clock = Clock::start();
        let target = Arc::new(target(1));
        let release = Arc::new(Release::new(target.endpoint.release.clone(), clock, Arc::new(Agent)));
        let waits = Waits::new(clock, 0);
        let check = |expected: Option<u64>| {
            assert_eq!(target.traffic(clock).oldest, expected.map(Duration::from_secs));
        };
        let second = || tokio::time::advance(Duration::from_secs(1));
        check(None);
        let first = waits.begin(&release, &target);
        second().await;
        let other = waits.begin(&release, &target);
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
