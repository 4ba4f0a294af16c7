//! Declaring: from manifests to what is declared, and until every node answers by it.
//!
//! Reading, planning and writing is optimistic: what is written depends on what was read, and when
//! that has moved, all is planned anew from what is there now.

mod commit;
mod confirm;
mod doors;
mod locate;
mod look;

use std::collections::BTreeMap;

use minato_model::{
    code::{Code, Problem},
    event::Event,
    ids::{AppName, ServiceKey},
    manifest::{Manifest, Source},
    plan::Plan,
    tls::Files,
};
use minato_planner::plan::{Planned, Step};
use serde::{Deserialize, Serialize};

use self::{doors::Doors, look::Look};
use crate::core::Core;

/// A file of manifests as a client sends it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    /// What it is called in errors.
    pub(crate) name: String,
    /// Its text.
    pub(crate) text: String,
    /// The files that services of it name for their doors, by the service's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) tls: BTreeMap<String, Files>,
}

/// The apps that these files are about, as far as they can be read: what can't be is refused as a whole.
pub(crate) fn named(files: &[File]) -> Vec<AppName> {
    let manifests = parse(files).unwrap_or_default();
    manifests.into_iter().map(|manifest| manifest.app).collect()
}

/// How an apply is meant.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wishes {
    /// Only if the plan is still this one; several ids joined by commas.
    pub(crate) plan: Option<String>,
    /// Apps that aren't in the files go.
    pub(crate) prune: bool,
    /// Releases taken back are tried again.
    pub(crate) retry: bool,
}

/// What came of an apply.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) plans: Vec<Plan>,
    /// The apps that are there now.
    pub(crate) apps: Vec<AppName>,
}

/// Rounds of planning until it is said that others are faster.
const ATTEMPTS: u32 = 5;

/// What applying the files would change.
pub(crate) async fn plan(core: &Core, files: &[File]) -> Result<Vec<Plan>, Problem> {
    let manifests = parse(files)?;
    let doors = doors::read(files, &manifests).await?;
    let look = look::look(core, files, &manifests, &doors, false).await?;
    Ok(look.planned.into_iter().map(|planned| planned.plan).collect())
}

/// Applies the files; answers once every node has confirmed the routes.
pub(crate) async fn apply(core: &Core, files: &[File], wishes: &Wishes) -> Result<Applied, Problem> {
    let manifests = parse(files)?;
    let doors = doors::read(files, &manifests).await?;
    let mut first: Option<Look> = None;
    for _ in 0..ATTEMPTS {
        let look = look::look(core, files, &manifests, &doors, wishes.prune).await?;
        check_plan(&look.planned, wishes)?;
        if first.as_ref().is_some_and(|first| first.overtaken_by(&look)) {
            return Err(overtaken());
        }
        refuse_taken_back(&look.planned, wishes.retry)?;
        refuse_under_way(&look)?;
        if !commit::commit(core, &look, &doors).await? {
            first.get_or_insert(look);
            continue;
        }
        tell(core, &look);
        let gone = deleted(&look.planned);
        confirm::confirm(core, &look.planned, &gone).await?;
        return Ok(Applied {
            plans: look.planned.into_iter().map(|planned| planned.plan).collect(),
            apps: manifests.into_iter().map(|manifest| manifest.app).collect(),
        });
    }
    Err(overtaken())
}

/// Takes an app away: its routes go, its instances drain.
pub(crate) async fn delete(core: &Core, app: &AppName) -> Result<Vec<Plan>, Problem> {
    for _ in 0..ATTEMPTS {
        let look = look::deletion(core, app).await?;
        if !commit::commit(core, &look, &Doors::default()).await? {
            continue;
        }
        tell(core, &look);
        let gone = deleted(&look.planned);
        confirm::confirm(core, &look.planned, &gone).await?;
        return Ok(look.planned.into_iter().map(|planned| planned.plan).collect());
    }
    Err(overtaken())
}

fn parse(files: &[File]) -> Result<Vec<Manifest>, Problem> {
    let sources: Vec<Source<'_>> =
        files.iter().map(|file| Source { name: &file.name, text: &file.text }).collect();
    minato_model::manifest::parse(&sources).map_err(|problems| {
        let first = problems.problems.into_iter().next();
        first.unwrap_or_else(|| Problem::new(Code::InvalidRequest, "the manifest is invalid"))
    })
}

