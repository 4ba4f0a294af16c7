//! Why: the story of an app, a service, a release or an instance, in lines for people.

mod renewals;
mod start;

use minato_model::{
    code::{Code, Problem},
    event::Event,
    ids::{AppName, InstanceId, ReleaseKey, ServiceKey},
    inventory::{Failure, Preparation},
    node::Life,
};
use minato_planner::{release, rollout::Seen};
use serde::Serialize;

use crate::{
    core::{Core, Fault},
    doors, status,
    world::World,
};

/// A story.
#[derive(Debug, Serialize)]
pub(crate) struct Why {
    /// Whose.
    pub(crate) thing: String,
    /// `app`, `service`, `release` or `instance`.
    pub(crate) kind: &'static str,
    /// The story, line by line.
    pub(crate) lines: Vec<String>,
    /// The whole life of an instance, for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) life: Option<Life>,
}

/// How many events of the thing end its story.
const EVENTS: usize = 10;
/// How far back events are looked through.
const EVENTS_SEEN: usize = 2_000;

/// Tells why a thing is as it is: `app`, `app/service`, `app/service@N` or an instance's id.
pub(crate) async fn why(core: &Core, thing: &str) -> Result<Why, Problem> {
    let world = World::read(&*core.state).await?;
    if let Some((service, number)) = thing.split_once('@') {
        let (Ok(service), Ok(number)) = (service.parse(), number.parse()) else { return Err(unknown(thing)) };
        return of_release(core, &world, &ReleaseKey { service, number }).await;
    }
    if thing.contains('/') {
        let key: ServiceKey = thing.parse().map_err(|_| unknown(thing))?;
        let Some(service) = world.service(&key) else { return Err(unknown(thing)) };
        let mut lines = of_service(core, &world, &key, service).await?;
        lines.extend(events(core, |event| is_of(event, &key)).await);
        return Ok(Why { thing: thing.to_owned(), kind: "service", lines, life: None });
    }
    let app: Option<AppName> = thing.parse().ok();
    if let Some(declared) = app.as_ref().and_then(|app| world.apps.get(app)) {
        return Ok(of_app(core, &world, &declared.value.manifest.app).await?);
    }
    let id: InstanceId = thing.parse().map_err(|_| unknown(thing))?;
    of_instance(core, &id).await
}

fn unknown(thing: &str) -> Problem {
    let thing: String = thing.chars().take(80).collect();
    Problem::new(Code::NotFound, format!("there is nothing called `{thing}`"))
        .with_hint("name an app, app/service, app/service@release, or an instance's id (`minato ps`)")
}

fn is_of(event: &Event, key: &ServiceKey) -> bool {
    event.app.as_ref() == Some(&key.app)
        && event.service.as_ref().is_none_or(|service| *service == key.service)
}

async fn of_app(core: &Core, world: &World, app: &AppName) -> Result<Why, Fault> {
    let mut lines = Vec::new();
    if let Some(declared) = world.apps.get(app) {
        lines.push(format!("app {app}, declared {} times", declared.value.generation));
    }
    for (key, _, service) in world.declared().filter(|(key, ..)| key.app == *app) {
        lines.extend(of_service(core, world, &key, service).await?);
    }
    lines.extend(events(core, |event| event.app.as_ref() == Some(app)).await);
    Ok(Why { thing: app.to_string(), kind: "app", lines, life: None })
}

