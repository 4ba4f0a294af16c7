//! One service's part of a manifest, key by key, each with its default and its bounds.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Health, Protocol, Recycle, ReleasePolicy, Resources, Scale, Service, Strategy,
    check::Places,
    read::{Table, Value},
    tls, traffic,
};
use crate::{
    code::Code,
    ids::{AppName, ServiceKey, ServiceName},
};

const SECOND: Duration = Duration::from_secs(1);

/// Every service of an app.
pub(super) fn all(
    table: &Table<'_>,
    app: &AppName,
    file: &str,
    places: &mut Places,
) -> BTreeMap<ServiceName, Service> {
    let mut services = BTreeMap::new();
    for (name, value) in table.entries() {
        let name = match name.parse::<ServiceName>() {
            Ok(name) => name,
            Err(error) => {
                value.refuse(Code::InvalidValue, error.to_string(), None);
                continue;
            }
        };
        let Some(table) = value.table() else { continue };
        let Some(service) = service(&table, app) else { continue };
        let line = table.get("hosts").map_or_else(|| value.line(), |hosts| hosts.line());
        let key = ServiceKey { app: app.clone(), service: name.clone() };
        places.routes(&key, &service, file, line);
        services.insert(name, service);
    }
    services
}

fn service(table: &Table<'_>, app: &AppName) -> Option<Service> {
    table.not_supported(&["bind", "sign", "metrics", "place"]);
    let image = image(table);
    let service = Service {
        image: image.unwrap_or_else(placeholder),
        port: table.get("port").and_then(|value| value.integer(1..=65_535)).map(narrow),
        protocol: protocol(table),
        hosts: hosts(table),
        paths: paths(table),
        calls: calls(table, app),
        env: env(table),
        command: strings(table, "command", 1_000),
        writable: writable(table),
        init: table.get("init").and_then(|value| value.bool()).unwrap_or(true),
        resources: resources(table),
        timeout: duration(table, "timeout", 30 * SECOND, SECOND / 1000..=3_600 * SECOND),
        drain: duration(table, "drain", 30 * SECOND, Duration::ZERO..=3_600 * SECOND),
        drain_streams: duration(
            table,
            "drain_streams",
            super::drain_streams(),
            Duration::ZERO..=24 * 3_600 * SECOND,
        ),
        body_max: table.get("body_max").and_then(|value| value.size()).unwrap_or(64 << 20),
        health: health(table),
        scale: scale(table),
        recycle: recycle(table),
        release: release(table),
        listen: listen(table),
        traffic: traffic::policy(table),
        tls: tls::tls(table),
    };
    tcp_alone(table, &service);
    tls::needs_hosts(table, &service);
    table.finish();
    Some(service)
}

/// Stands where an image should; its absence was noted, so that it is never seen.
fn placeholder() -> crate::reference::ImageReference {
    crate::reference::ImageReference {
        registry: None,
        repository: "missing".to_owned(),
        tag: None,
        digest: None,
    }
}

fn image(table: &Table<'_>) -> Option<crate::reference::ImageReference> {
    let Some(value) = table.get("image") else {
        let hint = Some("add `image = \"repository:tag\"`".to_owned());
        table.refuse(Code::MissingKey, "the service has no `image`", hint);
        return None;
    };
    let text = value.text()?;
    text.parse()
        .map_err(|error: crate::reference::InvalidReference| {
            value.refuse(Code::InvalidValue, error.to_string(), None);
        })
        .ok()
}

fn protocol(table: &Table<'_>) -> Protocol {
    let Some(value) = table.get("protocol") else { return Protocol::Http };
    match value.text() {
        Some("http") | None => {}
        Some("h2c") => return Protocol::H2c,
        Some("grpc") => return Protocol::Grpc,
        Some("tcp") => return Protocol::Tcp,
        Some("https") => return Protocol::Https,
        Some(other) => unknown_word(&value, other, "http\", \"h2c\", \"https\", \"grpc\" or \"tcp"),
    }
    Protocol::Http
}

fn listen(table: &Table<'_>) -> Option<u16> {
    table.get("listen")?.integer(1..=65_535).map(narrow)
}

