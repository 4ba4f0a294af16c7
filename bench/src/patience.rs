//! Waiting, always with an end: a state that comes, a time that is over, or Ctrl-C.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use tokio::signal::unix::{SignalKind, signal};

/// How long a step that isn't measured may take before something is wrong.
pub(crate) const STEP: Duration = Duration::from_secs(60);

/// Knows whether somebody pressed Ctrl-C.
#[derive(Debug, Clone)]
pub(crate) struct Patience {
    interrupted: Arc<AtomicBool>,
}

impl Patience {
    /// From now on SIGINT and SIGTERM end waits instead of the process, so that all is taken away.
    pub(crate) fn until_interrupted() -> Self {
        let interrupted = Arc::new(AtomicBool::new(false));
        let seen = interrupted.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
            runtime.block_on(async {
                let mut interrupt = signal(SignalKind::interrupt())?;
                let mut terminate = signal(SignalKind::terminate())?;
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                    }
                    seen.store(true, Ordering::Relaxed);
                }
                #[expect(unreachable_code, reason = "names the type of the errors")]
                std::io::Result::Ok(())
            })
        });
        Self { interrupted }
    }

    /// For what is done at the end: nothing interrupts it.
    pub(crate) fn for_the_end() -> Self {
        Self { interrupted: Arc::new(AtomicBool::new(false)) }
    }

    /// Fails when somebody pressed Ctrl-C.
    pub(crate) fn check(&self) -> Result<()> {
        if self.interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Looks every few milliseconds until there is something, at most for `bound`.
    pub(crate) fn until<T>(
        &self,
        what: &str,
        bound: Duration,
        mut look: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let begun = now();
        loop {
            self.check()?;
            if let Some(found) = look()? {
                return Ok(found);
            }
            if begun.elapsed() > bound {
                bail!("waited {} s for {what}", bound.as_secs());
            }
            pause(Duration::from_millis(5));
        }
    }

    /// Lets a time pass.
    pub(crate) fn rest(&self, time: Duration) -> Result<()> {
        let begun = now();
        while begun.elapsed() < time {
            self.check()?;
            pause((time - begun.elapsed().min(time)).min(Duration::from_millis(100)));
        }
        Ok(())
    }
}

/// What the clock shows.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Lets this thread rest, so that what is measured has the processor.
#[expect(clippy::disallowed_methods, reason = "threads of the benchmark wait in real time; all is blocking")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}
