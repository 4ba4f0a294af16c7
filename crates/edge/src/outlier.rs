//! What becomes of an instance that fails more than its siblings, and of a request that it failed.
//!
//! Invariants: of a release's instances at most half are passed over, and never the last that would be given
//! requests; tries after the first stay within their share of the requests.

use std::sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed};

use http::StatusCode;
use minato_model::traffic;

use crate::{
    balance::mix,
    clock::Micros,
    release::{Lease, Release},
    target::Target,
    window::Window,
};

/// Fewer requests than this prove nothing.
const ENOUGH: u64 = 5;
/// Tries in ten seconds that are always in the budget: a service with few requests may repeat them too, and
/// one whose load has just begun loses nothing with an instance.
const SPARE: u64 = 32;

/// A release's rules, and what was tried again.
#[derive(Debug, Default)]
pub(crate) struct Outliers {
    rules: Mutex<(traffic::Breaker, traffic::Retries)>,
    /// Requests given to instances, and those of them that were tries after the first.
    window: Window,
}

/// Whether a status says that there was nobody to answer (RFC 9110, 15.6.3 to 15.6.5). Other failures are the
/// application's: a broken page is no broken instance.
pub(crate) fn is_gateway_failure(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

impl Outliers {
    pub(crate) fn configure(&self, policy: &traffic::Policy) {
        *self.rules.lock().unwrap_or_else(PoisonError::into_inner) = (policy.breaker, policy.retries);
    }

    fn rules(&self) -> (traffic::Breaker, traffic::Retries) {
        *self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Release {
    /// Takes note of its figures. Called once a second.
    pub(crate) fn look(&self) {
        self.outliers.window.note(self.tries());
        for target in self.targets().iter() {
            target.breaker.window.note(target.figures());
        }
    }

    fn tries(&self) -> [u64; 2] {
        [self.given(), self.repeated.load(Relaxed)]
    }

    /// Whether a request that was tried `tried` times may be tried once more, and notes that it is.
    pub(crate) fn may_try_again(&self, tried: u32) -> bool {
        let (_, retries) = self.outliers.rules();
        let [given, repeated] = self.outliers.window.grown(self.tries());
        let share = given.saturating_sub(repeated) * u64::from(retries.budget_millis) / 1_000;
        let within = repeated < SPARE + share;
        if !within {
            self.over_budget.fetch_add(1, Relaxed);
        }
        let may = within && tried <= retries.attempts;
        if may {
            self.repeated.fetch_add(1, Relaxed);
        }
        may
    }

    /// Whether there is another instance that a request could be tried on.
    pub(crate) fn has_another(&self, than: &Target) -> bool {
        let well = |other: &Target| other.serial != than.serial && !other.is_suspended(self.clock);
        self.targets().iter().any(|target| well(target))
    }

    /// Whether the instance does worse than the rules allow, and worse than its siblings.
    fn is_worse(&self, target: &Target, success_millis: u32) -> bool {
        let [given, failed] = target.lately();
        let given = given.max(failed);
        let all = self.targets();
        let siblings = all.iter().filter(|other| other.serial != target.serial).map(|other| other.lately());
        let [others, others_failed] = siblings.fold([0, 0], |sum, [a, b]| [sum[0] + a, sum[1] + b]);
        let allowed = u64::from(1_000_u32.saturating_sub(success_millis));
        given >= ENOUGH
            && others >= ENOUGH
            && failed * 1_000 >= given * allowed
            // Twice their share of failures at least.
            && failed * others > 2 * others_failed * given
    }

    /// Passes an instance over for a while, if enough others are left; until when.
    fn trip(&self, target: &Target, first: std::time::Duration) -> Option<Micros> {
        // One decides at a time.
        let _queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.targets();
        let tripped = all.iter().filter(|other| !other.breaker.is_admitting()).count();
        let well = |other: &&Arc<Target>| {
            other.serial != target.serial && other.breaker.is_admitting() && !other.is_suspended(self.clock)
        };
        let may = (tripped + 1) * 2 <= all.len() && all.iter().any(|other| well(&other));
        if !may || target.is_withdrawn() || !target.breaker.is_admitting() {
            return None;
        }
        let now = self.clock.now();
        Some(target.breaker.trip(now, first, mix(now ^ target.serial)))
    }

    /// Lets those that are left take requests, if none of them would: instances went while others were passed
    /// over.
    pub(crate) fn leave_none_shut(&self) {
        let all = self.targets();
        if all.iter().all(|target| !target.breaker.is_admitting()) {
            all.iter().for_each(|target| target.breaker.admit(self.clock.now()));
        }
    }
}

impl Lease {
    /// The instance answered with a status, as far as it is judged by it.
    pub(crate) fn judge(&self, status: StatusCode) {
        let breaker = &self.target().breaker;
        if is_gateway_failure(status) {
            self.failed();
        } else if self.probe {
            breaker.admit(self.release().clock.recent());
            self.target().recovered(self.release().clock.recent());
            self.release().dispatch();
        } else if status.is_server_error() {
            self.compare();
        } else {
            breaker.went_well();
        }
    }

    /// The instance gave no answer, or said that there is nobody to give one.
    pub(crate) fn failed(&self) {
        let (rules, _) = self.release().outliers.rules();
        let target = self.target();
        if self.probe {
            let now = self.release().clock.now();
            let until = target.breaker.trip(now, rules.eject, mix(now ^ target.serial));
            if target.breaker.probe_failed() {
                self.release().is_failing(target);
            }
            return self.later(until);
        }
        let row = target.breaker.failed();
        if target.breaker.is_admitting() {
            // Not at each failure, where the rules forbid it: everything may be failing.
            let many = row.is_multiple_of(rules.failures.max(1));
            if many || self.release().is_worse(target, rules.success_millis) {
                self.trip(rules.eject);
            }
        }
    }

    /// The instance failed in its own way, which counts only against its siblings.
    fn compare(&self) {
        let (rules, _) = self.release().outliers.rules();
        if self.target().breaker.is_admitting()
            && self.release().is_worse(self.target(), rules.success_millis)
        {
            self.trip(rules.eject);
        }
    }

    fn trip(&self, first: std::time::Duration) {
        if let Some(until) = self.release().trip(self.target(), first) {
            self.release().ejections.fetch_add(1, Relaxed);
            self.later(until);
        }
    }

    /// Who waits is looked after when the instance is due for its probe.
    fn later(&self, until: Micros) {
        let release = Arc::clone(self.release());
        let at = release.clock.instant(until);
        drop(tokio::task::spawn_local(async move {
            tokio::time::sleep_until(at).await;
            release.dispatch();
        }));
    }
}
