//! The table in force, compiled for look-ups. One for the whole process, never changed, swapped
//! whole: a request loads it once, and again when it wakes or tries another instance.

mod paths;

use std::{collections::BTreeMap, sync::Arc};

use minato_model::{
    ids::{ReleaseKey, ServiceKey},
    route::{Entry, Table},
};

use self::paths::Paths;
use crate::release::Release;
pub(crate) use crate::split::Service;

#[expect(clippy::disallowed_types, reason = "looked up by every request, never iterated")]
type Hosts = std::collections::HashMap<Box<str>, Paths>;

/// The compiled table.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    hosts: Hosts,
    by_offset: BTreeMap<u16, Arc<Service>>,
    by_key: BTreeMap<ServiceKey, Arc<Service>>,
}

impl Snapshot {
    /// Compiles a table; `release` gives what is known of a release. What has not changed since the
    /// table `before` is taken over, and goes on with its turns.
    pub(crate) fn compile(
        table: &Table,
        before: &Self,
        mut release: impl FnMut(&ReleaseKey) -> Arc<Release>,
    ) -> Self {
        let mut snapshot = Self::default();
        let mut routes = Vec::new();
        for entry in &table.services {
            let service = before.unchanged(entry).unwrap_or_else(|| {
                let former = before.service(&entry.service).map(AsRef::as_ref);
                Arc::new(Service::new(entry.clone(), former, &mut release))
            });
            let hosts = entry.route.hosts.iter();
            let paths = |host| entry.route.paths.iter().map(move |path| (host, path.trim_end_matches('/')));
            routes.extend(
                hosts.flat_map(paths).map(|(host, path)| (host.as_str(), path, Arc::clone(&service))),
            );
            snapshot.by_offset.insert(entry.route.virtual_offset, Arc::clone(&service));
            snapshot.by_key.insert(entry.service.clone(), service);
        }
        // Sorted once, whatever the hosts have in common: neighbours are of one host, its paths in order.
        routes.sort_by_key(|(host, path, _)| (*host, *path));
        snapshot.hosts = routes
            .chunk_by(|(a, ..), (b, ..)| a == b)
            .filter_map(|routes| {
                let (host, ..) = routes.first()?;
                let paths = routes.iter().map(|(_, path, service)| (*path, Arc::clone(service)));
                Some((Box::from(*host), Paths::sorted(paths)))
            })
            .collect();
        snapshot
    }

    fn unchanged(&self, entry: &Entry) -> Option<Arc<Service>> {
        self.by_key.get(&entry.service).filter(|service| service.is(entry)).cloned()
    }

    /// The service of a public host, in lower case, and a path.
    pub(crate) fn public(&self, host: &str, path: &str) -> Option<&Arc<Service>> {
        self.hosts.get(host)?.find(path)
    }

    /// Whether any service has this public host, in lower case.
    pub(crate) fn has_host(&self, host: &str) -> bool {
        self.hosts.contains_key(host)
    }

    /// The service of a virtual address.
    pub(crate) fn at(&self, offset: u16) -> Option<&Arc<Service>> {
        self.by_offset.get(&offset)
    }

    pub(crate) fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.by_key.get(key)
    }

    /// Whether it has the very same service.
    pub(crate) fn holds(&self, service: &Arc<Service>) -> bool {
        self.by_key.get(&service.key).is_some_and(|own| Arc::ptr_eq(own, service))
    }

    pub(crate) fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.by_key.values()
    }
}

#[cfg(test)]
mod tests;
