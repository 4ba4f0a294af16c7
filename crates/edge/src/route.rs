//! Which service a request is for, and whether it may have it.

use http::HeaderMap;
use minato_model::{code::Code, ids::ServiceKey};
use std::sync::Arc;

use crate::{
    answer::Answer,
    inbound::{Entry, Inbound},
    path::{self, Path},
    request::Head,
    snapshot::{Service, Snapshot},
};

/// A request that has passed more edges than this goes round in circles.
const HOPS_MAX: u8 = 16;

/// The service that the request is for.
pub(crate) fn find(
    snapshot: &Snapshot,
    inbound: &Inbound,
    head: &Head,
    path: &str,
) -> Result<Arc<Service>, Answer> {
    let path = path::read(path)?;
    let service = match inbound.entry {
        Entry::Public { .. } => public(snapshot, head, &path)?,
        Entry::Virtual { offset, .. } => {
            let service = snapshot.at(offset).ok_or_else(no_route)?;
            if let Some(Err(why)) = inbound.tls.as_ref().and_then(|session| session.caller.as_ref()) {
                return Err(Answer::new(Code::Denied, why.as_str()));
            }
            may_call(snapshot, inbound.caller.as_ref(), service)?;
            Some(service)
        }
        // It was of plain TCP when the connection came.
        Entry::Outer { .. } => None,
    };
    service.cloned().ok_or_else(no_route)
}

/// The service of a host and path, if there is no doubt which one is meant.
fn public<'a>(
    snapshot: &'a Snapshot,
    head: &Head,
    path: &Path<'_>,
) -> Result<Option<&'a Arc<Service>>, Answer> {
    match path {
        Path::Plain(path) => Ok(snapshot.public(&head.host, path)),
        Path::Read { decoded, merged } => {
            let service = snapshot.public(&head.host, decoded);
            let other = snapshot.public(&head.host, merged);
            if service.map(Arc::as_ptr) == other.map(Arc::as_ptr) {
                return Ok(service);
            }
            let detail = "the path can be read as one of another service: write its slashes once, and as `/`";
            Err(Answer::new(Code::BadRequest, detail))
        }
    }
}

pub(crate) fn no_route() -> Answer {
    Answer::new(Code::NoRoute, "no service has this host and path")
}

/// Whether the instance that calls may do so: its service names the other one, or names none and
/// both are of one app.
pub(crate) fn may_call(
    snapshot: &Snapshot,
    caller: Option<&ServiceKey>,
    service: &Service,
) -> Result<(), Answer> {
    let denied = |detail: String| Answer::new(Code::Denied, detail);
    let Some(caller) = caller else {
        return Err(denied("this address answers instances of the cluster only".to_owned()));
    };
    let allowed = match snapshot.service(caller).map(|caller| &caller.route.calls) {
        Some(Some(calls)) => calls.contains(&service.key),
        // Also for a caller that is being taken away: its last requests are as good as the others.
        Some(None) | None => caller.app == service.key.app,
    };
    if allowed {
        return Ok(());
    }
    let (app, name) = (&service.key.app, &service.key.service);
    let named = if *app == caller.app { name.to_string() } else { format!("{app}.{name}") };
    Err(denied(format!(
        "{caller} may not call {}: add \"{named}\" to `services.{}.calls` in the manifest of app {}",
        service.key, caller.service, caller.app
    )))
}

/// How many edges the request will have passed with this one. Only an instance is believed.
pub(crate) fn hops(inbound: &Inbound, headers: &HeaderMap) -> Result<u8, Answer> {
    let before = match inbound.entry {
        Entry::Public { .. } | Entry::Outer { .. } => 0,
        Entry::Virtual { .. } => {
            let hops = headers.get("minato-hops").and_then(|value| value.to_str().ok());
            hops.and_then(|hops| hops.parse::<u8>().ok()).unwrap_or(0)
        }
    };
    if before >= HOPS_MAX {
        return Err(Answer::new(Code::Loop, format!("the request has passed {HOPS_MAX} edges")));
    }
    Ok(before + 1)
}
