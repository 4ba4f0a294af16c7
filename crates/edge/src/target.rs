//! An instance as the edge sees it: what it carries now, and whether it may be given more.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
    time::Duration,
};

use minato_model::{route::Endpoint, routing::Traffic};
use tokio::sync::Notify;

use crate::clock::{Clock, Micros, micros};

/// How long an instance that refused a connection is passed over at first; doubles with each
/// refusal in a row. Short, because only the agent's look decides about it.
const SUSPENSION: Duration = Duration::from_millis(50);
/// The longest.
const SUSPENSION_DOUBLINGS: u32 = 5;

/// An instance that was admitted.
#[derive(Debug)]
pub(crate) struct Target {
    /// Unique in this process: an instance admitted again is another target.
    pub(crate) serial: u64,
    pub(crate) endpoint: Endpoint,
    pub(crate) admitted_at: Micros,
    in_flight: AtomicU32,
    requests: AtomicU64,
    answered: AtomicBool,
    withdrawn: AtomicBool,
    suspended_until: AtomicU64,
    refusals: AtomicU32,
    quiet: Notify,
}

impl Target {
    pub(crate) fn new(serial: u64, endpoint: Endpoint, admitted_at: Micros) -> Self {
        Self {
            serial,
            endpoint,
            admitted_at,
            in_flight: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            answered: AtomicBool::new(false),
            withdrawn: AtomicBool::new(false),
            suspended_until: AtomicU64::new(0),
            refusals: AtomicU32::new(0),
            quiet: Notify::new(),
        }
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(SeqCst)
    }

    /// Takes a place if fewer than `limit` are taken.
    pub(crate) fn take(&self, limit: u32) -> bool {
        let taken = self.in_flight.fetch_update(SeqCst, SeqCst, |n| (n < limit).then(|| n + 1)).is_ok();
        if taken {
            self.requests.fetch_add(1, SeqCst);
        }
        taken
    }

    /// Gives a place back.
    pub(crate) fn give_back(&self) {
        if self.in_flight.fetch_sub(1, SeqCst) == 1 && self.is_withdrawn() {
            self.quiet.notify_waiters();
        }
    }

    /// A place was taken, but never used.
    pub(crate) fn unused(&self) {
        self.requests.fetch_sub(1, SeqCst);
    }

    /// It gave an answer: it works. Whether it may be given more than before because of it.
    pub(crate) fn answered(&self) -> bool {
        let recovered = self.refusals.load(SeqCst) != 0;
        if recovered {
            self.refusals.store(0, SeqCst);
            self.suspended_until.store(0, SeqCst);
        }
        let first = !self.answered.load(SeqCst) && !self.answered.swap(true, SeqCst);
        first || recovered
    }

    pub(crate) fn has_answered(&self) -> bool {
        self.answered.load(SeqCst)
    }

    pub(crate) fn withdraw(&self) {
        self.withdrawn.store(true, SeqCst);
        if self.in_flight() == 0 {
            self.quiet.notify_waiters();
        }
    }

    pub(crate) fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(SeqCst)
    }

    /// Passes it over for a moment, because it refused a connection; returns until when.
    pub(crate) fn suspend(&self, clock: Clock) -> Micros {
        let refusals = self.refusals.fetch_add(1, SeqCst);
        let until = clock.now() + (micros(SUSPENSION) << refusals.min(SUSPENSION_DOUBLINGS));
        self.suspended_until.fetch_max(until, SeqCst);
        until
    }

    pub(crate) fn is_suspended(&self, clock: Clock) -> bool {
        let until = self.suspended_until.load(SeqCst);
        until != 0 && until > clock.now()
    }

    /// Resolves when it carries nothing.
    pub(crate) async fn quiet(&self) {
        loop {
            let changed = self.quiet.notified();
            if self.in_flight() == 0 {
                return;
            }
            changed.await;
        }
    }

    pub(crate) fn traffic(&self) -> Traffic {
        Traffic { requests: self.requests.load(SeqCst), in_flight: self.in_flight(), ..Traffic::default() }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn target(serial: u64) -> Target {
        let endpoint = Endpoint {
            instance: format!("i{serial}").parse().unwrap(),
            release: minato_model::ids::ReleaseKey { service: "shop/web".parse().unwrap(), number: 1 },
            address: std::net::Ipv4Addr::LOCALHOST,
            port: 1,
            cold: None,
        };
        Target::new(serial, endpoint, 1)
    }

    #[tokio::test(start_paused = true)]
    async fn a_suspension_ends_by_itself_and_grows() {
        let clock = Clock::start();
        let target = target(1);
        let first = target.suspend(clock) - clock.now();
        let second = target.suspend(clock) - clock.now();
        assert_eq!(second, 2 * first);
        assert!(target.is_suspended(clock));
        tokio::time::advance(SUSPENSION * 3).await;
        assert!(!target.is_suspended(clock));
    }
}