/// What only makes sense over plain TCP, and what doesn't there.
fn tcp_alone(table: &Table<'_>, service: &Service) {
    let tcp = service.protocol == Protocol::Tcp;
    if let Some(value) = table.get("listen").filter(|_| !tcp) {
        let hint = "add `protocol = \"tcp\"`, or leave it out: hosts and paths share the edge's own ports";
        value.refuse(Code::InvalidValue, "`listen` is for plain TCP", Some(hint.to_owned()));
    }
    for key in ["hosts", "paths", "health", "rate", "retries", "body_max"] {
        if let Some(value) = table.get(key).filter(|_| tcp) {
            let message = format!("`{key}` is for HTTP: over plain TCP there are only bytes");
            value.refuse(Code::InvalidValue, message, None);
        }
    }
}

fn not_yet(value: &Value<'_>, word: &str) {
    let message = format!("`{} = \"{word}\"` is not supported yet", value.path());
    value.refuse(Code::NotSupported, message, None);
}

fn unknown_word(value: &Value<'_>, word: &str, known: &str) {
    let message = format!("`{}` can't be \"{word}\"", value.path());
    value.refuse(Code::InvalidValue, message, Some(format!("it takes \"{known}\"")));
}

fn hosts(table: &Table<'_>) -> Vec<String> {
    let Some(values) = table.get("hosts").and_then(|value| value.texts(100)) else { return Vec::new() };
    let mut hosts = Vec::new();
    for value in values {
        let Some(text) = value.text() else { continue };
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
        };
        if text.len() > 253 || !text.split('.').all(label) {
            let message = format!("`{text}` is no host name");
            let hint = "lower-case letters, digits and - in parts joined by dots; no port, no wildcard";
            value.refuse(Code::InvalidValue, message, Some(hint.to_owned()));
        } else if hosts.iter().any(|host| host == text) {
            value.refuse(Code::InvalidValue, format!("host `{text}` is written twice"), None);
        } else {
            hosts.push(text.to_owned());
        }
    }
    hosts
}

fn paths(table: &Table<'_>) -> Vec<String> {
    let Some(value) = table.get("paths") else { return vec!["/".to_owned()] };
    let Some(values) = value.texts(100) else { return Vec::new() };
    if values.is_empty() {
        value.refuse(Code::InvalidValue, "`paths` is empty", Some("leave it out for every path".to_owned()));
    }
    let mut paths: Vec<String> = Vec::new();
    for value in values {
        let Some(text) = value.text() else { continue };
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/!$&'()*+,;=:@".contains(&b);
        let segments = || text.trim_start_matches('/').trim_end_matches('/').split('/');
        let whole = text == "/" || segments().all(|segment| !matches!(segment, "" | "." | ".."));
        if !text.starts_with('/') || text.len() > 1_024 || !text.bytes().all(plain) || !whole {
            let message = format!("`{text}` is no path prefix");
            let hint = "whole segments after a /, without query, %, .. or empty segments: \"/api\"";
            value.refuse(Code::InvalidValue, message, Some(hint.to_owned()));
            continue;
        }
        let trimmed = if text == "/" { text } else { text.trim_end_matches('/') };
        if paths.iter().any(|path| path == trimmed) {
            value.refuse(Code::InvalidValue, format!("path `{trimmed}` is written twice"), None);
        } else {
            paths.push(trimmed.to_owned());
        }
    }
    paths
}

fn calls(table: &Table<'_>, app: &AppName) -> Option<Vec<ServiceKey>> {
    let values = table.get("calls")?.texts(1_000)?;
    let mut calls = Vec::new();
    for value in values {
        let Some(text) = value.text() else { continue };
        let key = match text.split_once('.') {
            Some((app, service)) => {
                app.parse().and_then(|app| Ok(ServiceKey { app, service: service.parse()? }))
            }
            None => text.parse().map(|service| ServiceKey { app: app.clone(), service }),
        };
        match key {
            Ok(key) => calls.push(key),
            Err(error) => value.refuse(
                Code::InvalidValue,
                error.to_string(),
                Some("write `service`, or `app.service` for another app's".to_owned()),
            ),
        }
    }
    calls.sort();
    calls.dedup();
    Some(calls)
}

