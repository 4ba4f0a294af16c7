//! What a service is, judged from what is declared and what nodes report.

use std::{net::SocketAddr, time::Duration};

use minato_model::{
    ids::{AppName, ReleaseNumber, ServiceKey, ServiceName},
    manifest::Service,
    verdict::Verdict,
};
use minato_planner::rollout::{Phase, Rollout, Seen, Standing, Step, step};
use serde::Serialize;

use crate::{
    core::{Core, Fault},
    doors::{self, DoorStatus, End},
    reconcile::rollouts::limits,
    world::World,
};

/// An app as it is.
#[derive(Debug, Serialize)]
pub(crate) struct AppStatus {
    /// The app.
    pub(crate) app: AppName,
    /// Its services, by name.
    pub(crate) services: Vec<ServiceStatus>,
}

/// A service as it is.
#[derive(Debug, Serialize)]
pub(crate) struct ServiceStatus {
    pub(crate) service: ServiceName,
    /// The release that serves, or is to be the first to.
    pub(crate) release: Option<ReleaseNumber>,
    pub(crate) verdict: &'static str,
    /// Why it isn't good, or what else there is to know.
    pub(crate) why: Option<String>,
    /// Instances that run.
    pub(crate) instances: u32,
    /// Those that requests may go to.
    pub(crate) ready: u32,
    pub(crate) hosts: Vec<String>,
    pub(crate) url: String,
    /// Its doors to the outside; absent where it has no name there.
    pub(crate) tls: Option<DoorStatus>,
    pub(crate) rollout: Option<RolloutStatus>,
}

/// Where a service's release stands.
#[derive(Debug, Serialize)]
pub(crate) struct RolloutStatus {
    /// `in_progress`, `stable` or `failed`.
    pub(crate) state: &'static str,
    /// The release that is brought in, or is in.
    pub(crate) release: ReleaseNumber,
    /// The release that serves.
    pub(crate) serving: Option<ReleaseNumber>,
    /// Which step of it.
    pub(crate) phase: &'static str,
    /// Why it is there.
    pub(crate) reason: String,
    /// What it waits for.
    pub(crate) waiting_for: Option<String>,
    /// The code of a failure.
    pub(crate) code: Option<&'static str>,
    pub(crate) elapsed_ms: u64,
}

/// An app with its services; `None`: there is none of this name.
pub(crate) async fn app(core: &Core, world: &World, app: &AppName) -> Result<Option<AppStatus>, Fault> {
    let Some(declared) = world.apps.get(app) else { return Ok(None) };
    let mut services = Vec::new();
    for (name, service) in &declared.value.manifest.services {
        let key = ServiceKey { app: app.clone(), service: name.clone() };
        services.push(status(core, world, &key, service).await?);
    }
    Ok(Some(AppStatus { app: app.clone(), services }))
}

/// A service as it is.
pub(crate) async fn status(
    core: &Core,
    world: &World,
    key: &ServiceKey,
    service: &Service,
) -> Result<ServiceStatus, Fault> {
    let wanted = world.wanted(core, key, service).await?.unwrap_or_default();
    let seen = world.seen(key, &wanted);
    let rollout = world.rollouts.get(key).map(|rollout| &rollout.value);
    let (verdict, note) = verdict(rollout, &seen, service, wanted.is_empty());
    let (verdict, note) = expiring(doors::end(core, world, key, service), verdict, note);
    let (verdict, why) = match verdict {
        Verdict::Good => ("good", note),
        Verdict::AtRest => ("at_rest", note),
        Verdict::Degraded { why } => ("degraded", Some(why)),
        Verdict::Down { why } => ("down", Some(why)),
    };
    Ok(ServiceStatus {
        service: key.service.clone(),
        release: rollout.map(|rollout| rollout.in_service().unwrap_or(rollout.target)),
        verdict,
        why,
        instances: seen.releases.values().map(|standing| standing.running).sum(),
        ready: seen.releases.values().map(|standing| standing.ready).sum(),
        hosts: service.hosts.clone(),
        url: url(core, key, service),
        tls: doors::status(core, world, service),
        rollout: rollout.map(|rollout| rollout_status(rollout, &seen, service)),
    })
}

/// Where its first host and path are answered from outside, or else its name inside.
fn url(core: &Core, key: &ServiceKey, service: &Service) -> String {
    if service.protocol == minato_model::manifest::Protocol::Tcp {
        return match (service.listen, core.http) {
            (Some(port), Some(http)) => format!("tcp://{}", SocketAddr::new(http.ip(), port)),
            (Some(_) | None, _) => format!("tcp://{}.{}.internal", key.service, key.app),
        };
    }
    let path = service.paths.first().map_or("/", String::as_str);
    if let (Some(host), true, Some(https)) = (service.hosts.first(), service.tls.redirect, core.https) {
        return match https.port() {
            443 => format!("https://{host}{path}"),
            port => format!("https://{host}:{port}{path}"),
        };
    }
    match (service.hosts.first(), core.http.map(|http| http.port())) {
        (Some(host), Some(80) | None) => format!("http://{host}{path}"),
        (Some(host), Some(port)) => format!("http://{host}:{port}{path}"),
        (None, _) => format!("http://{}.{}.internal{path}", key.service, key.app),
    }
}

