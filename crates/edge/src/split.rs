//! Which release of a service a request goes to.
//!
//! First what the request shows decides, if a match names it; then, where the service keeps clients with
//! a release, the one that the client's key falls to; else the one whose turn it is.
//!
//! **By turn** the weights are exact: as many turns as the weights' sum, shortened, hold each release as
//! often as its weight says, evenly spread.
//!
//! **By key** every release draws a number for the key, the same on every edge, and the highest has it
//! (weighted rendezvous: see `balance/hash.rs`). Each release gets its weight's share of the keys. When
//! one's weight rises against the others', keys come to it and none leaves it: those who had the new
//! release at 5 % have it at 25 % and at 100 %. Which clients come first differs from release to release
//! and from service to service.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use http::HeaderValue;
use minato_model::{
    ids::{ReleaseKey, ReleaseNumber, ServiceKey},
    route::{Entry, Route, Split, Weight},
};

use crate::{
    admit::Gate,
    balance::mix,
    key::{self, Client},
    release::Release,
};

/// A service in the table.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) key: ServiceKey,
    pub(crate) route: Route,
    pub(crate) gate: Gate,
    /// What answers over TLS say, so that clients come so only.
    pub(crate) hsts: Option<HeaderValue>,
    weights: Vec<Weight>,
    split: Split,
    /// Those with a weight.
    weighted: Vec<Weighted>,
    /// Which of the matches name a release of the table, and it.
    matched: Vec<(usize, Arc<Release>)>,
    turn: AtomicU64,
}

/// A release and its part.
#[derive(Debug)]
struct Weighted {
    release: Arc<Release>,
    /// Shortened; all of a service's sum up to at most 32 bits.
    weight: u64,
    /// What it draws its numbers from.
    seed: u64,
}

impl Service {
    /// `before` is what it was until now: its turns and what was counted go on.
    pub(crate) fn new(
        entry: Entry,
        before: Option<&Self>,
        release: &mut impl FnMut(&ReleaseKey) -> Arc<Release>,
    ) -> Self {
        let Entry { service: key, route, weights, split } = entry;
        let mut of = |number| release(&ReleaseKey { service: key.clone(), number });
        let matched = split.matches.iter().enumerate();
        let matched = matched.filter(|(_, rule)| weights.iter().any(|weight| weight.number == rule.number));
        let matched = matched.map(|(index, rule)| (index, of(rule.number))).collect();
        let seed = |number| key::hash(format!("{key}@{number}").as_bytes());
        let weighted: Vec<_> = weights.iter().filter(|weight| weight.weight > 0).copied().collect();
        let shares = shortened(&weighted);
        let weighted = weighted.iter().zip(shares).map(|(Weight { number, .. }, weight)| Weighted {
            release: of(*number),
            weight,
            seed: seed(*number),
        });
        let weighted = weighted.collect();
        let turn = AtomicU64::new(before.map_or(0, Self::turn));
        let gate = Gate::new(route.traffic.rate.as_ref(), before.map(|before| &before.gate));
        let hsts = route.tls.hsts.map(|age| format!("max-age={}", age.as_secs()));
        let hsts = hsts.and_then(|value| HeaderValue::try_from(value).ok());
        Self { route, gate, hsts, weighted, matched, turn, weights, split, key }
    }

    /// Whether it is what the entry says.
    pub(crate) fn is(&self, entry: &Entry) -> bool {
        let Entry { service, route, weights, split } = entry;
        self.key == *service && self.route == *route && self.weights == *weights && self.split == *split
    }

    /// Whether the table names the release, with or without a weight.
    pub(crate) fn names(&self, number: ReleaseNumber) -> bool {
        self.weights.iter().any(|weight| weight.number == number)
    }

    /// How many turns were taken.
    fn turn(&self) -> u64 {
        self.turn.load(Relaxed)
    }

    /// The release that a client's request goes to; `None`: there is none that may serve.
    pub(crate) fn choose(&self, client: &Client<'_>) -> Option<&Arc<Release>> {
        self.matching(client).or_else(|| self.by_weight(client))
    }

    /// Whether a request of the client that has the release may stay with it.
    pub(crate) fn keeps(&self, release: &Arc<Release>, client: &Client<'_>) -> bool {
        self.has(release) || self.matching(client).is_some_and(|other| Arc::ptr_eq(other, release))
    }

    /// Whether the release takes requests by its weight.
    pub(crate) fn has(&self, release: &Arc<Release>) -> bool {
        self.weighted.iter().any(|weighted| Arc::ptr_eq(&weighted.release, release))
    }

    /// Those that take requests, by weight or by match; one may be named more than once.
    pub(crate) fn releases(&self) -> impl Iterator<Item = &Arc<Release>> {
        let weighted = self.weighted.iter().map(|weighted| &weighted.release);
        weighted.chain(self.matched.iter().map(|(_, release)| release))
    }

    /// The release of the first match that fits.
    fn matching(&self, client: &Client<'_>) -> Option<&Arc<Release>> {
        let fits = |index: usize| {
            let rule = self.split.matches.get(index);
            rule.is_some_and(|rule| client.shows(&rule.by, rule.value.as_deref()))
        };
        self.matched.iter().find(|(index, _)| fits(*index)).map(|(_, release)| release)
    }

    fn by_weight(&self, client: &Client<'_>) -> Option<&Arc<Release>> {
        if self.weighted.len() < 2 {
            return self.weighted.first().map(|weighted| &weighted.release);
        }
        let key = self.split.sticky.as_ref().and_then(|key| client.hash(key));
        key.map_or_else(|| self.by_turn(), |key| self.by_key(key))
    }

    /// The release whose turn it is. Within each cycle the last release's turns are spread over all, the
    /// one's before over what is left, and so on: nothing has to be written out.
    fn by_turn(&self) -> Option<&Arc<Release>> {
        let mut sum: u64 = self.weighted.iter().map(|weighted| weighted.weight).sum();
        let mut turn = self.turn.fetch_add(1, Relaxed).checked_rem(sum)?;
        for Weighted { release, weight, .. } in self.weighted.iter().rev() {
            // Its turns before this one, the first in the middle of its share.
            let before = |turn: u64| (turn * weight + sum / 2) / sum;
            let taken = before(turn);
            if before(turn + 1) > taken {
                return Some(release);
            }
            turn -= taken;
            sum -= weight;
            if sum == 0 {
                break;
            }
        }
        None
    }

    /// The release that the key falls to.
    fn by_key(&self, key: u64) -> Option<&Arc<Release>> {
        #[expect(clippy::cast_precision_loss, reason = "32 bits are exact")]
        let number =
            |weighted: &Weighted| key::fraction(mix(weighted.seed ^ key)).ln() / weighted.weight as f64;
        let highest = self.weighted.iter().max_by(|a, b| number(a).total_cmp(&number(b)));
        highest.map(|weighted| &weighted.release)
    }
}

/// Weights in the same proportions, as small as they can be, and halved until their sum has at most 31
/// bits: finer ones make no difference that anybody could count.
fn shortened(weights: &[Weight]) -> Vec<u64> {
    let weights: Vec<u64> = weights.iter().map(|weight| u64::from(weight.weight)).collect();
    let divisor = weights.iter().fold(0, |a, b| greatest_common_divisor(a, *b)).max(1);
    let sum = weights.iter().sum::<u64>() / divisor;
    let halvings = (64 - sum.leading_zeros()).saturating_sub(31);
    weights.into_iter().map(|weight| ((weight / divisor) >> halvings).max(1)).collect()
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests;
