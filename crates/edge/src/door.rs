//! What a service asks of whoever comes to the edge's doors: TLS, and a certificate.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header, request::Parts};
use minato_model::code::Code;

use crate::{
    answer::Answer,
    headers::Known,
    inbound::{Entry, Inbound},
    request::Head,
    shared::Shared,
    snapshot::Service,
};

/// Where authorities look for the proof that a host is here (RFC 8555, 8.3).
const PROOF: &str = "/.well-known/acme-challenge/";
/// The port that `https` means.
const HTTPS: u16 = 443;

/// The proof that an authority asks for, whatever is routed.
pub(crate) fn proof<B>(shared: &Shared, inbound: &Inbound, request: &Request<B>) -> Option<Response<Bytes>> {
    let token = request.uri().path().strip_prefix(PROOF)?;
    let proof = shared.tls.proof(token).filter(|_| inbound.entry == Entry::Public { tls: false })?;
    let mut response = Response::new(Bytes::from(proof));
    let content = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, content);
    Some(response)
}

/// Lets a request in that came as its service wishes; what is known then of who asks.
pub(crate) fn pass<'a>(
    shared: &Shared,
    inbound: &'a Inbound,
    service: &Service,
    head: &Head,
    parts: &Parts,
) -> Result<Known<'a>, Answer> {
    let scheme = if inbound.tls.is_some() { "https" } else { "http" };
    let caller = inbound.tls.as_ref().and_then(|session| session.caller.as_ref()?.as_deref().ok());
    let mut known = Known { scheme, certificate: None, caller };
    let door = &service.route.tls;
    if !inbound.entry.is_public() {
        return Ok(known);
    }
    if inbound.tls.is_none() && door.redirect && !came_by_tls(inbound, parts) {
        return Err(redirect(shared, head, parts));
    }
    if door.client_certificate {
        known.certificate = Some(certificate(shared, inbound, head)?);
    }
    Ok(known)
}

/// Whether the client spoke TLS to a proxy that is believed.
fn came_by_tls(inbound: &Inbound, parts: &Parts) -> bool {
    let said = parts.headers.get("x-forwarded-proto").filter(|_| inbound.trusted);
    said.is_some_and(|said| said.as_bytes().eq_ignore_ascii_case(b"https"))
}

fn redirect(shared: &Shared, head: &Head, parts: &Parts) -> Answer {
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    // An absolute target may go without a path before its query.
    let root = if path.starts_with('/') { "" } else { "/" };
    let port = shared.https.filter(|port| *port != HTTPS).map(|port| format!(":{port}"));
    let location = format!("https://{}{}{root}{path}", head.host, port.unwrap_or_default());
    match HeaderValue::try_from(location) {
        Ok(location) if shared.https.is_some() => Answer::redirect(location),
        Ok(_) | Err(_) => Answer::new(Code::Denied, "this service answers over TLS only"),
    }
}

/// The certificate that a client has shown for the very host that it asks for.
fn certificate<'a>(shared: &Shared, inbound: &'a Inbound, head: &Head) -> Result<&'a str, Answer> {
    let denied = |detail| Answer::new(Code::Denied, detail);
    let Some(session) = &inbound.tls else {
        return Err(denied("this service answers clients with a certificate only, over TLS"));
    };
    let Some(roots) = shared.tls.roots(&head.host) else {
        return Err(denied("nobody's certificate can be checked for this host at the moment"));
    };
    // What was checked was checked for the host of the handshake, by what held then.
    let same_host = session.host.as_deref() == Some(&*head.host);
    if !same_host || !session.roots.as_ref().is_some_and(|own| Arc::ptr_eq(own, &roots)) {
        let detail = "the connection was made for another host: open one for this host";
        return Err(Answer::new(Code::Misdirected, detail));
    }
    let shown = session.certificate.as_deref();
    shown.ok_or_else(|| denied("this service answers clients with a certificate only, and none was shown"))
}