/// A roll-out as the API tells it.
pub(crate) fn rollout_status(rollout: &Rollout, seen: &Seen, service: &Service) -> RolloutStatus {
    let (state, phase) = match rollout.phase {
        Phase::Starting => ("in_progress", "starting"),
        Phase::Warming { .. } => ("in_progress", "warming"),
        Phase::Shifting { .. } => ("in_progress", "shifting"),
        Phase::Draining { .. } => ("in_progress", "draining"),
        Phase::Stable => ("stable", "stable"),
        Phase::Failed { .. } => ("failed", "failed"),
    };
    let waiting_for = match step(rollout, seen, &limits(service), Duration::ZERO) {
        Step::Wait { why } if rollout.under_way() => Some(why),
        Step::Wait { .. } | Step::Move(_) => None,
    };
    let code = match rollout.phase {
        Phase::Failed { code: Some(code), .. } => Some(code.as_str()),
        Phase::Failed { code: None, .. } => Some("timeout"),
        Phase::Starting
        | Phase::Warming { .. }
        | Phase::Shifting { .. }
        | Phase::Draining { .. }
        | Phase::Stable => None,
    };
    RolloutStatus {
        state,
        release: rollout.target,
        serving: rollout.in_service(),
        phase,
        reason: rollout.reason.clone(),
        waiting_for,
        code,
        elapsed_ms: u64::try_from(rollout.elapsed.as_millis()).unwrap_or(u64::MAX),
    }
}

/// What a service is, and what is worth knowing even if it is good.
fn verdict(
    rollout: Option<&Rollout>,
    seen: &Seen,
    service: &Service,
    no_node: bool,
) -> (Verdict, Option<String>) {
    let Some(rollout) = rollout else {
        return (Verdict::Down { why: "it isn't rolled out yet".to_owned() }, None);
    };
    if no_node {
        return (Verdict::Down { why: "there is no node".to_owned() }, None);
    }
    let number = rollout.in_service().unwrap_or(rollout.target);
    let standing = seen.of(number);
    let ready: u32 = seen.releases.values().map(|standing| standing.ready).sum();
    if let Some(trouble) = trouble(number, &standing) {
        let verdict =
            if ready == 0 { Verdict::Down { why: trouble } } else { Verdict::Degraded { why: trouble } };
        return (verdict, None);
    }
    let note = note(rollout, seen, number);
    if ready < service.scale.min {
        let why = format!("{ready} of {} instances are ready", service.scale.min);
        let verdict = if ready == 0 { Verdict::Down { why } } else { Verdict::Degraded { why } };
        return (verdict, None);
    }
    if ready == 0 && standing.running == 0 {
        return (Verdict::AtRest, note);
    }
    let between =
        (ready == 0).then(|| "no instance is ready: those that run are starting or ending".to_owned());
    (Verdict::Good, note.or(between))
}

/// The same, with what there is to say of a certificate that ends.
fn expiring(end: Option<(End, String)>, verdict: Verdict, note: Option<String>) -> (Verdict, Option<String>) {
    let Some((end, warning)) = end else { return (verdict, note) };
    match verdict {
        Verdict::Good | Verdict::AtRest if end == End::Past => (Verdict::Degraded { why: warning }, None),
        Verdict::Good | Verdict::AtRest => {
            let note = note.map_or_else(|| warning.clone(), |note| format!("{note}; {warning}"));
            (verdict, Some(note))
        }
        Verdict::Degraded { why } => (Verdict::Degraded { why: format!("{why}; {warning}") }, note),
        Verdict::Down { why } => (Verdict::Down { why: format!("{why}; {warning}") }, note),
    }
}

/// What keeps a release from serving as it should.
fn trouble(number: ReleaseNumber, standing: &Standing) -> Option<String> {
    if let Some((code, reason)) = &standing.unprepared {
        return Some(format!("release {number} can't be prepared: {code}: {reason}"));
    }
    let failing = standing.failing.as_ref()?;
    let next = failing.next.map_or_else(String::new, |next| format!("; no next try before {next}"));
    Some(format!(
        "release {number} can't be started: {}: {} ({}{next})",
        failing.code,
        failing.reason,
        failing.row()
    ))
}

fn note(rollout: &Rollout, seen: &Seen, number: ReleaseNumber) -> Option<String> {
    match rollout.phase {
        Phase::Failed { .. } if number != rollout.target => Some(format!(
            "release {} was taken back: {}; release {number} serves",
            rollout.target, rollout.reason
        )),
        Phase::Warming { .. } | Phase::Shifting { .. } | Phase::Draining { .. } => {
            Some(format!("release {} is under way: {}", rollout.target, rollout.reason))
        }
        Phase::Starting | Phase::Stable | Phase::Failed { .. } => {
            (!seen.in_force).then(|| "not every node has confirmed what it was told".to_owned())
        }
    }
}
