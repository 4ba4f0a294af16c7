//! The table in force, compiled for look-ups. One for the whole process, never changed, swapped
//! whole: a request loads it once, and again when it wakes or tries another instance.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use minato_model::{
    ids::{ReleaseKey, ServiceKey},
    route::{Route, Table},
};

use crate::release::Release;

/// Cycles of a split are at most this long; finer weights are rounded to it.
const CYCLE_MAX: u64 = 10_000;

#[expect(clippy::disallowed_types, reason = "looked up by every request, never iterated")]
type Hosts = std::collections::HashMap<String, Paths>;

/// The compiled table.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    hosts: Hosts,
    by_offset: BTreeMap<u16, Arc<Service>>,
    by_key: BTreeMap<ServiceKey, Arc<Service>>,
}

/// A service in it.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) key: ServiceKey,
    pub(crate) route: Route,
    /// Those with a weight.
    releases: Vec<Arc<Release>>,
    /// Indices into `releases` in the order in which they take requests.
    cycle: Vec<u16>,
    turn: AtomicUsize,
}

/// The path prefixes of one host, without a slash at their end.
#[derive(Debug, Default)]
struct Paths {
    sorted: Vec<(String, Arc<Service>)>,
    longest: usize,
}

impl Snapshot {
    /// Compiles a table; `release` gives what is known of a release.
    pub(crate) fn compile(table: &Table, mut release: impl FnMut(&ReleaseKey) -> Arc<Release>) -> Self {
        let mut snapshot = Self::default();
        for entry in &table.services {
            let weighted: Vec<_> = entry.weights.iter().filter(|weight| weight.weight > 0).collect();
            let service = Arc::new(Service {
                key: entry.service.clone(),
                route: entry.route.clone(),
                releases: weighted
                    .iter()
                    .map(|w| release(&ReleaseKey { service: entry.service.clone(), number: w.number }))
                    .collect(),
                cycle: cycle(&weighted.iter().map(|weight| weight.weight).collect::<Vec<_>>()),
                turn: AtomicUsize::new(0),
            });
            for host in &entry.route.hosts {
                let paths = snapshot.hosts.entry(host.clone()).or_default();
                for path in &entry.route.paths {
                    let path = path.trim_end_matches('/');
                    paths.longest = paths.longest.max(path.len());
                    paths.sorted.push((path.to_owned(), Arc::clone(&service)));
                }
                paths.sorted.sort_by(|a, b| a.0.cmp(&b.0));
            }
            snapshot.by_offset.insert(entry.route.virtual_offset, Arc::clone(&service));
            snapshot.by_key.insert(entry.service.clone(), service);
        }
        snapshot
    }

    /// The service of a public host, in lower case, and a path.
    pub(crate) fn public(&self, host: &str, path: &str) -> Option<&Arc<Service>> {
        self.hosts.get(host)?.find(path)
    }

    /// The service of a virtual address.
    pub(crate) fn at(&self, offset: u16) -> Option<&Arc<Service>> {
        self.by_offset.get(&offset)
    }

    pub(crate) fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.by_key.get(key)
    }

    pub(crate) fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.by_key.values()
    }
}

impl Service {
    /// The release whose turn it is; `None`: there is none that may serve.
    pub(crate) fn next_release(&self) -> Option<&Arc<Release>> {
        if self.releases.len() < 2 {
            return self.releases.first();
        }
        let turn = self.turn.fetch_add(1, Relaxed);
        let index = self.cycle.get(turn % self.cycle.len().max(1))?;
        self.releases.get(usize::from(*index))
    }

    /// Whether the release still takes requests.
    pub(crate) fn has(&self, release: &Arc<Release>) -> bool {
        self.releases.iter().any(|other| Arc::ptr_eq(other, release))
    }

    pub(crate) fn releases(&self) -> &[Arc<Release>] {
        &self.releases
    }
}

impl Paths {
    /// The longest prefix of whole segments.
    fn find(&self, path: &str) -> Option<&Arc<Service>> {
        // Nothing beyond the longest prefix can match, so the effort has a bound.
        let mut end = if path.len() <= self.longest {
            path.len()
        } else if path.as_bytes().get(self.longest) == Some(&b'/') {
            self.longest
        } else {
            path.as_bytes().get(..self.longest)?.iter().rposition(|byte| *byte == b'/').unwrap_or(0)
        };
        loop {
            let prefix = path.get(..end)?;
            if let Ok(index) = self.sorted.binary_search_by(|(other, _)| other.as_str().cmp(prefix)) {
                return self.sorted.get(index).map(|(_, service)| service);
            }
            end = if end == 0 { return None } else { prefix.rfind('/').unwrap_or(0) };
        }
    }
}

/// The order in which releases of these weights take turns: smooth weighted round-robin, written
/// out for one whole cycle, so that every cycle is exact.
fn cycle(weights: &[u32]) -> Vec<u16> {
    if weights.len() < 2 {
        return Vec::new();
    }
    let divisor = weights.iter().fold(0, |a, b| greatest_common_divisor(a, u64::from(*b))).max(1);
    let mut weights: Vec<u64> = weights.iter().map(|weight| u64::from(*weight) / divisor).collect();
    let sum: u64 = weights.iter().sum();
    if sum > CYCLE_MAX {
        for weight in &mut weights {
            *weight = (*weight * CYCLE_MAX / sum).max(1);
        }
    }
    let weights: Vec<i64> = weights.iter().filter_map(|weight| i64::try_from(*weight).ok()).collect();
    let sum: i64 = weights.iter().sum();
    let mut current = vec![0_i64; weights.len()];
    (0..sum)
        .filter_map(|_| {
            for (value, weight) in current.iter_mut().zip(&weights) {
                *value += weight;
            }
            let best = (0..current.len()).rev().max_by_key(|index| current.get(*index).copied())?;
            *current.get_mut(best)? -= sum;
            u16::try_from(best).ok()
        })
        .collect()
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests;