fn overtaken() -> Problem {
    Problem::new(Code::Conflict, "another change of the same app was made at the same time")
        .with_hint("look at `minato plan` again, then apply")
}

fn check_plan(planned: &[Planned], wishes: &Wishes) -> Result<(), Problem> {
    let Some(given) = &wishes.plan else { return Ok(()) };
    let mut given: Vec<&str> = given.split(',').collect();
    let mut now: Vec<&str> = planned.iter().map(|planned| planned.plan.id.as_str()).collect();
    given.sort_unstable();
    now.sort_unstable();
    if given == now {
        return Ok(());
    }
    let message = format!("the plan is {} by now, not {}", now.join(","), given.join(","));
    Err(Problem::new(Code::PlanOutdated, message).with_hint("look at `minato plan` again"))
}

fn refuse_taken_back(planned: &[Planned], retry: bool) -> Result<(), Problem> {
    let refused = planned.iter().find_map(|planned| Some((&planned.plan.app, planned.refused.first()?)));
    match refused {
        Some((app, refused)) if !retry => {
            let (service, taken) = (&refused.service, &refused.taken);
            let message = format!(
                "release {} of {app}/{service} was taken back at {}: {}",
                taken.number, taken.at, taken.reason
            );
            Err(Problem::new(Code::ReleaseRefused, message)
                .at_key(format!("services.{service}"))
                .with_hint("change the release, or try it again with `minato apply --retry`"))
        }
        _ => Ok(()),
    }
}

/// A release that is on its way is not overtaken by another one; one that replaces nothing may be.
fn refuse_under_way(look: &Look) -> Result<(), Problem> {
    for planned in &look.planned {
        for step in &planned.steps {
            let Step::Release { service, release, .. } = step else { continue };
            let key = look::key(planned, service);
            let Some(rollout) = look.world.rollouts.get(&key).map(|rollout| &rollout.value) else { continue };
            if !rollout.under_way() || rollout.serving.is_none() || rollout.target == release.number {
                continue;
            }
            let message = format!(
                "release {} of {key} is under way ({}, for {} s), so release {} can't begin",
                rollout.target,
                rollout.reason,
                rollout.elapsed.as_secs(),
                release.number
            );
            return Err(Problem::new(Code::Conflict, message)
                .at_key(format!("services.{service}"))
                .with_hint(format!(
                    "wait until it is stable or taken back (`minato why {key}`), then apply again"
                )));
        }
    }
    Ok(())
}

fn deleted(planned: &[Planned]) -> Vec<ServiceKey> {
    let services = planned.iter().flat_map(|planned| {
        planned.steps.iter().filter_map(|step| match step {
            Step::Delete { service } => Some(look::key(planned, service)),
            Step::Release { .. } => None,
        })
    });
    services.collect()
}

/// Records what was declared. Roll-outs tell of themselves.
fn tell(core: &Core, look: &Look) {
    for planned in look.planned.iter().filter(|planned| !planned.plan.changes.is_empty()) {
        let (kind, what) = match planned.next {
            Some(_) => ("app_applied", "applied"),
            None => ("app_deleted", "deleted"),
        };
        let reason = format!("{what}; changes ({}): {}", planned.plan.changes.len(), summary(&planned.plan));
        let mut event = Event::new(core.now(), kind, reason)
            .with_data(serde_json::json!({ "plan": planned.plan.id, "changes": planned.plan.changes }));
        event.app = Some(planned.plan.app.clone());
        core.record(event);
        for step in &planned.steps {
            tell_again(core, look, planned, step);
        }
    }
}

/// A release that is tried again begins with the declaration itself.
fn tell_again(core: &Core, look: &Look, planned: &Planned, step: &Step) {
    let Step::Release { service, release, .. } = step else { return };
    let key = look::key(planned, service);
    if look.world.rollouts.get(&key).is_some_and(|rollout| rollout.value.target == release.number) {
        let reason = format!("release {} is tried again", release.number);
        let event = Event::new(core.now(), "release_started", reason);
        core.record(event.with_service(&key).with_release(release.number));
    }
}

/// The first changes in a few words.
fn summary(plan: &Plan) -> String {
    let first = plan.changes.iter().take(3).map(|change| {
        let action = serde_json::to_value(change.action).unwrap_or_default();
        format!("{} {}", action.as_str().unwrap_or_default(), change.what)
    });
    let mut words: Vec<String> = first.collect();
    if plan.changes.len() > words.len() {
        words.push("…".to_owned());
    }
    words.join(", ")
}
