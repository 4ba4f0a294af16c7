//! What each host presents at the door, and for how long still.

use std::time::Duration;

use minato_model::{
    ids::ServiceKey,
    manifest::Service,
    time::Moment,
    tls::{Issuance, Leaf, Source},
};
use serde::Serialize;

use crate::{core::Core, world::World};

const DAY: Duration = Duration::from_secs(86_400);
/// From when on it is told that a certificate from files expires, or from a third of its life left.
const SOON: Duration = Duration::from_secs(21 * 86_400);
/// From when on it is told once more, or from a ninth of its life left.
const VERY_SOON: Duration = Duration::from_secs(7 * 86_400);

/// A service's doors to the outside.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct DoorStatus {
    pub(crate) hosts: Vec<HostStatus>,
    pub(crate) redirect: bool,
    pub(crate) hsts_seconds: Option<u64>,
    /// Whether clients have to have a certificate.
    pub(crate) client_certificate: bool,
}

/// What a host presents.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct HostStatus {
    pub(crate) host: String,
    pub(crate) certificate: Source,
    /// SHA-256 over it; absent for one that an edge makes itself.
    pub(crate) sha256: Option<String>,
    pub(crate) valid_until: Option<Moment>,
    /// Why a public authority gave none the last time, and when it is asked again.
    pub(crate) waits: Option<String>,
}

/// How near a certificate's end is, from far to past.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    Far,
    Soon,
    VerySoon,
    Past,
}

impl End {
    pub(crate) fn of(leaf: &Leaf, now: Moment) -> Self {
        let life = leaf.not_after.since(leaf.not_before);
        match leaf.not_after.since(now) {
            left if left.is_zero() => Self::Past,
            left if left <= VERY_SOON.min(life / 9) => Self::VerySoon,
            left if left <= SOON.min(life / 3) => Self::Soon,
            _ => Self::Far,
        }
    }
}

/// A service's doors; `None`: it has no name outside.
pub(crate) fn status(core: &Core, world: &World, service: &Service) -> Option<DoorStatus> {
    if service.hosts.is_empty() {
        return None;
    }
    let hosts = service.hosts.iter().map(|host| {
        let issuance = core.issuance.as_ref().and_then(|issuance| issuance(host));
        host_status(host, world.of_host(host), issuance)
    });
    Some(DoorStatus {
        hosts: hosts.collect(),
        redirect: service.tls.redirect,
        hsts_seconds: service.tls.hsts.map(|time| time.as_secs()),
        client_certificate: service.tls.client_ca.is_some(),
    })
}

fn host_status(host: &str, files: Option<&Leaf>, issuance: Option<Issuance>) -> HostStatus {
    let Issuance { leaf: issued, failure, next } =
        issuance.unwrap_or(Issuance { leaf: None, failure: None, next: None });
    let (certificate, leaf) = match (files, issued.as_ref()) {
        (Some(files), _) => (Source::Files, Some(files)),
        (None, Some(issued)) => (Source::Acme, Some(issued)),
        (None, None) => (Source::Cluster, None),
    };
    let (sha256, valid_until) = leaf.map(|leaf| (leaf.sha256.clone(), leaf.not_after)).unzip();
    let next = next.map_or_else(String::new, |next| format!("; it isn't asked again before {next}"));
    let waits = failure.filter(|_| certificate != Source::Files).map(|why| format!("{why}{next}"));
    HostStatus { host: host.to_owned(), certificate, sha256, valid_until, waits }
}

/// The certificate from a service's own files.
pub(crate) fn leaf<'a>(world: &'a World, key: &ServiceKey) -> Option<&'a Leaf> {
    world.presented(key)?.certificate.as_ref()
}

/// That a certificate from files expires, in a sentence; `None`: not soon.
pub(crate) fn warning(leaf: &Leaf, now: Moment) -> Option<String> {
    ending("certificate from files", "apply a new one", leaf, now)
}

fn ending(what: &str, cure: &str, leaf: &Leaf, now: Moment) -> Option<String> {
    let until = leaf.not_after;
    match End::of(leaf, now) {
        End::Far => None,
        End::Past => Some(format!("its {what} expired at {until}: {cure}")),
        End::Soon | End::VerySoon => {
            let days = until.since(now).as_secs() / DAY.as_secs();
            Some(format!("its {what} expires in {days} days, at {until}: {cure}"))
        }
    }
}

