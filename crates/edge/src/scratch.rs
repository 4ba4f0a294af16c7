//! Room for the heads of requests, used again: each request of a thread has its own for as long as it may
//! have to be sent once more.

use std::cell::RefCell;

/// As many are kept as requests are commonly on their way at once, none larger than most heads.
const KEPT: usize = 256;
const KEPT_BYTES: usize = 4 * 1024;
/// What a new one has room for.
const ROOM: usize = 1024;

/// The rooms that are free.
#[derive(Debug, Default)]
pub(crate) struct Scratch(RefCell<Vec<Vec<u8>>>);

impl Scratch {
    /// Room for a head.
    pub(crate) fn take(&self) -> Vec<u8> {
        self.0.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(ROOM))
    }

    /// Gives it back.
    pub(crate) fn replace(&self, mut room: Vec<u8>) {
        let mut rooms = self.0.borrow_mut();
        if rooms.len() < KEPT && room.capacity() <= KEPT_BYTES {
            room.clear();
            rooms.push(room);
        }
    }
}