async fn of_service(
    core: &Core,
    world: &World,
    key: &ServiceKey,
    service: &minato_model::manifest::Service,
) -> Result<Vec<String>, Fault> {
    let status = status::status(core, world, key, service).await?;
    let why = status.why.map_or_else(String::new, |why| format!(": {why}"));
    let mut lines = vec![
        format!("{key} is {}{why}", status.verdict),
        format!("  instances: {} running, {} ready; {}", status.instances, status.ready, status.url),
    ];
    if let Some(rollout) = status.rollout {
        let after = format!("after {:.1} s", seconds(rollout.elapsed_ms));
        lines.push(format!("  release {} is {} {after}: {}", rollout.release, rollout.phase, rollout.reason));
        lines.extend(rollout.waiting_for.map(|waiting| format!("  it waits: {waiting}")));
    }
    lines.extend(status.tls.iter().flat_map(doors::lines));
    for (node, report) in world.reports_of(key) {
        for standing in &report.releases {
            if standing.preparation == Preparation::Preparing {
                lines.push(format!("  on {node}, release {}: its image is being prepared", standing.number));
            }
            let Some(failing) = &standing.failing else { continue };
            lines.push(format!("  on {node}, release {}: {}", standing.number, failure(failing)));
            lines.extend(last_lines(core, &failing.instance).await);
        }
    }
    let seen = core.events(None, EVENTS_SEEN).await;
    let own = seen.iter().map(|(_, event)| event).filter(|event| is_of(event, key));
    lines.extend(renewals::summary(own));
    Ok(lines)
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds shown to a tenth of a second")]
fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

fn failure(failing: &Failure) -> String {
    let next = failing.next.map_or_else(String::new, |next| format!(", no next try before {next}"));
    format!(
        "instance {} failed at {}: {}: {} ({}{next})",
        failing.instance,
        failing.at,
        failing.code,
        failing.reason,
        failing.row()
    )
}

/// What a failed instance wrote last.
async fn last_lines(core: &Core, id: &InstanceId) -> Vec<String> {
    let life = life(core, id).await;
    life.into_iter().flat_map(|life| life.last_lines).map(|line| format!("    | {line}")).collect()
}

async fn life(core: &Core, id: &InstanceId) -> Option<Life> {
    for (_, node) in core.nodes.all() {
        if let Some(life) = node.life(id).await {
            return Some(life);
        }
    }
    None
}

async fn of_release(core: &Core, world: &World, key: &ReleaseKey) -> Result<Why, Problem> {
    let before = key.number.saturating_sub(1);
    let mut releases = core.releases(&key.service, [before, key.number].into()).await?;
    let Some(this) = releases.remove(&key.number) else { return Err(unknown(&key.to_string())) };
    let mut lines = vec![
        format!("{key}: {} ({}), made at {}", this.image, this.spec.digest, this.created_at),
        format!("  hash {}", this.hash),
        format!("  state {}", release_state(world, key, &this.hash).0),
    ];
    if let Some(reason) = release_state(world, key, &this.hash).1 {
        lines.push(format!("  {reason}"));
    }
    if let Some(before) = releases.get(&before) {
        lines.push(format!("  what differs from release {}:", before.number));
        let differences = release::differences(before, &this.spec, &this.image.to_string());
        lines.extend(differences.into_iter().map(|difference| format!("    {difference}")));
    }
    let seen = Seen::collect(false, world.reports_of(&key.service).map(|(_, report)| report)).of(key.number);
    lines.push(format!("  instances: {} running, {} ready", seen.running, seen.ready));
    lines.extend(seen.failing.as_ref().map(|failing| format!("  {}", failure(failing))));
    lines.extend(events(core, |event| is_of(event, &key.service) && event.release == Some(key.number)).await);
    Ok(Why { thing: key.to_string(), kind: "release", lines, life: None })
}

/// What a release is, and the reason where there is one to tell.
pub(crate) fn release_state(world: &World, key: &ReleaseKey, hash: &str) -> (&'static str, Option<String>) {
    let taken = world.services.get(&key.service).and_then(|record| record.value.taken_back.get(hash));
    if let Some(taken) = taken {
        return ("taken_back", Some(format!("taken back at {}: {}", taken.at, taken.reason)));
    }
    let Some(rollout) = world.rollouts.get(&key.service).map(|rollout| &rollout.value) else {
        return ("retired", None);
    };
    if rollout.in_service() == Some(key.number) {
        return ("serving", (rollout.target == key.number).then(|| rollout.reason.clone()));
    }
    if rollout.target == key.number {
        return ("in_progress", Some(rollout.reason.clone()));
    }
    if rollout.leaving.contains(&key.number) { ("leaving", None) } else { ("retired", None) }
}

async fn of_instance(core: &Core, id: &InstanceId) -> Result<Why, Problem> {
    let Some(life) = life(core, id).await else { return Err(unknown(id.as_str())) };
    let instance = &life.instance;
    let state = serde_json::to_value(instance.state).unwrap_or_default();
    let mut lines = vec![format!(
        "instance {id} of {}/{}@{} on {}: {}{}",
        instance.app,
        instance.service,
        instance.release,
        instance.node,
        state.as_str().unwrap_or_default(),
        if instance.reason.is_empty() { String::new() } else { format!(": {}", instance.reason) }
    )];
    lines.extend(start::lines(&life));
    lines.push(format!("  {} requests, {} in flight", instance.requests, instance.in_flight));
    let seen = core.events(None, EVENTS_SEEN).await;
    lines.extend(renewals::of_instance(seen.iter().map(|(_, event)| event), id));
    lines.extend(life.end.iter().map(|end| format!("  it ended: {end}")));
    lines.extend(life.findings.iter().map(|finding| format!("  {finding}")));
    if !life.last_lines.is_empty() {
        lines.push("  the last lines that it wrote:".to_owned());
        lines.extend(life.last_lines.iter().map(|line| format!("    | {line}")));
    }
    lines.extend(events(core, |event| event.instance.as_ref() == Some(id)).await);
    Ok(Why { thing: id.to_string(), kind: "instance", lines, life: Some(life) })
}

/// The last events that concern a thing.
async fn events(core: &Core, concerns: impl Fn(&Event) -> bool) -> Vec<String> {
    let all = core.events(None, EVENTS_SEEN).await;
    let mut lines: Vec<String> = all
        .iter()
        .rev()
        .filter(|(_, event)| concerns(event))
        .take(EVENTS)
        .map(|(_, event)| {
            let figures = [start::figures(event), renewals::cost(event)].concat();
            format!("  {} {}: {}{figures}", event.at, event.kind, event.reason)
        })
        .collect();
    lines.reverse();
    if !lines.is_empty() {
        lines.insert(0, "what happened last:".to_owned());
    }
    lines
}