/// How near the end of a service's certificates is, and what there is to say of it. One by a public
/// authority is renewed by itself: it is told of when that should have been long ago.
pub(crate) fn end(core: &Core, world: &World, key: &ServiceKey, service: &Service) -> Option<(End, String)> {
    let now = core.now();
    if let Some(leaf) = leaf(world, key) {
        return Some((End::of(leaf, now), warning(leaf, now)?));
    }
    let issuance = core.issuance.as_ref()?;
    let issued = service.hosts.iter().filter_map(|host| Some((host, issuance(host)?.leaf?)));
    let ends = issued.filter_map(|(host, leaf)| {
        let end = End::of(&leaf, now);
        let what = format!("certificate by ACME for {host}");
        let cure = "its lines here say why there is no new one";
        (end >= End::VerySoon).then_some((end, ending(&what, cure, &leaf, now)?))
    });
    ends.max_by_key(|(end, _)| *end)
}

/// The doors for people.
pub(crate) fn lines(status: &DoorStatus) -> Vec<String> {
    let host = |host: &HostStatus| {
        let source = match host.certificate {
            Source::Files => "a certificate from files",
            Source::Acme => "a certificate by ACME",
            Source::Cluster => "a certificate of the cluster",
        };
        let hash = host.sha256.as_ref().and_then(|hash| hash.get(..16));
        let hash = hash.map_or_else(String::new, |hash| format!(" ({hash})"));
        let until = host.valid_until.map_or_else(String::new, |until| format!(", valid until {until}"));
        let waits = host.waits.as_ref();
        let waits = waits.map_or_else(String::new, |why| format!("; no new one by ACME: {why}"));
        format!("  https://{}: {source}{hash}{until}{waits}", host.host)
    };
    let mut lines: Vec<String> = status.hosts.iter().map(host).collect();
    if status.redirect {
        lines.push("  requests without TLS are sent to HTTPS".to_owned());
    }
    if status.client_certificate {
        lines.push("  clients need a certificate by the service's own roots".to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_three_times() {
        let leaf = Leaf {
            sha256: String::new(),
            names: Vec::new(),
            not_before: Moment(0),
            not_after: Moment(0).plus(90 * DAY),
        };
        let at = |days: u32| (End::of(&leaf, Moment(0).plus(days * DAY)), days);
        assert_eq!([0, 68].map(at), [(End::Far, 0), (End::Far, 68)]);
        assert_eq!([69, 82].map(at), [(End::Soon, 69), (End::Soon, 82)]);
        assert_eq!([83, 89].map(at), [(End::VerySoon, 83), (End::VerySoon, 89)]);
        assert_eq!([90, 900].map(at), [(End::Past, 90), (End::Past, 900)]);
        let said = warning(&leaf, Moment(0).plus(85 * DAY)).unwrap();
        assert!(said.contains("expires in 5 days, at 1970-04-01"), "{said}");
        assert_eq!(warning(&leaf, Moment(0)), None);
    }

    #[test]
    fn files_come_before_an_authority_and_both_before_the_cluster() {
        let leaf = |hash: &str| Leaf {
            sha256: hash.to_owned(),
            names: Vec::new(),
            not_before: Moment(0),
            not_after: Moment(1_000),
        };
        let (files, issued) = (leaf("f"), leaf("i"));
        let failed = |leaf: Option<&Leaf>| Issuance {
            leaf: leaf.cloned(),
            failure: Some("no".to_owned()),
            next: Some(Moment(2_000)),
        };
        let host = |files, issuance| {
            let host = host_status("a.b", files, issuance);
            (host.certificate, host.sha256, host.waits)
        };
        let waits = Some("no; it isn't asked again before 1970-01-01T00:00:02.000Z".to_owned());
        assert_eq!(
            host(Some(&files), Some(failed(Some(&issued)))),
            (Source::Files, Some("f".to_owned()), None)
        );
        assert_eq!(
            host(None, Some(failed(Some(&issued)))),
            (Source::Acme, Some("i".to_owned()), waits.clone())
        );
        assert_eq!(host(None, Some(failed(None))), (Source::Cluster, None, waits));
        assert_eq!(host(None, None), (Source::Cluster, None, None));
    }
}
