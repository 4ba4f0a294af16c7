//! The loop: which hosts there are, which are due, and one order after another.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use minato_identity::files::Material;
use minato_model::{event::Event, ids::ServiceKey, keys, slice::Slice, tls::Files};
use minato_state::{Revision, StateError, list_all};
use serde_json::json;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    Acme, Proof,
    account::{self, AccountError},
    lease,
    order::{self, OrderError},
    schedule,
};

/// Everything is looked at this often, news or not.
const LOOK: Duration = Duration::from_secs(60);
/// After the state didn't answer, or while another node has the turn.
const AGAIN: Duration = Duration::from_secs(5);
/// Between two looks at least: roll-outs write slices in heaps.
const PACE: Duration = Duration::from_millis(200);
/// An order ends within this time, whatever the authority does.
const ORDER_WITHIN: Duration = Duration::from_secs(5 * 60);

/// Why a host got no certificate.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error(transparent)]
    Order(#[from] OrderError),
    #[error("the authority took longer than {} s", ORDER_WITHIN.as_secs())]
    TooLong,
    #[error("the order broke off")]
    BrokenOff,
    #[error("the certificate can't be kept")]
    Store(#[from] crate::StoreError),
}

impl Acme {
    /// Asks for what is due, again and again, until told to stop.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let _ended: Option<()> = shutdown.run_until_cancelled(self.rounds()).await;
        // Who ends in the middle of an order keeps no other node waiting.
        if let Err(error) = lease::give_up(&*self.deps.state, &self.config.node).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "the turn ends by itself");
        }
    }

    async fn rounds(self: &Arc<Self>) {
        loop {
            match self.round().await {
                Ok(revision) => self.news(revision).await,
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "certificates by ACME wait for the state"
                    );
                    sleep(AGAIN).await;
                }
            }
        }
    }

    /// Waits for a change of the slices, or until something is due.
    async fn news(&self, revision: Revision) {
        let soonest = {
            let known = self.known();
            let due = known.hosts.values().filter_map(schedule::Host::due);
            due.chain(known.directory.next).filter(|due| *due > self.now()).min()
        };
        let wait = soonest.map_or(LOOK, |due| due.since(self.now()).min(LOOK));
        let watched = async {
            let watch = self.deps.state.watch(&keys::slices_of(&self.config.node), revision + 1).await;
            match watch {
                Ok(mut watch) => drop(watch.next().await),
                Err(_) => sleep(AGAIN).await,
            }
        };
        drop(timeout(wait, watched).await);
        sleep(PACE).await;
    }

    /// Asks for everything that is due; the revision by which that was decided.
    async fn round(self: &Arc<Self>) -> Result<Revision, StateError> {
        let (hosts, revision) = self.hosts().await?;
        self.follow(&hosts);
        for (host, service) in hosts {
            let now = self.now();
            let due = {
                let known = self.known();
                let waits = known.directory.next.is_some_and(|next| next > now);
                let due = known.hosts.get(&host).and_then(schedule::Host::due);
                !waits && due.is_none_or(|due| due <= now)
            };
            if !due {
                continue;
            }
            let state = &*self.deps.state;
            let Some(turn) = lease::take(state, &self.config.node, now).await? else {
                sleep(AGAIN).await;
                break;
            };
            self.one(&host, &service).await;
            lease::give_back(state, turn).await?;
        }
        Ok(revision)
    }

    /// The hosts of this node that are to have a certificate by the authority.
    async fn hosts(&self) -> Result<(BTreeMap<String, ServiceKey>, Revision), StateError> {
        let (items, revision) = list_all(&*self.deps.state, &keys::slices_of(&self.config.node)).await?;
        let mut hosts = BTreeMap::new();
        let mut of_files = BTreeSet::new();
        for item in items {
            // What can't be read is told by who runs it.
            let Ok(slice) = serde_json::from_slice::<Slice>(&item.value) else { continue };
            if slice.route.tls.certificate {
                of_files.extend(slice.route.hosts);
            } else {
                hosts.extend(slice.route.hosts.into_iter().map(|host| (host, slice.service.clone())));
            }
        }
        let wanted = |host: &String| match &self.config.hosts {
            Some(named) => named.contains(host),
            None => schedule::is_public(host),
        };
        hosts.retain(|host, _| !of_files.contains(host) && wanted(host));
        Ok((hosts, revision))
    }

    /// Hosts that are no more wanted are asked for no more; what they have is presented until it ends.
    fn follow(&self, hosts: &BTreeMap<String, ServiceKey>) {
        let mut known = self.known();
        known.hosts.retain(|host, state| hosts.contains_key(host) || state.leaf.is_some());
        for host in hosts.keys() {
            known.hosts.entry(host.clone()).or_default();
        }
    }

    /// One order, and what comes of it.
    async fn one(self: &Arc<Self>, host: &str, service: &ServiceKey) {
        let proof = self.known().hosts.get(host).cloned().unwrap_or_default().proof(self.config.proof);
        let kept = match self.attempt(host, proof).await {
            Ok((files, material)) => match self.store.keep(host, &files) {
                Ok(()) => Ok(material),
                Err(error) => Err(error.into()),
            },
            Err(error) => Err(error),
        };
        let event = match kept {
            Ok(material) => self.issued(host, &material, proof),
            Err(error) => self.failed(host, proof, &error),
        };
        self.deps.journal.record(event.with_service(service));
        let failures: BTreeMap<_, _> = {
            let known = self.known();
            let failed =
                known.hosts.iter().filter_map(|(host, state)| Some((host.clone(), state.failures()?)));
            failed.collect()
        };
        if let Err(error) = self.store.keep_failures(&failures) {
            tracing::warn!(error = &error as &dyn std::error::Error, "failures of ACME can't be kept");
        }
    }

    #[expect(clippy::disallowed_methods, reason = "it is awaited here; a panic in it ends it alone")]
    async fn attempt(self: &Arc<Self>, host: &str, proof: Proof) -> Result<(Files, Material), Failed> {
        let (acme, host) = (Arc::clone(self), host.to_owned());
        let ordered = tokio::spawn(async move {
            let ordered = async {
                let account = account::account(&acme.config, &acme.store, &acme.client).await?;
                let routing = Arc::clone(&acme.deps.routing);
                Ok(order::order(&account, &host, proof, routing, &*acme.deps.clock).await?)
            };
            timeout(ORDER_WITHIN, ordered).await.unwrap_or(Err(Failed::TooLong))
        });
        // Whoever stops this stops the order too: the challenge goes with it.
        let mut ordered = Ended(ordered);
        (&mut ordered.0).await.unwrap_or(Err(Failed::BrokenOff))
    }

    fn issued(&self, host: &str, material: &Material, proof: Proof) -> Event {
        self.keep(host, material);
        self.known().directory = schedule::Directory::default();
        self.present();
        let leaf = material.presented.certificate.as_ref();
        let until = leaf.map_or_else(|| self.now(), |leaf| leaf.not_after);
        tracing::info!(host, valid_until = %until, "certificate by ACME");
        let reason = format!("{host} has a certificate by {}, valid until {until}", self.config.directory);
        let data = json!({
            "host": host,
            "directory": self.config.directory,
            "proof": proof.as_str(),
            "sha256": leaf.map(|leaf| &leaf.sha256),
            "valid_until": until,
        });
        Event::new(self.now(), "acme_issued", reason).with_data(data)
    }

    fn failed(&self, host: &str, proof: Proof, error: &Failed) -> Event {
        let (now, why) = (self.now(), whole(error));
        let (kind, of_directory) = match error {
            Failed::Order(order) => (order.kind().map(str::to_owned), order.is_of_the_directory()),
            Failed::Account(_) => (None, true),
            Failed::TooLong | Failed::BrokenOff | Failed::Store(_) => (None, true),
        };
        if kind.as_deref() == Some("accountDoesNotExist") {
            self.store.forget_account(&self.config.directory);
        }
        // Mostly it is the account that has asked too often, whatever for.
        let rate_limited = kind.as_deref() == Some("rateLimited");
        let next = {
            let mut known = self.known();
            if of_directory || rate_limited {
                known.directory.failed(now, jitter());
            }
            let state = known.hosts.entry(host.to_owned()).or_default();
            state.failed(why.clone(), now, rate_limited, jitter());
            state.next
        };
        tracing::warn!(host, %why, "no certificate by ACME");
        let reason = format!("{host} got no certificate by {}: {why}", self.config.directory);
        let data = json!({
            "host": host,
            "directory": self.config.directory,
            "proof": proof.as_str(),
            "kind": kind,
            "next": next,
        });
        Event::new(now, "acme_failed", reason).with_data(data)
    }
}

/// Aborted when it isn't waited for any more.
struct Ended<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Ended<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An error with what caused it, bounded: some of it is the authority's.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text.chars().filter(|c| !c.is_control()).take(1_000).collect()
}

/// From 0 to 1.
fn jitter() -> f64 {
    let mut byte = [0_u8];
    // Without one, all wait as long.
    if getrandom::fill(&mut byte).is_err() {
        return 0.5;
    }
    f64::from(byte[0]) / 255.0
}
