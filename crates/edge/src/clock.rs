//! Time as atomics can hold it: microseconds since the edge started, never 0.

use std::{cell::Cell, time::Duration};

use tokio::time::Instant;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    origin: Instant,
}

/// Microseconds since the edge started; 0 stands for "never" where it is kept.
pub(crate) type Micros = u64;

thread_local! {
    /// What an edge thread read last; `None`: this is no edge thread, or it has slept since.
    static RECENT: Cell<Option<Micros>> = const { Cell::new(None) };
    static KEEPS: Cell<bool> = const { Cell::new(false) };
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// Reads the clock.
    pub(crate) fn now(self) -> Micros {
        let now = micros(self.origin.elapsed()) + 1;
        if KEEPS.get() {
            RECENT.set(Some(now));
        }
        now
    }

    /// What was read last since the edge thread woke: each request reads the clock when it begins and when
    /// it ends, so it is as old as what the thread did since, some microseconds. Elsewhere, the time.
    pub(crate) fn recent(self) -> Micros {
        RECENT.get().unwrap_or_else(|| self.now())
    }

    pub(crate) fn instant(self, at: Micros) -> Instant {
        self.origin + Duration::from_micros(at)
    }
}

/// From now on this thread keeps what it reads, for [`Clock::recent`]. It has one clock only.
pub(crate) fn keep() {
    KEEPS.set(true);
}

/// The thread has slept: what it read before is too old.
pub(crate) fn woke() {
    RECENT.set(None);
}

/// The duration in whole microseconds; half a million years at most.
pub(crate) fn micros(duration: Duration) -> Micros {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX / 4)
}
