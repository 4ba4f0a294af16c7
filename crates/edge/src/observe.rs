//! What is counted of each request, and how Prometheus reads it.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use minato_model::ids::ReleaseKey;

use crate::log::Desk;

/// Statuses with a counter of their own; the others share a map behind a lock.
const COMMON: [u16; 16] = [200, 201, 202, 204, 206, 301, 302, 303, 304, 400, 401, 403, 404, 500, 502, 503];
/// Upper bounds of the buckets, in microseconds.
const BUCKETS: [u64; 12] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000, 30_000_000,
];

/// What one release's requests came to.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    common: [AtomicU64; COMMON.len()],
    others: Mutex<BTreeMap<u16, u64>>,
    buckets: [AtomicU64; BUCKETS.len() + 1],
    sum: AtomicU64,
}

impl Stats {
    /// A request ended after so many microseconds.
    pub(crate) fn count(&self, status: u16, micros: u64) {
        let common = COMMON.iter().position(|code| *code == status).and_then(|at| self.common.get(at));
        if let Some(counter) = common {
            counter.fetch_add(1, Relaxed);
        } else {
            // At most as many entries as there are statuses.
            *self.others.lock().unwrap_or_else(PoisonError::into_inner).entry(status).or_default() += 1;
        }
        let bucket = BUCKETS.iter().position(|bound| micros <= *bound).unwrap_or(BUCKETS.len());
        if let Some(counter) = self.buckets.get(bucket) {
            counter.fetch_add(1, Relaxed);
        }
        self.sum.fetch_add(micros, Relaxed);
    }

    fn codes(&self) -> BTreeMap<u16, u64> {
        let mut codes = self.others.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (code, counter) in COMMON.iter().zip(&self.common) {
            let count = counter.load(Relaxed);
            if count > 0 {
                codes.insert(*code, count);
            }
        }
        codes
    }
}

/// Figures of the edge as a whole.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    /// Requests that no service was found for, or that weren't fit to be passed on.
    pub(crate) unrouted: Stats,
    /// The access log's.
    pub(crate) log: Arc<Desk>,
    /// Requests tried again.
    pub(crate) retries: AtomicU64,
    /// Streams that didn't end by themselves: their instance, or the edge, went away.
    pub(crate) streams_ended: AtomicU64,
    /// Connections accepted.
    pub(crate) accepted: AtomicU64,
}

/// Figures of one release.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures<'a> {
    pub(crate) key: &'a ReleaseKey,
    pub(crate) stats: &'a Stats,
    /// Streams that are open.
    pub(crate) streams: u32,
}

/// The Prometheus text of all of it.
pub(crate) fn render<'a>(
    totals: &Totals,
    connections: usize,
    held: u64,
    releases: impl Iterator<Item = Figures<'a>> + Clone,
) -> String {
    let mut text = String::new();
    match write_all(&mut text, totals, connections, held, releases) {
        // Writing to a string can't fail.
        Ok(()) | Err(std::fmt::Error) => text,
    }
}

fn write_all<'a>(
    out: &mut String,
    totals: &Totals,
    connections: usize,
    held: u64,
    releases: impl Iterator<Item = Figures<'a>> + Clone,
) -> std::fmt::Result {
    let labelled = || {
        let known = releases.clone().map(|release| (labels(release.key), release.stats));
        std::iter::once(("app=\"\",service=\"\",release=\"\"".to_owned(), &totals.unrouted)).chain(known)
    };
    heading(out, "minato_requests_total", "counter", "Requests answered.")?;
    for (labels, stats) in labelled() {
        for (code, count) in stats.codes() {
            writeln!(out, "minato_requests_total{{{labels},code=\"{code}\"}} {count}")?;
        }
    }
    let name = "minato_request_duration_seconds";
    heading(out, name, "histogram", "From a request's head to the end of its answer.")?;
    for (labels, stats) in labelled() {
        let mut count = 0;
        for (bound, counter) in BUCKETS.iter().map(Some).chain([None]).zip(&stats.buckets) {
            count += counter.load(Relaxed);
            let bound = bound.map_or_else(|| "+Inf".to_owned(), |bound| seconds(*bound));
            writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}")?;
        }
        writeln!(out, "{name}_sum{{{labels}}} {}", seconds(stats.sum.load(Relaxed)))?;
        writeln!(out, "{name}_count{{{labels}}} {count}")?;
    }
    heading(out, "minato_held_requests", "gauge", "Requests that wait for an instance.")?;
    writeln!(out, "minato_held_requests {held}")?;
    heading(out, "minato_streams", "gauge", "WebSockets and server-sent events that are open.")?;
    for release in releases.clone() {
        writeln!(out, "minato_streams{{{}}} {}", labels(release.key), release.streams)?;
    }
    let help = "Streams that were ended because their instance or the edge went away.";
    heading(out, "minato_streams_ended_total", "counter", help)?;
    writeln!(out, "minato_streams_ended_total {}", totals.streams_ended.load(Relaxed))?;
    heading(out, "minato_retries_total", "counter", "Requests tried on another connection or instance.")?;
    writeln!(out, "minato_retries_total {}", totals.retries.load(Relaxed))?;
    heading(out, "minato_edge_connections", "gauge", "Connections from clients.")?;
    writeln!(out, "minato_edge_connections {connections}")?;
    heading(out, "minato_edge_accepted_total", "counter", "Connections accepted from clients.")?;
    writeln!(out, "minato_edge_accepted_total {}", totals.accepted.load(Relaxed))
}

fn labels(key: &ReleaseKey) -> String {
    format!("app=\"{}\",service=\"{}\",release=\"{}\"", key.service.app, key.service.service, key.number)
}

fn heading(out: &mut String, name: &str, kind: &str, help: &str) -> std::fmt::Result {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

/// Microseconds as a decimal of seconds, exactly.
fn seconds(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_written_for_prometheus() {
        let totals = Totals::default();
        totals.unrouted.count(404, 900);
        let key = ReleaseKey { service: "shop/web".parse().unwrap(), number: 3 };
        let stats = Stats::default();
        stats.count(200, 1_500);
        stats.count(418, 31_000_000);
        let text = render(&totals, 7, 2, std::iter::once(Figures { key: &key, stats: &stats, streams: 4 }));
        for line in [
            "minato_requests_total{app=\"\",service=\"\",release=\"\",code=\"404\"} 1",
            "minato_requests_total{app=\"shop\",service=\"web\",release=\"3\",code=\"200\"} 1",
            "minato_requests_total{app=\"shop\",service=\"web\",release=\"3\",code=\"418\"} 1",
            "minato_request_duration_seconds_bucket{app=\"shop\",service=\"web\",release=\"3\",le=\"0.0025\"} 1",
            "minato_request_duration_seconds_bucket{app=\"shop\",service=\"web\",release=\"3\",le=\"+Inf\"} 2",
            "minato_request_duration_seconds_sum{app=\"shop\",service=\"web\",release=\"3\"} 31.0015",
            "minato_streams{app=\"shop\",service=\"web\",release=\"3\"} 4",
            "minato_held_requests 2",
            "minato_edge_connections 7",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
        }
    }
}
