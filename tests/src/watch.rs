//! What a server says of itself, as tests ask for it again and again.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails here")]

use rustix::process::Pid;
use serde_json::Value;

use crate::{Server, kernel, until, wire};

/// The instances of a service, or of a whole app, that serve.
#[must_use]
#[track_caller]
pub fn ready(server: &Server, service: &str) -> Vec<Value> {
    server.instances(service).into_iter().filter(|instance| instance["state"] == "ready").collect()
}

/// Waits until so many serve, and no other is there that starts or drains.
#[track_caller]
pub fn until_ready(server: &Server, service: &str, number: usize) -> Vec<Value> {
    until(&format!("{number} of {service} to serve"), || {
        let all = server.instances(service);
        let over = |one: &Value| one["state"] == "stopped" || one["state"] == "failed";
        let (ready, other): (Vec<_>, Vec<_>) =
            all.into_iter().filter(|one| !over(one)).partition(|one| one["state"] == "ready");
        let seen = || format!("{} ready, besides {other:?}", ready.len());
        if ready.len() == number && other.is_empty() { Ok(ready.clone()) } else { Err(seen()) }
    })
}

/// An instance's name.
#[must_use]
pub fn id(instance: &Value) -> String {
    instance["id"].as_str().unwrap().to_owned()
}

/// An instance's first process.
#[must_use]
pub fn pid(instance: &Value) -> Pid {
    Pid::from_raw(i32::try_from(instance["pid"].as_u64().unwrap()).unwrap()).unwrap()
}

/// Where an instance listens; root on its node may ask it directly.
#[must_use]
pub fn address(instance: &Value) -> std::net::SocketAddr {
    format!("{}:8080", instance["address"].as_str().unwrap()).parse().unwrap()
}

/// The node's keeper.
#[must_use]
#[track_caller]
pub fn keeper(server: &Server) -> Pid {
    let objects = kernel::objects(server.data());
    let line = objects.iter().find(|line| line.starts_with("process ") && line.contains(" keeper "));
    let line = line.unwrap_or_else(|| panic!("there is no keeper: {objects:#?}"));
    Pid::from_raw(line.split(' ').nth(1).unwrap().parse().unwrap()).unwrap()
}

/// All that the journal has, the oldest first.
#[must_use]
#[track_caller]
pub fn events(server: &Server) -> Vec<Value> {
    let said = server.minato(&["events", "--json", "-n", "10000"]).ok().stdout;
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Those of one kind.
#[must_use]
#[track_caller]
pub fn events_of(server: &Server, kind: &str) -> Vec<Value> {
    events(server).into_iter().filter(|event| event["kind"] == kind).collect()
}

/// A figure of `/metrics`, by its name with its labels; 0: it isn't there.
#[must_use]
#[track_caller]
pub fn metric(server: &Server, name: &str) -> f64 {
    let answer = wire::call(server, "GET", "/metrics", &[("Authorization", &wire::bearer(server))], b"");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let text = answer.text();
    let mut lines = text.lines().filter_map(|line| line.rsplit_once(' '));
    lines.find(|(found, _)| *found == name).map_or(0.0, |(_, value)| value.parse().unwrap())
}
