//! One request and the head of its answer, in a stream of a connection to an instance.

use std::{error::Error as _, rc::Rc, time::Duration};

use h2::Reason;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version, header};
use hyper::client::conn::TrySendError;
use tokio::time::Instant;

use super::{Share, outgoing::Outgoing};
use crate::{
    headers::{self, Asked, Fields as _, Length},
    upstream::{
        exchange::{Begun, Failure, Source},
        upload::Upload,
    },
};

/// How long an instance has to say what it takes.
const SETTINGS: Duration = Duration::from_secs(1);

/// A request as it is sent.
pub(crate) struct Message<'a> {
    pub(crate) asked: Asked<'a>,
    pub(crate) body: Option<(&'a Rc<Upload>, Length)>,
    /// Until the answer's head, counted from here or from the body's last part.
    pub(crate) deadline: Instant,
}

impl Message<'_> {
    /// Whether a WebSocket is asked for; HTTP/2 knows no other upgrade, and a client does without.
    fn connects(&self) -> bool {
        let upgrade = self.asked.head.upgrade.as_ref().filter(|_| self.body.is_none());
        upgrade.is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"))
    }

    fn request(&self, scheme: &str) -> Result<Request<Outgoing>, http::Error> {
        let Self { asked: Asked { parts, head, added }, body, .. } = *self;
        let connects = self.connects();
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let uri = Uri::builder().scheme(scheme).authority(head.authority.as_str()).path_and_query(path);
        let mut request = Request::new(Outgoing::new(body));
        *request.method_mut() = if connects { Method::CONNECT } else { parts.method.clone() };
        *request.uri_mut() = uri.build()?;
        *request.version_mut() = Version::HTTP_2;
        let mut fields = HeaderMap::with_capacity(parts.headers.len() + 8);
        if headers::write_fields(&mut fields, parts, head, added) {
            fields.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        if let Some((_, Length::Exact(bytes))) = body {
            fields.number("content-length", bytes);
        }
        if connects {
            // It is proved that a WebSocket was meant by there being no other way to ask for one.
            fields.remove("sec-websocket-key");
            request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
        }
        *request.headers_mut() = fields;
        Ok(request)
    }
}

/// Sends a request and waits for the head of its answer.
pub(crate) async fn exchange(share: Share, message: &Message<'_>) -> Result<Begun, Failure> {
    let reused = share.is_reused();
    let connects = message.connects();
    if connects && !share.takes_connect(SETTINGS).await {
        return Err(Failure::NoUpgrade);
    }
    // What was a head before is one still.
    let request = message.request(share.scheme()).map_err(|_| Failure::NoAnswer)?;
    let mut sending = Box::pin(share.0.sender.clone().try_send_request(request));
    let budget = message.deadline.saturating_duration_since(Instant::now());
    let mut deadline = message.deadline;
    let answered = loop {
        tokio::select! {
            biased;
            answered = &mut sending => break answered,
            () = tokio::time::sleep_until(deadline) => {
                // While the body moves, or is the client's to move, there is no reason to expect an answer.
                let moved = message.body.map(|(upload, _)| {
                    if upload.is_starved() { Instant::now() + budget } else { upload.progress() + budget }
                });
                match moved.filter(|moved| *moved > Instant::now()) {
                    Some(moved) => deadline = moved,
                    None => return Err(Failure::Late),
                }
            }
        }
    };
    let upload = message.body.map(|(upload, _)| upload);
    let mut response = match answered {
        Ok(response) => response,
        Err(error) => return Err(failure(&error, upload, reused)),
    };
    let upgraded = connects && response.status() == StatusCode::OK;
    let on_upgrade = upgraded.then(|| hyper::upgrade::on(&mut response));
    upload.inspect(|upload| upload.be_patient());
    let (parts, body) = response.into_parts();
    let source = Source::Stream { body, share, upload: upload.cloned(), on_upgrade };
    Ok(Begun { status: parts.status, headers: parts.headers, source })
}

/// What it means that no answer came.
fn failure(error: &TrySendError<Request<Outgoing>>, upload: Option<&Rc<Upload>>, reused: bool) -> Failure {
    if let Some(broken) = upload.and_then(|upload| upload.broken()) {
        return Failure::Client(broken);
    }
    let cause = error.error().source().and_then(|source| source.downcast_ref::<h2::Error>());
    // What the instance says that it hasn't looked at is as if it had never been sent (RFC 9113, 8.7).
    let unseen = error.message().is_some()
        || cause.is_some_and(|cause| {
            cause.is_remote() && (cause.is_go_away() || cause.reason() == Some(Reason::REFUSED_STREAM))
        });
    if !unseen && cause.is_some_and(h2::Error::is_library) {
        return Failure::NoAnswer;
    }
    // A stream that was reset says nothing about a connection that had been left alone.
    let reused = reused && (unseen || !cause.is_some_and(h2::Error::is_reset));
    Failure::Broke { reused, sent: !unseen }
}
