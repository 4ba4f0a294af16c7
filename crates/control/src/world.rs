//! The cluster state as control reads it: all of one revision.

use std::{collections::BTreeMap, str::FromStr, sync::OnceLock};

use minato_model::{
    ids::{AppName, NodeName, ServiceKey},
    inventory::Report,
    keys,
    manifest::Service,
    node::NodeRecord,
    slice::Slice,
    tls::{Leaf, Presented},
};
use minato_planner::{
    record::{Declared, ServiceRecord},
    rollout::{Rollout, Seen},
    slices::{self, Wanted},
};
use minato_state::{Revision, State, StateError, limits::PAGE_ITEMS};
use serde::de::DeserializeOwned;

use crate::core::{Core, Fault, decode};

/// A value with the revision that wrote it.
#[derive(Debug, Clone)]
pub(crate) struct Kept<T> {
    pub(crate) value: T,
    pub(crate) modified: Revision,
}

/// The cluster state of one revision, releases excepted.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) revision: Revision,
    /// When the claims were last changed; 0: never.
    pub(crate) claims: Revision,
    pub(crate) apps: BTreeMap<AppName, Kept<Declared>>,
    pub(crate) services: BTreeMap<ServiceKey, Kept<ServiceRecord>>,
    pub(crate) rollouts: BTreeMap<ServiceKey, Kept<Rollout>>,
    pub(crate) nodes: BTreeMap<NodeName, NodeRecord>,
    pub(crate) slices: BTreeMap<OnNode, Kept<Slice>>,
    pub(crate) reports: BTreeMap<OnNode, Report>,
    /// The certificate from files of each host that has one; made when it is first asked for.
    of_hosts: OnceLock<BTreeMap<String, Leaf>>,
}

/// A service on a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OnNode {
    pub(crate) service: ServiceKey,
    pub(crate) node: NodeName,
}

/// As often as history may be compacted under a read until it gives up.
const ATTEMPTS: u32 = 3;

impl World {
    /// Reads it.
    pub(crate) async fn read(state: &dyn State) -> Result<Self, Fault> {
        let mut attempts = 1;
        loop {
            match Self::read_once(state).await {
                Err(Fault::State(StateError::Compacted { .. })) if attempts < ATTEMPTS => attempts += 1,
                end => return end,
            }
        }
    }

    async fn read_once(state: &dyn State) -> Result<Self, Fault> {
        let (claims, revision) = state.get(keys::CLAIMS).await?;
        let read = Reader { state, revision };
        Ok(Self {
            revision,
            claims: claims.map_or(0, |claims| claims.modified),
            apps: read.all(keys::APPS, plain).await?,
            services: read.all(keys::SERVICES, plain).await?,
            rollouts: read.all(keys::ROLLOUTS, plain).await?,
            nodes: values(read.all(keys::NODES, plain).await?),
            slices: read.all(keys::SLICES, on_node).await?,
            reports: values(read.all(keys::INVENTORY, on_node).await?),
            of_hosts: OnceLock::new(),
        })
    }

    /// Every service that is declared.
    pub(crate) fn declared(&self) -> impl Iterator<Item = (ServiceKey, &Kept<Declared>, &Service)> {
        self.apps.iter().flat_map(|(app, declared)| {
            declared.value.manifest.services.iter().map(move |(name, service)| {
                (ServiceKey { app: app.clone(), service: name.clone() }, declared, service)
            })
        })
    }

    /// A service as it is declared.
    pub(crate) fn service(&self, key: &ServiceKey) -> Option<&Service> {
        self.apps.get(&key.app)?.value.manifest.services.get(&key.service)
    }

    /// The certificate from files that a host has, whichever of its services named it.
    pub(crate) fn of_host(&self, host: &str) -> Option<&Leaf> {
        let of_hosts = self.of_hosts.get_or_init(|| {
            let mut of_hosts = BTreeMap::new();
            for app in self.apps.values().map(|app| &app.value) {
                for (name, presented) in &app.presented {
                    let hosts = app.manifest.services.get(name).map(|service| &service.hosts);
                    for (host, leaf) in hosts.into_iter().flatten().zip(presented.certificate.iter().cycle())
                    {
                        of_hosts.entry(host.clone()).or_insert_with(|| leaf.clone());
                    }
                }
            }
            of_hosts
        });
        of_hosts.get(host)
    }

