//! When a host's certificate is asked for: pure decisions.

use std::{net::IpAddr, time::Duration};

use minato_model::{time::Moment, tls::Leaf};
use serde::{Deserialize, Serialize};

use crate::Proof;

/// After the first failure; doubled after each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
/// The longest pause: authorities forget failures within an hour, and a host may be pointed here any day.
const LONGEST_PAUSE: Duration = Duration::from_secs(6 * 3_600);
/// At least this long after an authority said that it is asked too often.
const RATE_LIMITED: Duration = Duration::from_secs(3_600);
/// Endings of names that no public authority knows (RFC 6761, RFC 6762, RFC 9476 and ICANN's `internal`).
const NOT_PUBLIC: [&str; 9] =
    ["localhost", "local", "internal", "test", "example", "invalid", "onion", "alt", "arpa"];

/// How a host stands.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Host {
    /// What it has.
    pub(crate) leaf: Option<Leaf>,
    /// Why it didn't get another one, if it didn't.
    pub(crate) failure: Option<String>,
    /// Failures since it last got one.
    pub(crate) in_a_row: u32,
    /// No sooner than this.
    pub(crate) next: Option<Moment>,
}

/// What is kept of a host's failures, so that a server that starts again and again asks no more often.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Failures {
    pub(crate) why: String,
    pub(crate) in_a_row: u32,
    pub(crate) next: Moment,
}

/// How the authority stands.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Directory {
    /// Failures since it last answered.
    pub(crate) in_a_row: u32,
    /// Nobody is asked for before this.
    pub(crate) next: Option<Moment>,
}

impl Host {
    /// From when on another certificate is asked for; `None`: at once.
    pub(crate) fn due(&self) -> Option<Moment> {
        let renewal = self.leaf.as_ref().map(renewal);
        match (renewal, self.next) {
            (None, next) => next,
            (Some(renewal), next) => Some(next.map_or(renewal, |next| next.max(renewal))),
        }
    }

    /// How it is proven the next time: after a failure in the other way than before.
    pub(crate) fn proof(&self, wanted: Option<Proof>) -> Proof {
        let other = if self.in_a_row.is_multiple_of(2) { Proof::Http01 } else { Proof::TlsAlpn01 };
        wanted.unwrap_or(other)
    }

    /// Its failures, if there are any.
    pub(crate) fn failures(&self) -> Option<Failures> {
        let (why, next) = self.failure.clone().zip(self.next)?;
        Some(Failures { why, in_a_row: self.in_a_row, next })
    }

    /// Goes on from failures that were kept. A clock that was ahead keeps it no longer than a pause can be.
    pub(crate) fn resume(&mut self, kept: Failures, now: Moment) {
        self.failure = Some(kept.why);
        self.in_a_row = kept.in_a_row;
        self.next = Some(kept.next.min(now.plus(LONGEST_PAUSE * 2)));
    }

    /// It didn't get one.
    pub(crate) fn failed(&mut self, why: String, now: Moment, rate_limited: bool, jitter: f64) {
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.failure = Some(why);
        let pause = pause(self.in_a_row, jitter);
        self.next = Some(now.plus(if rate_limited { pause.max(RATE_LIMITED) } else { pause }));
    }
}

impl Directory {
    /// It couldn't be reached, or said nothing that could be understood.
    pub(crate) fn failed(&mut self, now: Moment, jitter: f64) {
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.next = Some(now.plus(pause(self.in_a_row, jitter)));
    }
}

/// Between tries: longer each time, and a fifth more or less, so that many don't come at once.
fn pause(in_a_row: u32, jitter: f64) -> Duration {
    let doubled = FIRST_PAUSE * 2_u32.saturating_pow(in_a_row.saturating_sub(1).min(10));
    doubled.min(LONGEST_PAUSE).mul_f64(1.0 + (jitter.clamp(0.0, 1.0) - 0.5) * 0.4)
}

/// At a third of its life left, or up to a tenth of its life sooner: by its hash, so that certificates
/// that were issued together aren't renewed together, and a restart changes nothing.
fn renewal(leaf: &Leaf) -> Moment {
    let life = leaf.not_after.since(leaf.not_before);
    let hash = leaf.sha256.get(..4).and_then(|digits| u16::from_str_radix(digits, 16).ok()).unwrap_or(0);
    let sooner = life.mul_f64(f64::from(hash) / f64::from(u16::MAX) / 10.0);
    leaf.not_before.plus((life * 2 / 3).saturating_sub(sooner))
}

/// Whether a public authority may know it.
pub(crate) fn is_public(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or(host);
    host.contains('.')
        && !host.contains('_')
        && host.parse::<IpAddr>().is_err()
        && !NOT_PUBLIC.contains(&last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn leaf(hash: &str) -> Leaf {
        let not_after = Moment(0).plus(90 * DAY);
        Leaf { sha256: hash.repeat(16), names: Vec::new(), not_before: Moment(0), not_after }
    }

    #[test]
    fn a_certificate_is_renewed_at_a_third_left_or_a_little_sooner() {
        assert_eq!(renewal(&leaf("0000")), Moment(0).plus(60 * DAY));
        assert_eq!(renewal(&leaf("ffff")), Moment(0).plus(51 * DAY));
        let host = Host { leaf: Some(leaf("0000")), ..Host::default() };
        assert_eq!(host.due(), Some(Moment(0).plus(60 * DAY)));
        assert_eq!(Host::default().due(), None);
    }

    #[test]
    fn pauses_double_up_to_a_bound_and_the_way_changes() {
        let mut host = Host::default();
        let mut before = Duration::ZERO;
        assert_eq!(host.proof(None), Proof::Http01);
        for _ in 0..20 {
            host.failed("no".to_owned(), Moment(0), false, 0.5);
            let pause = host.next.unwrap().since(Moment(0));
            assert!(pause >= before && pause <= LONGEST_PAUSE, "{pause:?}");
            before = pause;
        }
        assert_eq!(before, LONGEST_PAUSE);
        let mut host = Host::default();
        host.failed("no".to_owned(), Moment(0), true, 0.0);
        assert!(host.next.unwrap().since(Moment(0)) >= RATE_LIMITED);
        assert_eq!(host.proof(None), Proof::TlsAlpn01);
        assert_eq!(host.proof(Some(Proof::Http01)), Proof::Http01);
    }

    #[test]
    fn only_public_names_are_asked_for() {
        for (host, public) in [
            ("shop.minato.dev", true),
            ("shop.localhost", false),
            ("shop", false),
            ("a.b.internal", false),
            ("10.0.0.1", false),
            ("a_b.dev", false),
        ] {
            assert_eq!(is_public(host), public, "{host}");
        }
    }
}
