//! A body in a stream of HTTP/2, whose client may stop taking it while it takes others. What the
//! instance holds for it isn't held for longer than a connection of HTTP/1 would be.

use std::{
    cell::{Cell, RefCell},
    fmt, io,
    rc::{Rc, Weak},
};

use super::Content;
use crate::clock::{Clock, Micros};

/// The body, and since when its client has taken nothing of it.
pub(crate) struct Watched {
    pub(super) content: RefCell<Content>,
    /// When hyper was given a part that it hasn't come back from; 0: it waits for the next.
    given_at: Cell<Micros>,
    clock: Clock,
}

/// The bodies of one connection.
#[derive(Debug, Default)]
pub(crate) struct Bodies(RefCell<Vec<Weak<Watched>>>);

impl Watched {
    /// hyper wants the next part, or was given it.
    pub(super) fn note(&self, given: bool) {
        self.given_at.set(if given { self.clock.recent() } else { 0 });
    }
}

impl Bodies {
    pub(super) fn add(&self, content: Content, clock: Clock) -> Rc<Watched> {
        let content = RefCell::new(content);
        let watched = Rc::new(Watched { content, given_at: Cell::new(0), clock });
        let mut all = self.0.borrow_mut();
        if all.len() == all.capacity() {
            all.retain(|body| body.strong_count() > 0);
        }
        all.push(Rc::downgrade(&watched));
        watched
    }

    /// Lets go of those that were given a part before `oldest` and took none since; how many there are.
    pub(crate) fn let_go(&self, oldest: Micros) -> usize {
        let mut all = self.0.borrow_mut();
        all.retain(|body| body.strong_count() > 0);
        let stalled = |body: &Rc<Watched>| (1..oldest).contains(&body.given_at.get());
        let stalled: Vec<Rc<Watched>> = all.iter().filter_map(Weak::upgrade).filter(stalled).collect();
        for body in &stalled {
            body.content.replace(Content::Broken(Some(io::ErrorKind::TimedOut.into())));
        }
        stalled.len()
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("given_at", &self.given_at).finish_non_exhaustive()
    }
}
