//! Time as atomics can hold it: microseconds since the edge started, never 0.

use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    origin: Instant,
}

/// Microseconds since the edge started; 0 stands for "never" where it is kept.
pub(crate) type Micros = u64;

impl Clock {
    pub(crate) fn start() -> Self {
        Self { origin: Instant::now() }
    }

    pub(crate) fn now(self) -> Micros {
        micros(self.origin.elapsed()) + 1
    }

    pub(crate) fn instant(self, at: Micros) -> Instant {
        self.origin + Duration::from_micros(at)
    }
}

/// The duration in whole microseconds; half a million years at most.
pub(crate) fn micros(duration: Duration) -> Micros {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX / 4)
}
