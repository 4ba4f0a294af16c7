//! What each node is told of a service: the roll-out's shares, split over the nodes.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use minato_model::{
    ids::{Generation, NodeName, ReleaseNumber, ServiceKey},
    manifest::Service,
    release::Release,
    route::Route,
    slice::{Share, Slice},
    tls::{Door, Presented},
};

use crate::{
    record::ServiceRecord,
    rollout::{Part, Rollout},
};

/// All that a service's slices follow from.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The service.
    pub key: &'a ServiceKey,
    /// It as declared.
    pub service: &'a Service,
    /// What it keeps for life.
    pub record: &'a ServiceRecord,
    /// Where its release stands.
    pub rollout: &'a Rollout,
    /// Its releases, at least those of the roll-out.
    pub releases: &'a BTreeMap<ReleaseNumber, Release>,
    /// The files for its doors, if it named any.
    pub presented: Option<&'a Presented>,
}

/// The slice of each node, all of generation 0: whoever writes one gives it the next generation.
///
/// Bounds are split evenly, what is left over to the first nodes by name. Weights are the same
/// everywhere. A release that isn't known is left out.
#[must_use]
pub fn slices(wanted: &Wanted<'_>, nodes: &[NodeName]) -> BTreeMap<NodeName, Slice> {
    let parts = wanted.rollout.parts(&wanted.service.scale);
    let count = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
    let numbered = nodes.iter().zip(0u32..);
    numbered.map(|(node, index)| (node.clone(), slice(wanted, &parts, index, count))).collect()
}

fn slice(wanted: &Wanted<'_>, parts: &[Part], index: u32, count: u32) -> Slice {
    let service = wanted.service;
    let share = |part: &Part| {
        let release = wanted.releases.get(&part.number)?.clone();
        let (min, max) = (split(part.min, index, count), split(part.max, index, count));
        Some(Share { release, weight: part.weight, min, max })
    };
    Slice {
        service: wanted.key.clone(),
        generation: Generation(0),
        route: route(wanted),
        releases: parts.iter().filter_map(share).collect(),
        idle: service.scale.idle,
        drain: service.drain,
        drain_streams: service.drain_streams,
        recycle: service.recycle.clone(),
        health: service.health.clone(),
    }
}

/// A node's part of a bound.
fn split(bound: u32, index: u32, count: u32) -> u32 {
    let count = count.max(1);
    bound / count + u32::from(index < bound % count)
}

fn route(wanted: &Wanted<'_>) -> Route {
    let service = wanted.service;
    // The release that answers now says on which port; a first one is the target.
    let number = wanted.rollout.serving.unwrap_or(wanted.rollout.target);
    let port = wanted.releases.get(&number).map(|release| release.spec.port).or(service.port);
    Route {
        hosts: service.hosts.clone(),
        paths: service.paths.clone(),
        virtual_offset: wanted.record.virtual_offset,
        port: port.unwrap_or(80),
        protocol: service.protocol,
        calls: service.calls.clone(),
        timeout: service.timeout,
        body_max: service.body_max,
        concurrency: service.scale.concurrency,
        concurrency_max: service.scale.concurrency_max,
        listen: service.listen,
        traffic: service.traffic.clone(),
        tls: Door {
            redirect: service.tls.redirect,
            hsts: service.tls.hsts,
            client_certificate: service.tls.client_ca.is_some(),
            files: wanted.presented.map(|presented| presented.id.clone()),
            certificate: wanted.presented.is_some_and(|presented| presented.certificate.is_some()),
        },
    }
}
