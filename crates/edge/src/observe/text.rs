//! What was counted, as Prometheus reads it.

use std::{
    fmt::{Result, Write as _},
    sync::atomic::Ordering::Relaxed,
};

use minato_model::ids::ReleaseKey;

use super::{BUCKETS, Figures, Stats, Totals};

/// What the edge has now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gauges {
    /// Connections from clients.
    pub(crate) connections: u64,
    /// Requests that wait for an instance, of all releases.
    pub(crate) held: u64,
}

/// The text of all of it; of releases those that ever had a request, and are still known.
pub(crate) fn render(totals: &Totals, gauges: Gauges, releases: &[Figures<'_>]) -> String {
    let mut text = String::new();
    let written = requests(&mut text, totals, releases)
        .and_then(|()| each_release(&mut text, releases))
        .and_then(|()| whole(&mut text, totals, gauges));
    match written {
        // Writing to a string can't fail.
        Ok(()) | Err(std::fmt::Error) => text,
    }
}

fn requests(out: &mut String, totals: &Totals, releases: &[Figures<'_>]) -> Result {
    let labelled: Vec<(String, &Stats)> =
        std::iter::once(("app=\"\",service=\"\",release=\"\"".to_owned(), &totals.unrouted))
            .chain(releases.iter().map(|release| (labels(release.key), release.stats)))
            .collect();
    let help = "Requests that ended, by status; 499: the client left before an answer.";
    heading(out, "minato_requests_total", "counter", help)?;
    for (labels, stats) in &labelled {
        for (code, count) in stats.codes() {
            writeln!(out, "minato_requests_total{{{labels},code=\"{code}\"}} {count}")?;
        }
    }
    let name = "minato_request_duration_seconds";
    heading(out, name, "histogram", "From a request's head to the end of its answer.")?;
    for (labels, stats) in &labelled {
        let mut count = 0;
        for (bound, bucket) in BUCKETS.iter().map(Some).chain([None]).zip(stats.buckets()) {
            count += bucket;
            let bound = bound.map_or_else(|| "+Inf".to_owned(), |bound| seconds(*bound));
            writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}")?;
        }
        writeln!(out, "{name}_sum{{{labels}}} {}", seconds(stats.sum()))?;
        writeln!(out, "{name}_count{{{labels}}} {count}")?;
    }
    Ok(())
}

fn each_release(out: &mut String, releases: &[Figures<'_>]) -> Result {
    let mut each = |name: &str, kind: &str, help: &str, value: &dyn Fn(&Figures<'_>) -> u64| {
        heading(out, name, kind, help)?;
        releases
            .iter()
            .try_for_each(|release| writeln!(out, "{name}{{{}}} {}", labels(release.key), value(release)))
    };
    let help = "Requests that instances have.";
    each("minato_requests_in_flight", "gauge", help, &|release| release.in_flight.into())?;
    let help = "WebSockets, server-sent events and calls of gRPC that are open.";
    each("minato_streams", "gauge", help, &|release| release.streams.into())?;
    let help = "Requests tried on another connection or instance.";
    each("minato_retries_total", "counter", help, &|release| release.stats.retries())?;
    let help = "Times that an instance was passed over for a while because it failed.";
    each("minato_outlier_ejections_total", "counter", help, &|release| release.ejections)?;
    let help = "Instances that are passed over now, or wait for the request that probes them.";
    each("minato_tripped_instances", "gauge", help, &|release| release.tripped.into())?;
    let help = "Requests that were not tried again because too many had been.";
    each("minato_retries_over_budget_total", "counter", help, &|release| release.over_budget)?;
    let help = "Connections of plain TCP that an instance was given.";
    each("minato_tcp_connections_total", "counter", help, &|release| release.tcp[0])?;
    let help = "Bytes that clients sent over plain TCP, of connections that have ended.";
    each("minato_tcp_received_bytes_total", "counter", help, &|release| release.tcp[1])?;
    let help = "Bytes that clients were sent over plain TCP, of connections that have ended.";
    each("minato_tcp_sent_bytes_total", "counter", help, &|release| release.tcp[2])
}

fn whole(out: &mut String, totals: &Totals, gauges: Gauges) -> Result {
    let help = "Requests that came to something else than an instance's whole answer, and why.";
    heading(out, "minato_request_flags_total", "counter", help)?;
    for (flag, count) in totals.flags() {
        writeln!(out, "minato_request_flags_total{{flag=\"{flag}\"}} {count}")?;
    }
    for (name, with, counts) in [
        ("minato_edge_handshakes_total", "clients", &totals.at_door),
        ("minato_upstream_handshakes_total", "instances", &totals.handshakes),
    ] {
        let help = format!("Handshakes of TLS with {with}: whole, of sessions that were resumed, in vain.");
        heading(out, name, "counter", &help)?;
        for (kind, count) in ["full", "resumed", "failed"].into_iter().zip(counts) {
            writeln!(out, "{name}{{kind=\"{kind}\"}} {}", count.load(Relaxed))?;
        }
    }
    let counters = [
        (
            "minato_streams_ended_total",
            "Streams that were ended because their instance or the edge went away.",
            totals.streams_ended.load(Relaxed),
        ),
        (
            "minato_access_log_dropped_total",
            "Lines of the access log that were not written: the disk was full or too slow.",
            totals.log.dropped.load(Relaxed),
        ),
        ("minato_edge_accepted_total", "Connections accepted from clients.", totals.accepted.load(Relaxed)),
    ];
    for (name, help, value) in counters {
        heading(out, name, "counter", help)?;
        writeln!(out, "{name} {value}")?;
    }
    let upstream = u64::try_from(totals.upstream()).unwrap_or(u64::MAX);
    let gauges = [
        ("minato_held_requests", "Requests that wait for an instance.", gauges.held),
        ("minato_edge_connections", "Connections from clients.", gauges.connections),
        ("minato_edge_upstream_connections", "Connections to instances, used or kept.", upstream),
    ];
    gauges.into_iter().try_for_each(|(name, help, value)| {
        heading(out, name, "gauge", help)?;
        writeln!(out, "{name} {value}")
    })
}

fn labels(key: &ReleaseKey) -> String {
    format!("app=\"{}\",service=\"{}\",release=\"{}\"", key.service.app, key.service.service, key.number)
}

fn heading(out: &mut String, name: &str, kind: &str, help: &str) -> Result {
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
        let totals = Totals::new(1);
        totals.unrouted.count(0, 404, 900);
        totals.flag(0, "no_route");
        let key = ReleaseKey { service: "shop/web".parse().unwrap(), number: 3 };
        let stats = Stats::new(1);
        stats.count(0, 200, 1_500);
        stats.count(0, 418, 31_000_000);
        stats.retried();
        let figures = Figures {
            key: &key,
            stats: &stats,
            streams: 4,
            in_flight: 5,
            ejections: 6,
            tripped: 1,
            over_budget: 0,
            tcp: [0; 3],
        };
        let text = render(&totals, Gauges { connections: 7, held: 2 }, &[figures]);
        for line in [
            "minato_requests_total{app=\"\",service=\"\",release=\"\",code=\"404\"} 1",
            "minato_requests_total{app=\"shop\",service=\"web\",release=\"3\",code=\"200\"} 1",
            "minato_requests_total{app=\"shop\",service=\"web\",release=\"3\",code=\"418\"} 1",
            "minato_request_duration_seconds_bucket{app=\"shop\",service=\"web\",release=\"3\",le=\"0.0025\"} 1",
            "minato_request_duration_seconds_bucket{app=\"shop\",service=\"web\",release=\"3\",le=\"+Inf\"} 2",
            "minato_request_duration_seconds_sum{app=\"shop\",service=\"web\",release=\"3\"} 31.0015",
            "minato_request_duration_seconds_count{app=\"shop\",service=\"web\",release=\"3\"} 2",
            "minato_streams{app=\"shop\",service=\"web\",release=\"3\"} 4",
            "minato_requests_in_flight{app=\"shop\",service=\"web\",release=\"3\"} 5",
            "minato_held_requests 2",
            "minato_retries_total{app=\"shop\",service=\"web\",release=\"3\"} 1",
            "minato_outlier_ejections_total{app=\"shop\",service=\"web\",release=\"3\"} 6",
            "minato_request_flags_total{flag=\"no_route\"} 1",
            "minato_access_log_dropped_total 0",
            "minato_edge_connections 7",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
        }
    }
}
