//! What the node is told: its slices, watched in the cluster state and put in force one revision at a
//! time. First the routes, confirmed by every edge thread; then what runs follows; then the report.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use minato_model::{
    event::Event,
    ids::{ReleaseKey, ServiceKey},
    keys,
    release::Release,
    route::{Entry, Split, Table as Routes, Weight},
    slice::Slice,
};
use minato_state::{Change, Revision, StateError, list_all};
use serde_json::json;
use tokio::time::sleep;

use crate::{
    adopt,
    decide::DrainCause,
    doors,
    node::Node,
    prepare::whole,
    table::{Preparation, ReleaseState, Table},
};

/// Between tries when the state doesn't answer.
const RETRY: Duration = Duration::from_secs(1);
/// Between tries to prepare a release: the first and the longest.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

type News = BTreeMap<ServiceKey, Told>;

/// What the state says of a service.
#[derive(Debug)]
enum Told {
    Slice(Arc<Slice>),
    /// It has a slice no more.
    Gone,
    /// It has one that can't be read: nothing changes.
    Unread,
}

/// Puts in force what is there now; the revision it is of.
pub(crate) async fn first(node: &Arc<Node>) -> Result<Revision, StateError> {
    let (items, revision) = list_all(&*node.state, &keys::slices_of(&node.name)).await?;
    // Whatever is known and not listed is gone.
    let known: Vec<ServiceKey> = {
        let table = node.table();
        table.slices.keys().chain(&table.unread).cloned().collect()
    };
    let mut news: News = known.into_iter().map(|service| (service, Told::Gone)).collect();
    for item in items {
        if let Some(service) = service_of(node, &item.key) {
            let told = decode(node, &service, &item.value);
            news.insert(service, told);
        }
    }
    put_in_force(node, news).await;
    Ok(revision)
}

/// Follows the slices from a revision on, for as long as the agent runs.
pub(crate) async fn run(node: Arc<Node>, mut revision: Revision) {
    loop {
        let ended = tokio::select! {
            () = node.over.cancelled() => return,
            ended = follow(&node, &mut revision) => ended,
        };
        if matches!(ended, StateError::Closed) {
            return;
        }
        if matches!(ended, StateError::Compacted { .. }) {
            tracing::info!(revision, "slices are listed anew");
        } else {
            tracing::warn!(error = %whole(&ended), "slices can't be watched; trying again");
            sleep(RETRY).await;
        }
        match first(&node).await {
            Ok(listed) => revision = listed,
            Err(error) => tracing::warn!(error = %whole(&error), "slices can't be listed; trying again"),
        }
    }
}

/// Watches after a revision until that fails.
async fn follow(node: &Arc<Node>, revision: &mut Revision) -> StateError {
    let mut watch = match node.state.watch(&keys::slices_of(&node.name), *revision + 1).await {
        Ok(watch) => watch,
        Err(error) => return error,
    };
    loop {
        let again = node.table().doors.again();
        let changes = tokio::select! {
            changes = watch.next() => changes,
            () = again => {
                let slices = node.table().slices.clone();
                doors::put_in_force(node, &slices).await;
                continue;
            }
        };
        let changes = match changes {
            Ok(changes) => changes,
            Err(error) => return error,
        };
        let mut news = News::new();
        for change in changes.changes {
            let Some(service) = service_of(node, change.key()) else { continue };
            let told = match change {
                Change::Put(item) => decode(node, &service, &item.value),
                Change::Delete { .. } => Told::Gone,
            };
            news.insert(service, told);
        }
        put_in_force(node, news).await;
        *revision = changes.revision;
    }
}

fn service_of(node: &Node, key: &str) -> Option<ServiceKey> {
    let service = key.strip_prefix(&keys::slices_of(&node.name)).and_then(|name| name.parse().ok());
    if service.is_none() {
        tracing::error!(key, "slice with a key that is no service's");
    }
    service
}

fn decode(node: &Node, service: &ServiceKey, value: &[u8]) -> Told {
    match serde_json::from_slice::<Slice>(value) {
        Ok(slice) => Told::Slice(Arc::new(slice)),
        Err(error) => {
            tracing::error!(%service, %error, "slice not readable: everything stays as it is");
            let reason =
                format!("what the node is told of it can't be read, and everything stays as it is: {error}");
            node.journal.record(Event::new(node.now(), "slice_unreadable", reason).with_service(service));
            Told::Unread
        }
    }
}

