//! From a manifest and what is there to a plan: every change with its reason.
//!
//! Invariant: a manifest that was applied gives a plan without changes, until something it names has
//! moved (a tag) or failed (a release taken back).

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use minato_model::{
    code::Problem,
    ids::{AppName, Generation, ReleaseNumber, ServiceKey, ServiceName},
    images::ResolvedImage,
    manifest::{Manifest, Service},
    plan::{Action, Change, Plan},
    release::{Release, ReleaseSpec},
    time::Moment,
    tls::Presented,
};
use serde::Serialize;

use crate::{
    hash::sha256_hex,
    keys::{self, Difference},
    record::{Declared, TakenBack},
    release,
};

/// All that a plan follows from.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// What is to be.
    pub manifest: &'a Manifest,
    /// What was declared last; `None`: the app isn't there.
    pub declared: Option<&'a Declared>,
    /// What each service's image means now.
    pub images: &'a BTreeMap<ServiceName, ResolvedImage>,
    /// What the files are that services name for their doors, of each that names any.
    pub presented: &'a BTreeMap<ServiceName, Presented>,
    /// What is known of services that there are or ever were.
    pub known: &'a BTreeMap<ServiceName, Known>,
    /// What a new release says of when it was made.
    pub now: Moment,
}

/// What is known of a service.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Known {
    /// The highest number that a release of it ever had.
    pub last_release: ReleaseNumber,
    /// Its releases, by number.
    pub releases: BTreeMap<ReleaseNumber, Release>,
    /// Which of them were taken back, by hash.
    pub taken_back: BTreeMap<String, TakenBack>,
}

/// A plan, and what carrying it out takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// What is shown.
    pub plan: Plan,
    /// What is to be declared; `None`: the app goes.
    pub next: Option<Declared>,
    /// What is to be done, in this order.
    pub steps: Vec<Step>,
    /// Releases in the plan that were taken back before.
    pub refused: Vec<Refused>,
}

/// A thing to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Bring this release in.
    Release {
        /// Of which service.
        service: ServiceName,
        /// Which release.
        release: Box<Release>,
        /// Whether it has yet to be written down: its hash is new.
        new: bool,
        /// Why.
        reason: String,
    },
    /// Take the service away. Its releases and its record stay.
    Delete {
        /// Which service.
        service: ServiceName,
    },
}

/// A release that was taken back before.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    /// Of which service.
    pub service: ServiceName,
    /// Its hash.
    pub hash: String,
    /// What is remembered of it.
    pub taken: TakenBack,
}

/// What applying the manifest would change.
///
/// # Errors
/// Every service whose release can't be made from its image.
pub fn plan(inputs: &Inputs<'_>) -> Result<Planned, Vec<Problem>> {
    let generation = inputs.declared.map_or(Generation(0), |declared| declared.generation);
    let mut all = Collected::default();
    let mut problems = Vec::new();
    for (name, service) in &inputs.manifest.services {
        // Who asks has resolved them all; without one there is nothing to say of a release.
        let Some(image) = inputs.images.get(name) else { continue };
        match release::spec(name, service, image) {
            Ok(spec) => all.service(inputs, name, service, spec),
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    for name in inputs.declared.iter().flat_map(|declared| declared.manifest.services.keys()) {
        if !inputs.manifest.services.contains_key(name) {
            all.delete(&inputs.manifest.app, name, "it is no longer in the manifest");
        }
    }
    let next = Declared {
        generation: Generation(generation.0 + 1),
        manifest: inputs.manifest.clone(),
        releases: std::mem::take(&mut all.releases),
        presented: inputs.presented.clone(),
    };
    Ok(all.planned(&inputs.manifest.app, generation, Some(next)))
}

/// What taking an app away would change.
#[must_use]
pub fn delete(declared: &Declared, reason: &str) -> Planned {
    let app = &declared.manifest.app;
    let mut all = Collected::default();
    for name in declared.manifest.services.keys() {
        all.delete(app, name, reason);
    }
    all.planned(app, declared.generation, None)
}

/// What a plan is gathered in.
#[derive(Default)]
struct Collected {
    changes: Vec<Change>,
    steps: Vec<Step>,
    refused: Vec<Refused>,
    releases: BTreeMap<ServiceName, ReleaseNumber>,
}

impl Collected {
    fn service(&mut self, inputs: &Inputs<'_>, name: &ServiceName, service: &Service, spec: ReleaseSpec) {
        let known = inputs.known.get(name).cloned().unwrap_or_default();
        let declared = inputs.declared.and_then(|declared| {
            Some((declared.manifest.services.get(name)?, *declared.releases.get(name)?))
        });
        let hash = release::hash(&spec);
        let taken = known.taken_back.get(&hash).cloned();
        let (release, new) = numbered(&known, hash, spec, service, inputs.now);
        self.releases.insert(name.clone(), release.number);
        let same = declared.is_some_and(|(_, number)| number == release.number);
        if !same || taken.is_some() {
            let change = release_change(
                &inputs.manifest.app,
                name,
                service,
                &known,
                declared,
                &release,
                taken.as_ref(),
            );
            let reason = change.reason.clone();
            self.changes.push(change);
            self.refused.extend(taken.map(|taken| Refused {
                service: name.clone(),
                hash: release.hash.clone(),
                taken,
            }));
            let release = Box::new(release);
            self.steps.push(Step::Release { service: name.clone(), release, new, reason });
        }
        if let Some((old, _)) = declared {
            self.changes.extend(updates(&inputs.manifest.app, name, old, service, same));
        }
        let before = inputs.declared.and_then(|declared| declared.presented.get(name));
        self.changes.extend(files(&inputs.manifest.app, name, before, inputs.presented.get(name)));
    }

    fn delete(&mut self, app: &AppName, name: &ServiceName, reason: &str) {
        self.changes.push(Change {
            action: Action::Delete,
            what: format!("{app}/{name}"),
            from: None,
            to: None,
            reason: reason.to_owned(),
        });
        self.steps.push(Step::Delete { service: name.clone() });
    }

    fn planned(self, app: &AppName, generation: Generation, next: Option<Declared>) -> Planned {
        let id = id(app, generation, &self.changes, &self.steps, next.as_ref());
        Planned {
            plan: Plan { id, app: app.clone(), changes: self.changes },
            next,
            steps: self.steps,
            refused: self.refused,
        }
    }
}

/// The release with this hash: an old one under its old number, or a new one with the next.
fn numbered(
    known: &Known,
    hash: String,
    spec: ReleaseSpec,
    service: &Service,
    now: Moment,
) -> (Release, bool) {
    if let Some(old) = known.releases.values().find(|release| release.hash == hash) {
        return (old.clone(), false);
    }
    let number = known.last_release + 1;
    (Release { number, hash, spec, image: service.image.clone(), created_at: now }, true)
}

fn release_change(
    app: &AppName,
    name: &ServiceName,
    service: &Service,
    known: &Known,
    declared: Option<(&Service, ReleaseNumber)>,
    release: &Release,
    taken: Option<&TakenBack>,
) -> Change {
    let describe =
        |release: &Release| format!("release {} ({})", release.number, release.spec.digest.short());
    let from = declared.and_then(|(_, number)| known.releases.get(&number));
    let mut reason = match from {
        None => format!("it is new: {} is {}", service.image, release.spec.digest.short()),
        Some(from) if from.number == release.number => "it was taken back".to_owned(),
        Some(from) => release::differences(from, &release.spec, &service.image.to_string()).join("; "),
    };
    if let Some(taken) = taken {
        reason.push_str(&format!(
            " (refused: release {} was taken back at {}: {}; --retry tries it again)",
            taken.number, taken.at, taken.reason
        ));
    }
    Change {
        action: if declared.is_some() { Action::Release } else { Action::Create },
        what: ServiceKey { app: app.clone(), service: name.clone() }.to_string(),
        from: from.map(describe),
        to: Some(describe(release)),
        reason,
    }
}

/// What differs in the keys of the service itself. The image's reference is told by the release's
/// change already where there is one.
fn updates<'a>(
    app: &'a AppName,
    name: &'a ServiceName,
    old: &Service,
    new: &Service,
    same_release: bool,
) -> impl Iterator<Item = Change> + use<'a> {
    let changed = keys::differences(&keys::of_service(old), &keys::of_service(new));
    let told = move |difference: &Difference| difference.key != "image" || same_release;
    changed.into_iter().filter(told).map(move |Difference { key, from, to }| Change {
        action: Action::Update,
        what: format!("{app}/{name} {key}"),
        from: Some(from),
        to: Some(to),
        reason: match key {
            "image" => "another name of the same image: nothing starts anew".to_owned(),
            _ => "it belongs to the service: nothing starts anew".to_owned(),
        },
    })
}

