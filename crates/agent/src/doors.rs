//! What the node's edge presents of services' own files: read from the cluster state before the routes are
//! published that name them, and handed to the edge whole.
//!
//! Files that can't be read leave a service with what it had, or else with the cluster's certificate: no
//! route waits for them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use minato_identity::files;
use minato_model::{
    event::Event,
    ids::ServiceKey,
    keys,
    slice::Slice,
    tls::{Certificate, ClientRoots, Files, Secured, Source},
};
use minato_state::StateError;
use tokio::sync::Notify;

use crate::{node::Node, prepare::whole};

/// After the state didn't answer.
const AGAIN: Duration = Duration::from_secs(2);

/// What is in force, by service.
#[derive(Debug, Default)]
pub(crate) struct Doors {
    read: BTreeMap<ServiceKey, Arc<Material>>,
    /// What `read` was read for, if all of it could be.
    named: Option<Vec<Named>>,
    given: Arc<Secured>,
    /// Asks for another look.
    again: Arc<Notify>,
}

impl Doors {
    /// Resolves when another look at the same slices may find more.
    pub(crate) fn again(&self) -> impl Future<Output = ()> + Send + use<> {
        let again = Arc::clone(&self.again);
        async move { again.notified().await }
    }
}

/// A service, its files' id and its hosts.
type Named = (ServiceKey, String, Vec<String>);

/// A service's files, read.
#[derive(Debug)]
struct Material {
    id: String,
    certificate: Option<Certificate>,
    client_roots: Vec<Vec<u8>>,
}

/// Why files can't be used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("the cluster state can't be read")]
    State(#[from] StateError),
    #[error("they aren't in the cluster state")]
    Missing,
    #[error("their item can't be read")]
    Item(#[from] serde_json::Error),
    #[error(transparent)]
    Refused(#[from] files::Refused),
    #[error("reading them broke off")]
    BrokenOff,
}

/// Puts in force what these slices name.
pub(crate) async fn put_in_force(node: &Arc<Node>, slices: &BTreeMap<ServiceKey, Arc<Slice>>) {
    let named = |(key, slice): (&ServiceKey, &Arc<Slice>)| {
        Some((key.clone(), slice.route.tls.files.clone()?, slice.route.hosts.clone()))
    };
    let named: Vec<Named> = slices.iter().filter_map(named).collect();
    let known = {
        let table = node.table();
        // Slices change all the time, files seldom.
        if table.doors.named.as_ref() == Some(&named) {
            return;
        }
        table.doors.read.clone()
    };
    let mut read = BTreeMap::new();
    let mut secured = Secured::default();
    let mut hosts = Hosts::default();
    let mut complete = true;
    for (key, id, names) in &named {
        let before = known.get(key);
        let material = match before.filter(|before| before.id == *id) {
            Some(same) => Some(Arc::clone(same)),
            None => match material(node, key, id).await {
                Ok(material) => Some(Arc::new(material)),
                Err(error) => {
                    complete = false;
                    unusable(node, key, &error);
                    before.cloned()
                }
            },
        };
        let Some(material) = material else { continue };
        hosts.add(&mut secured, &material, names);
        read.insert(key.clone(), material);
    }
    let secured = Arc::new(secured);
    let mut table = node.table();
    let news = *table.doors.given != *secured;
    table.doors.read = read;
    table.doors.named = complete.then_some(named);
    table.doors.given = Arc::clone(&secured);
    drop(table);
    if news {
        node.routing.secure(Source::Files, secured);
    }
}

async fn material(node: &Node, key: &ServiceKey, id: &str) -> Result<Material, Unusable> {
    let (item, _) = node.state.get(&keys::door(key, id)).await?;
    let files: Files = serde_json::from_slice(&item.ok_or(Unusable::Missing)?.value)?;
    // A key of RSA takes milliseconds to be looked at.
    let read = tokio::task::spawn_blocking(move || files::read(&files)).await;
    let material = read.map_err(|_| Unusable::BrokenOff)??;
    let client_roots = material.client_roots.iter().map(|root| root.to_vec()).collect();
    Ok(Material { id: id.to_owned(), certificate: material.certificate(), client_roots })
}

/// Says that a service's files can't be used; where that may heal, all is looked at again after a while.
fn unusable(node: &Arc<Node>, key: &ServiceKey, error: &Unusable) {
    let why = whole(error);
    tracing::error!(service = %key, error = %why, "files of a service's doors can't be used");
    let reason = format!("the files for its doors can't be used: {why}; what it had before is presented on");
    node.journal.record(Event::new(node.now(), "certificate_unusable", reason).with_service(key));
    if matches!(error, Unusable::State(_)) {
        let (over, again) = (node.over.clone(), Arc::clone(&node.table().doors.again));
        node.tasks.spawn(async move {
            tokio::select! {
                () = over.cancelled() => {}
                () = tokio::time::sleep(AGAIN) => again.notify_one(),
            }
        });
    }
}

/// Which hosts have theirs already: the first service by name says it for all of a host.
#[derive(Default)]
struct Hosts {
    certificates: BTreeSet<String>,
    clients: BTreeSet<String>,
}

impl Hosts {
    fn add(&mut self, secured: &mut Secured, material: &Material, names: &[String]) {
        let new = |known: &mut BTreeSet<String>| -> Vec<String> {
            names.iter().filter(|name| known.insert((*name).clone())).cloned().collect()
        };
        if let Some(certificate) = &material.certificate {
            let hosts = new(&mut self.certificates);
            if !hosts.is_empty() {
                secured.certificates.push(Certificate { hosts, ..certificate.clone() });
            }
        }
        if !material.client_roots.is_empty() {
            let hosts = new(&mut self.clients);
            if !hosts.is_empty() {
                secured.client_roots.push(ClientRoots { hosts, roots: material.client_roots.clone() });
            }
        }
    }
}