/// Publishes the routes, then lets everything else follow.
async fn put_in_force(node: &Arc<Node>, mut news: News) {
    let mut slices = node.table().slices.clone();
    news.retain(|service, told| is_newer(service, slices.get(service), told));
    for (service, told) in &news {
        match told {
            Told::Slice(slice) => drop(slices.insert(service.clone(), Arc::clone(slice))),
            Told::Gone => drop(slices.remove(service)),
            Told::Unread => {}
        }
    }
    doors::put_in_force(node, &slices).await;
    node.routing.publish(Arc::new(routes(&slices))).await;
    let mut fresh = Vec::new();
    let mut table = node.table();
    table.slices = slices;
    for (service, told) in &news {
        let Told::Slice(slice) = told else {
            if matches!(told, Told::Gone) {
                table.unread.remove(service);
            } else {
                table.unread.insert(service.clone());
            }
            continue;
        };
        table.unread.remove(service);
        for share in &slice.releases {
            let key = ReleaseKey { service: slice.service.clone(), number: share.release.number };
            let known =
                table.releases.get(&key).is_some_and(|state| state.release.hash == share.release.hash);
            if !known {
                let release = Arc::new(share.release.clone());
                table.releases.insert(key.clone(), ReleaseState::new(Arc::clone(&release)));
                fresh.push((key, release));
            }
        }
    }
    for service in news.keys().filter(|service| !table.unread.contains(service)) {
        retire_unnamed(&table, service);
    }
    drop(table);
    for (key, release) in fresh {
        node.tasks.spawn(prepare(Arc::clone(node), key, release));
    }
    for service in news.keys() {
        node.signals.changed(service);
    }
}

/// Drains instances of releases that are not known here: they were adopted while the slice couldn't be
/// read, and it doesn't name them now that it can.
fn retire_unnamed(table: &Table, service: &ServiceKey) {
    let of_service = table.instances.values().filter(|record| record.release.service == *service);
    for record in of_service {
        let known = table.releases.get(&record.release);
        let stranger = known.is_none_or(|state| state.release.hash != record.hash);
        if stranger && !adopt::is_wanted(table, &record.release, &record.hash) {
            record.orders.send_if_modified(|orders| {
                let news = orders.drain.is_none();
                orders.drain.get_or_insert(DrainCause::Retired);
                news
            });
        }
    }
}

/// A slice that is older than the one in force is refused.
fn is_newer(service: &ServiceKey, known: Option<&Arc<Slice>>, told: &Told) -> bool {
    let (Some(known), Told::Slice(slice)) = (known, told) else { return true };
    if slice.generation < known.generation {
        tracing::warn!(
            %service, generation = %slice.generation, known = %known.generation, "older slice refused"
        );
    }
    slice.generation >= known.generation
}

/// The routes of all slices.
fn routes(slices: &BTreeMap<ServiceKey, Arc<Slice>>) -> Routes {
    let entry = |slice: &Arc<Slice>| Entry {
        service: slice.service.clone(),
        route: slice.route.clone(),
        weights: slice
            .releases
            .iter()
            .filter(|share| share.weight > 0)
            .map(|share| Weight { number: share.release.number, weight: share.weight })
            .collect(),
        split: Split::default(),
    };
    Routes { services: slices.values().map(entry).collect() }
}

/// Prepares a release anew of which it was thought that it is prepared.
pub(crate) fn prepare_again(node: &Arc<Node>, key: &ReleaseKey) {
    let mut table = node.table();
    let Some(state) = table.releases.get_mut(key) else { return };
    if !matches!(state.preparation, Preparation::Prepared(_)) {
        return;
    }
    state.preparation = Preparation::Preparing;
    let release = Arc::clone(&state.release);
    drop(table);
    node.tasks.spawn(prepare(Arc::clone(node), key.clone(), release));
}

/// Prepares a release, again and again where it may heal and as long as somebody wants it.
async fn prepare(node: Arc<Node>, key: ReleaseKey, release: Arc<Release>) {
    let (mut pause, longest) = AGAIN;
    let mut said = false;
    loop {
        let result = tokio::select! {
            () = node.over.cancelled() => return,
            result = node.trees.prepare(&release.spec) => result,
        };
        let heals = result.as_ref().err().map(|error| error.heals());
        let (kind, reason, data, preparation) = match result {
            Ok(prepared) => {
                let reason = "it can be started in milliseconds".to_owned();
                ("release_prepared", reason, json!(null), Preparation::Prepared(Arc::new(prepared)))
            }
            Err(error) => {
                let (code, reason) = (error.code(), whole(&error));
                let failed = Preparation::Failed { code, reason: reason.clone() };
                ("release_unprepared", reason, json!({ "code": code }), failed)
            }
        };
        {
            let mut table = node.table();
            let state = table.releases.get_mut(&key).filter(|state| state.release.hash == release.hash);
            let Some(state) = state else { return };
            state.preparation = preparation;
        }
        // A try that fails as the one before it is no news.
        if heals.is_none() || !std::mem::replace(&mut said, true) {
            let event = Event::new(node.now(), kind, reason).with_service(&key.service);
            node.journal.record(event.with_release(key.number).with_data(data));
        }
        node.signals.changed(&key.service);
        if heals != Some(true) {
            return;
        }
        tokio::select! {
            () = node.over.cancelled() => return,
            () = sleep(pause) => pause = longest.min(pause * 2),
        }
    }
}