    /// The files for a service's doors, if it named any.
    pub(crate) fn presented(&self, key: &ServiceKey) -> Option<&Presented> {
        self.apps.get(&key.app)?.value.presented.get(&key.service)
    }

    /// The slices that each node is to have of a service; `None`: nothing is decided yet.
    pub(crate) async fn wanted(
        &self,
        core: &Core,
        key: &ServiceKey,
        service: &Service,
    ) -> Result<Option<BTreeMap<NodeName, Slice>>, Fault> {
        let (Some(record), Some(rollout)) = (self.services.get(key), self.rollouts.get(key)) else {
            return Ok(None);
        };
        let releases = core.releases(key, rollout.value.numbers()).await?;
        let nodes: Vec<NodeName> = self.nodes.keys().cloned().collect();
        let wanted = Wanted {
            key,
            service,
            record: &record.value,
            rollout: &rollout.value,
            releases: &releases,
            presented: self.presented(key),
        };
        Ok(Some(slices::slices(&wanted, &nodes)))
    }

    /// What the nodes report of a service, where `wanted` is what they are to be told.
    pub(crate) fn seen(&self, key: &ServiceKey, wanted: &BTreeMap<NodeName, Slice>) -> Seen {
        let in_force = !wanted.is_empty()
            && wanted.iter().all(|(node, slice)| {
                let place = OnNode { service: key.clone(), node: node.clone() };
                let told = self.slices.get(&place).filter(|told| same(&told.value, slice));
                told.is_some() && self.confirmed(&place)
            });
        Seen::collect(in_force, self.reports_of(key).map(|(_, report)| report))
    }

    /// Whether a node has confirmed the slice that it was given last.
    pub(crate) fn confirmed(&self, place: &OnNode) -> bool {
        let told = self.slices.get(place).map(|told| told.value.generation);
        told.is_some_and(|told| self.reports.get(place).is_some_and(|report| report.generation >= told))
    }

    /// What each node reports of a service.
    pub(crate) fn reports_of(&self, key: &ServiceKey) -> impl Iterator<Item = (&NodeName, &Report)> {
        self.nodes.keys().filter_map(|node| {
            let place = OnNode { service: key.clone(), node: node.clone() };
            Some((node, self.reports.get(&place)?))
        })
    }
}

/// Whether two slices say the same, whatever their generations.
pub(crate) fn same(one: &Slice, other: &Slice) -> bool {
    Slice { generation: other.generation, ..one.clone() } == *other
}

struct Reader<'a> {
    state: &'a dyn State,
    revision: Revision,
}

impl Reader<'_> {
    /// Everything below a prefix whose key can be read; a foreign key is left alone.
    async fn all<K: Ord, T: DeserializeOwned>(
        &self,
        prefix: &str,
        key: fn(&str) -> Option<K>,
    ) -> Result<BTreeMap<K, Kept<T>>, Fault> {
        let mut found = BTreeMap::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.state.list(prefix, after.as_deref(), PAGE_ITEMS, Some(self.revision)).await?;
            for item in &page.items {
                let Some(name) = item.key.strip_prefix(prefix).and_then(key) else { continue };
                let value = decode(&item.key, &item.value)?;
                found.insert(name, Kept { value, modified: item.modified });
            }
            after = page.items.into_iter().last().map(|item| item.key);
            if !page.more || after.is_none() {
                return Ok(found);
            }
        }
    }
}

fn plain<K: FromStr>(key: &str) -> Option<K> {
    key.parse().ok()
}

pub(crate) fn on_node(key: &str) -> Option<OnNode> {
    let (node, service) = key.split_once('/')?;
    Some(OnNode { service: service.parse().ok()?, node: node.parse().ok()? })
}

fn values<K: Ord, T>(kept: BTreeMap<K, Kept<T>>) -> BTreeMap<K, T> {
    kept.into_iter().map(|(key, kept)| (key, kept.value)).collect()
}