/// What differs in the files that a service named for its doors, whatever they are called.
fn files(
    app: &AppName,
    name: &ServiceName,
    old: Option<&Presented>,
    new: Option<&Presented>,
) -> Option<Change> {
    if old.map(|old| &old.id) == new.map(|new| &new.id) {
        return None;
    }
    Some(Change {
        action: Action::Update,
        what: format!("{app}/{name} tls"),
        from: old.map(describe),
        to: new.map(describe),
        reason: match (old, new) {
            (_, None) => "files go: its hosts have the cluster's certificate, or one by ACME",
            (None, Some(_)) => "files come: handshakes from now on",
            (Some(_), Some(_)) => "files change: handshakes from now on, connections and instances stay",
        }
        .to_owned(),
    })
}

fn describe(presented: &Presented) -> String {
    let certificate = presented.certificate.as_ref().map(|leaf| {
        let names = leaf.names.join(", ");
        format!("certificate {} for {names}, valid until {}", short(&leaf.sha256), leaf.not_after)
    });
    let roots = presented.client_roots.as_ref();
    let roots = roots.map(|(hash, count)| format!("clients by {count} roots ({})", short(hash)));
    certificate.into_iter().chain(roots).collect::<Vec<_>>().join("; ")
}

/// As much of a hash as is shown.
fn short(hash: &str) -> &str {
    hash.get(..16).unwrap_or(hash)
}

/// Hash of the declared generation and the resolved changes. Instances don't count, so that a wake
/// voids no plan; neither does the moment.
fn id(
    app: &AppName,
    generation: Generation,
    changes: &[Change],
    steps: &[Step],
    next: Option<&Declared>,
) -> String {
    /// What identifies a plan, in this order.
    #[derive(Serialize)]
    struct Identity<'a> {
        app: &'a AppName,
        generation: Generation,
        changes: &'a [Change],
        hashes: Vec<&'a str>,
        services: Option<&'a BTreeMap<ServiceName, Service>>,
        files: Vec<&'a str>,
    }
    let hashes = steps.iter().filter_map(|step| match step {
        Step::Release { release, .. } => Some(release.hash.as_str()),
        Step::Delete { .. } => None,
    });
    let services = next.map(|next| &next.manifest.services);
    let files = next.iter().flat_map(|next| next.presented.values()).map(|presented| presented.id.as_str());
    let identity =
        Identity { app, generation, changes, hashes: hashes.collect(), services, files: files.collect() };
    // Plain data always serialises; an empty text would only make ids less distinct.
    let bytes = serde_json::to_vec(&identity).unwrap_or_default();
    sha256_hex(&bytes).chars().take(16).collect()
}
