//! A service's keys as text, for telling what differs. Releases and services have their own list
//! each: what is in a release starts instances anew, what is in the service doesn't.

use std::time::Duration;

use minato_model::{manifest::Service, release::ReleaseSpec, traffic::Rate};

/// A key with its value as a manifest would write it, `none` where it is absent.
pub(crate) type Key = (&'static str, String);

/// A key whose value differs.
pub(crate) struct Difference {
    /// The key, with its path within the service.
    pub(crate) key: &'static str,
    /// How it is.
    pub(crate) from: String,
    /// How it will be.
    pub(crate) to: String,
}

/// The keys of a release, without digest and environment, which are told in their own words.
pub(crate) fn of_release(spec: &ReleaseSpec) -> Vec<Key> {
    let resources = &spec.resources;
    vec![
        ("command", list(&spec.command)),
        ("user", text(if spec.user.is_empty() { "root" } else { &spec.user })),
        ("port", spec.port.to_string()),
        ("protocol", text(spec.protocol)),
        ("writable", list(&spec.writable)),
        ("init", spec.init.to_string()),
        ("resources.cpu", thousandths(resources.cpu_millis)),
        ("resources.cpu_max", thousandths(resources.cpu_max_millis)),
        ("resources.memory", size(resources.memory)),
        ("resources.pids", resources.pids.to_string()),
        ("resources.files", resources.files.to_string()),
        ("resources.scratch", size(resources.scratch)),
    ]
}

/// The keys of a service that are no part of its release.
pub(crate) fn of_service(service: &Service) -> Vec<Key> {
    let health = service.health.as_ref();
    let calls = service.calls.as_ref().map(|calls| list(calls));
    let (traffic, tls) = (&service.traffic, &service.tls);
    let none = || "none".to_owned();
    vec![
        ("image", text(service.image.to_string())),
        ("hosts", list(&service.hosts)),
        ("paths", list(&service.paths)),
        ("calls", calls.unwrap_or_else(none)),
        ("timeout", duration(service.timeout)),
        ("drain", duration(service.drain)),
        ("drain_streams", duration(service.drain_streams)),
        ("body_max", size(service.body_max)),
        ("health.path", health.map_or_else(none, |health| text(&health.path))),
        ("health.every", health.map_or_else(none, |health| duration(health.every))),
        ("scale.min", service.scale.min.to_string()),
        ("scale.max", service.scale.max.to_string()),
        ("scale.concurrency", service.scale.concurrency.to_string()),
        ("scale.concurrency_max", service.scale.concurrency_max.to_string()),
        ("scale.idle", duration(service.scale.idle)),
        ("recycle.requests", service.recycle.requests.to_string()),
        ("recycle.age", duration(service.recycle.age)),
        ("recycle.in_flight", thousandths(service.recycle.in_flight_millis)),
        ("recycle.memory_growth", thousandths(service.recycle.memory_growth_millis)),
        ("listen", service.listen.map_or_else(none, |port| port.to_string())),
        ("balance", text(&traffic.balance)),
        ("slow_start", duration(traffic.slow_start)),
        ("retries.attempts", traffic.retries.attempts.to_string()),
        ("retries.budget", thousandths(traffic.retries.budget_millis)),
        ("rate", traffic.rate.as_ref().map_or_else(none, rate)),
        ("breaker.failures", traffic.breaker.failures.to_string()),
        ("breaker.success", thousandths(traffic.breaker.success_millis)),
        ("breaker.eject", duration(traffic.breaker.eject)),
        ("breaker.pending", traffic.breaker.pending.to_string()),
        ("tls.certificate", tls.certificate.as_ref().map_or_else(none, text)),
        ("tls.key", tls.key.as_ref().map_or_else(none, text)),
        ("tls.redirect", tls.redirect.to_string()),
        ("tls.hsts", tls.hsts.map_or_else(none, duration)),
        ("tls.client_ca", tls.client_ca.as_ref().map_or_else(none, text)),
        ("release.strategy", text(service.release.strategy)),
        ("release.deadline", duration(service.release.deadline)),
    ]
}

fn rate(rate: &Rate) -> String {
    format!("{{ per = {}, limit = {}, every = {} }}", text(&rate.per), rate.limit, text(duration(rate.every)))
}

/// The keys whose values differ. Both lists come from the same function.
pub(crate) fn differences(old: &[Key], new: &[Key]) -> Vec<Difference> {
    let differing = old.iter().zip(new).filter(|(old, new)| old != new);
    differing.map(|((key, from), (_, to))| Difference { key, from: from.clone(), to: to.clone() }).collect()
}

/// As JSON writes it, which is TOML's way too for what is used here.
fn text(value: impl serde::Serialize) -> String {
    serde_json::to_string(&value).unwrap_or_default()
}

fn list(values: &[impl serde::Serialize]) -> String {
    let texts: Vec<String> = values.iter().map(text).collect();
    format!("[{}]", texts.join(", "))
}

fn thousandths(millis: u32) -> String {
    (f64::from(millis) / 1000.0).to_string()
}

/// The largest unit that writes it without a fraction.
fn duration(value: Duration) -> String {
    let millis = value.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
    match units.into_iter().find(|(unit, _)| millis > 0 && millis.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", millis / unit),
        None => format!("{millis}ms"),
    }
}

fn size(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}