fn env(table: &Table<'_>) -> BTreeMap<String, String> {
    let Some(table) = table.get("env").and_then(|value| value.table()) else { return BTreeMap::new() };
    let mut env = BTreeMap::new();
    for (name, value) in table.entries() {
        let fits = !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.' || b == b'-');
        if !fits || name.len() > 256 {
            value.refuse(Code::InvalidValue, format!("`{name}` is no name of a variable"), None);
        } else if name.starts_with("MINATO_") || matches!(name, "PORT" | "SERVICE_BINDING_ROOT") {
            let message = format!("`{name}` is set by Minato");
            let hint = "choose another name; the port is the service's `port`";
            value.refuse(Code::InvalidValue, message, Some(hint.to_owned()));
        } else if let Some(text) = value.text() {
            if text.contains('\0') || text.len() > 128 << 10 {
                value.refuse(Code::InvalidValue, "the value holds a NUL or more than 128 KiB", None);
            }
            env.insert(name.to_owned(), text.to_owned());
        }
    }
    env
}

fn strings(table: &Table<'_>, key: &'static str, most: usize) -> Vec<String> {
    let Some(values) = table.get(key).and_then(|value| value.texts(most)) else { return Vec::new() };
    for value in &values {
        if value.text().is_some_and(|text| text.contains('\0') || text.len() > 128 << 10) {
            value.refuse(Code::InvalidValue, "a word holds a NUL or more than 128 KiB", None);
        }
    }
    values.iter().filter_map(Value::text).map(str::to_owned).collect()
}

fn writable(table: &Table<'_>) -> Vec<String> {
    let Some(values) = table.get("writable").and_then(|value| value.texts(64)) else { return Vec::new() };
    let mut paths = Vec::new();
    for value in values {
        let Some(text) = value.text() else { continue };
        let reserved = ["/proc", "/sys", "/dev", "/run/minato"];
        let within =
            |root: &str| text.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let segments = text.split('/').skip(1).all(|segment| !matches!(segment, "" | "." | ".."));
        if !text.starts_with('/') || !segments || text.len() > 1_024 || text.contains('\0') {
            let hint = "an absolute path without .. or empty parts, not / itself: \"/var/cache\"";
            value.refuse(Code::InvalidValue, format!("`{text}` can't be writable"), Some(hint.to_owned()));
        } else if reserved.into_iter().any(within) {
            value.refuse(Code::InvalidValue, format!("`{text}` belongs to the system"), None);
        } else {
            paths.push(text.to_owned());
        }
    }
    paths.sort();
    paths.dedup();
    paths
}

fn resources(parent: &Table<'_>) -> Resources {
    let table = parent.get("resources").and_then(|value| value.table().map(|table| (value, table)));
    let mut resources = Resources {
        cpu_millis: 500,
        cpu_max_millis: 0,
        memory: 128 << 20,
        pids: 256,
        files: 65_536,
        scratch: 64 << 20,
    };
    let Some((value, table)) = table else { return resources };
    set(&mut resources.cpu_millis, table.get("cpu").and_then(|value| value.thousandths(1_024.0)));
    set(&mut resources.cpu_max_millis, table.get("cpu_max").and_then(|value| value.thousandths(1_024.0)));
    set(&mut resources.memory, table.get("memory").and_then(|value| value.size()));
    // The first process and the program.
    set(&mut resources.pids, table.get("pids").and_then(|value| value.integer(2..=4_194_304)).map(narrow));
    set(&mut resources.files, table.get("files").and_then(|value| value.integer(16..=1_048_576)).map(narrow));
    set(&mut resources.scratch, table.get("scratch").and_then(|value| value.size()));
    table.finish();
    if resources.cpu_millis == 0 {
        value.refuse(Code::InvalidValue, "`cpu` is a weight and can't be 0", None);
    }
    if (1..10).contains(&resources.cpu_max_millis) {
        value.refuse(Code::InvalidValue, "`cpu_max` is below 0.01", Some("0 means no ceiling".to_owned()));
    }
    if resources.memory < 4 << 20 {
        value.refuse(Code::InvalidValue, "`memory` is below 4MiB", None);
    }
    resources
}

fn health(table: &Table<'_>) -> Option<Health> {
    let value = table.get("health")?;
    let table = value.table()?;
    let path = table.get("path").and_then(|value| {
        let text = value.text()?;
        let plain = text.bytes().all(|b| b.is_ascii_graphic());
        if !text.starts_with('/') || !plain || text.len() > 1_024 {
            value.refuse(Code::InvalidValue, format!("`{text}` is no path"), None);
        }
        Some(text.to_owned())
    });
    let every = duration(&table, "every", 2 * SECOND, SECOND / 10..=3_600 * SECOND);
    table.finish();
    if path.is_none() {
        value.refuse(Code::MissingKey, "`health` needs a `path`", Some("{ path = \"/healthz\" }".to_owned()));
    }
    path.map(|path| Health { path, every })
}

