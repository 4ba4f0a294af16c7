//! The connections of one edge thread, looked after together: none has a timer of its own, and none asks
//! anything but its own seat whether it has to end.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use crate::{
    clock::Micros,
    config::Limits,
    inbound::{Overdue, Phase},
};

/// How often a thread looks at most, and at least.
const OFTEN: Duration = Duration::from_millis(10);
const SELDOM: Duration = Duration::from_millis(500);

/// Those of one thread.
#[derive(Debug, Default)]
pub(crate) struct Vigil {
    seats: RefCell<Vec<Rc<Seat>>>,
    draining: Cell<bool>,
}

/// What a connection is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// It has been in its phase for too long.
    Overdue(Overdue),
    /// It shall end after what was asked.
    Drain,
}

#[derive(Debug)]
struct Seat {
    phase: Arc<Phase>,
    waker: RefCell<Option<Waker>>,
    drain: Cell<bool>,
    overdue: Cell<Option<Overdue>>,
    /// Where it is among the seats.
    place: Cell<usize>,
}

/// A connection that is looked after until this is dropped.
#[derive(Debug)]
pub(crate) struct Watched<'a> {
    vigil: &'a Vigil,
    seat: Rc<Seat>,
}

/// How often the connections have to be looked at: none is late by more than a quarter of its time.
pub(crate) fn every(limits: &Limits) -> Duration {
    (limits.head.min(limits.idle).min(limits.stream_idle) / 4).clamp(OFTEN, SELDOM)
}

impl Vigil {
    /// Looks after a connection.
    pub(crate) fn watch(&self, phase: &Arc<Phase>) -> Watched<'_> {
        let mut seats = self.seats.borrow_mut();
        let seat = Rc::new(Seat {
            phase: Arc::clone(phase),
            waker: RefCell::default(),
            drain: Cell::new(self.draining.get()),
            overdue: Cell::new(None),
            place: Cell::new(seats.len()),
        });
        seats.push(Rc::clone(&seat));
        Watched { vigil: self, seat }
    }

    /// Tells those that are overdue. `retired_at`: since when there is a successor.
    pub(crate) fn look(&self, now: Micros, limits: &Limits, retired_at: Option<Micros>) {
        for seat in self.seats.borrow().iter() {
            if let Some(overdue) = seat.phase.overdue(now, limits, retired_at) {
                seat.overdue.set(Some(overdue));
                seat.wake();
            }
        }
    }

    /// Tells all, and those that come, to end after what was asked.
    pub(crate) fn drain(&self) {
        self.draining.set(true);
        for seat in self.seats.borrow().iter() {
            seat.drain.set(true);
            seat.wake();
        }
    }
}

impl Seat {
    fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}

impl Watched<'_> {
    /// What it was told since, once; who polls is woken for the next.
    pub(crate) fn poll_word(&self, cx: &mut Context<'_>) -> Option<Word> {
        let mut waker = self.seat.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        let overdue = self.seat.overdue.take().map(Word::Overdue);
        overdue.or_else(|| self.seat.drain.take().then_some(Word::Drain))
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        let mut seats = self.vigil.seats.borrow_mut();
        let place = self.seat.place.get();
        if place < seats.len() {
            seats.swap_remove(place);
        }
        if let Some(moved) = seats.get(place) {
            moved.place.set(place);
        }
    }
}