fn scale(parent: &Table<'_>) -> Scale {
    let mut scale = Scale { min: 0, max: 20, concurrency: 32, concurrency_max: 128, idle: 60 * SECOND };
    let Some(value) = parent.get("scale") else { return scale };
    let Some(table) = value.table() else { return scale };
    table.not_supported(&["metrics"]);
    set(&mut scale.min, table.get("min").and_then(|value| value.integer(0..=10_000)).map(narrow));
    set(&mut scale.max, table.get("max").and_then(|value| value.integer(1..=10_000)).map(narrow));
    set(
        &mut scale.concurrency,
        table.get("concurrency").and_then(|value| value.integer(1..=100_000)).map(narrow),
    );
    scale.concurrency_max = scale.concurrency.saturating_mul(4);
    set(
        &mut scale.concurrency_max,
        table.get("concurrency_max").and_then(|value| value.integer(1..=400_000)).map(narrow),
    );
    scale.idle = duration(&table, "idle", scale.idle, SECOND / 10..=30 * 86_400 * SECOND);
    table.finish();
    if scale.min > scale.max {
        value.refuse(Code::InvalidValue, format!("`min` {} is above `max` {}", scale.min, scale.max), None);
    }
    if scale.concurrency > scale.concurrency_max {
        let message = format!(
            "`concurrency` {} is above `concurrency_max` {}",
            scale.concurrency, scale.concurrency_max
        );
        value.refuse(Code::InvalidValue, message, None);
    }
    scale
}

fn recycle(parent: &Table<'_>) -> Recycle {
    let mut recycle = Recycle::default();
    let Some(table) = parent.get("recycle").and_then(|value| value.table()) else { return recycle };
    set(
        &mut recycle.requests,
        table.get("requests").and_then(|value| value.integer(0..=u64::from(u32::MAX))),
    );
    recycle.age = duration(&table, "age", recycle.age, SECOND..=30 * 86_400 * SECOND);
    if let Some(value) = table.get("in_flight") {
        set(&mut recycle.in_flight_millis, value.thousandths(1_000.0));
        if (1..1_000).contains(&recycle.in_flight_millis) {
            let message = "`in_flight` is below 1: every instance would have too much";
            value.refuse(Code::InvalidValue, message, Some("0 means never".to_owned()));
        }
    }
    set(
        &mut recycle.memory_growth_millis,
        table.get("memory_growth").and_then(|value| value.thousandths(1_000.0)),
    );
    table.finish();
    recycle
}

fn release(parent: &Table<'_>) -> ReleasePolicy {
    let mut policy = ReleasePolicy { strategy: Strategy::Rolling, deadline: 3_600 * SECOND };
    let Some(table) = parent.get("release").and_then(|value| value.table()) else { return policy };
    table.not_supported(&[
        "before",
        "steps",
        "promote",
        "mirror",
        "mirror_all",
        "judge",
        "preview_host",
        "keep",
        "by",
        "share",
        "key",
    ]);
    if let Some(value) = table.get("strategy") {
        match value.text() {
            Some("rolling") | None => {}
            Some(other @ ("all-at-once" | "blue-green" | "canary" | "ab")) => not_yet(&value, other),
            Some(other) => unknown_word(&value, other, "rolling"),
        }
    }
    policy.deadline = duration(&table, "deadline", policy.deadline, SECOND..=7 * 86_400 * SECOND);
    table.finish();
    policy
}

pub(super) fn duration(
    table: &Table<'_>,
    key: &'static str,
    default: Duration,
    range: std::ops::RangeInclusive<Duration>,
) -> Duration {
    let Some(value) = table.get(key) else { return default };
    let Some(duration) = value.duration() else { return default };
    if !range.contains(&duration) {
        let show = crate::units::show_duration;
        let message = format!(
            "`{key}` is {}; it can be {} to {}",
            show(duration),
            show(*range.start()),
            show(*range.end())
        );
        value.refuse(Code::InvalidValue, message, None);
    }
    duration
}

pub(super) fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

/// From a number whose range was checked.
#[expect(clippy::expect_used, reason = "the caller bounded the number by the range of T")]
pub(super) fn narrow<T: TryFrom<u64>>(number: u64) -> T {
    T::try_from(number).ok().expect("a number within the checked range")
}
