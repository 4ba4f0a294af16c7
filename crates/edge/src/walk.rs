//! A request's walk: `request → route → admit → hold → balance → upstream → relay → observe`.

use std::{rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, request::Parts};
use http_body::Body as _;
use hyper::{body::Incoming, upgrade::OnUpgrade};
use minato_model::{code::Code, node::Phases};

use crate::{
    admit,
    answer::Answer,
    attempt::{self, Attempt, Task},
    end::End,
    headers::{self, Added, Length},
    inbound::Inbound,
    key::Client,
    relay::{Answered, Relayed},
    release::Release,
    request, route,
    serve::Local,
    snapshot::Service,
    trace::Trace,
    upgrade::Tunnel,
    upstream::upload::Upload,
};

/// An answer of the edge's own, and the release that it counts for.
pub(crate) struct Refused {
    pub(crate) answer: Answer,
    pub(crate) release: Option<Arc<Release>>,
}

impl From<Answer> for Refused {
    fn from(answer: Answer) -> Self {
        Self { answer, release: None }
    }
}

/// Answers a request, one way or another.
pub(crate) async fn answer(
    local: &Rc<Local>,
    inbound: &Rc<Inbound>,
    request: Request<Incoming>,
) -> Response<Answered> {
    let began = local.shared.clock.now();
    inbound.phase.begin();
    let mut end = End::begin(local, inbound, began, &request);
    // Whether the client may still be sending when it is answered.
    let has_body = !request.body().is_end_stream();
    let mut response = match pass_on(local, inbound, request, &mut end).await {
        Ok(passed) => respond(local, inbound, passed, end),
        Err(Refused { answer, release }) => {
            end.refuse(&answer, release);
            if has_body {
                inbound.phase.set_linger();
            }
            let mut response = answer.into_response(|body| Answered::whole(body, end));
            if has_body {
                // What is left of the body would be read as the next request's head.
                response.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
    };
    if local.retired_at().is_some() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        // The client finds the successor with its next request.
        response.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// An instance's answer has begun.
struct Passed {
    attempt: Attempt,
    on_upgrade: Option<OnUpgrade>,
    request_id: Rc<str>,
}

async fn pass_on(
    local: &Rc<Local>,
    inbound: &Rc<Inbound>,
    mut request: Request<Incoming>,
    end: &mut End,
) -> Result<Passed, Refused> {
    let asks_upgrade = request.headers().contains_key(http::header::UPGRADE);
    let on_upgrade = asks_upgrade.then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let head = request::check(&parts, &local.shared.limits)?;
    let service = route::find(&local.shared.snapshot.load(), inbound, &head, parts.uri.path())?;
    end.found(&service.key);
    let hops = route::hops(inbound, &parts.headers)?;
    let client = Client::of(inbound, &parts.headers, &local.shared.trusted);
    admit::admit(&service, &client, local.shared.clock)?;
    let (body, length) = upload(local, &service, &parts, body)?;
    let request_id: Rc<str> =
        headers::request_id(&parts.headers).map_or_else(|| local.next_id().into(), Rc::from);
    let trace = Trace::of(&parts.headers, || local.draw());
    if let Some(line) = end.line() {
        line.set_request_id(&request_id);
        line.trace_id = Some(trace.id());
    }
    let peer = inbound.peer_text.as_str();
    let added = Added { peer, trusted: inbound.trusted, request_id: &request_id, trace: &trace, hops };
    let mut wire = local.scratch.take();
    wire.clear();
    headers::write_request(&mut wire, &parts, &head, &added, length);
    let task = Task {
        local,
        inbound,
        method: &parts.method,
        client,
        head: &wire,
        body: body.as_ref().map(|body| (body, length)),
        idempotent: head.idempotent,
        upgrade: head.upgrade.is_some(),
        end,
    };
    let attempted = attempt::run(task, service).await;
    local.scratch.replace(wire);
    Ok(Passed { attempt: attempted?, on_upgrade, request_id })
}

/// The request's body, if it has one of an acceptable size.
fn upload(
    local: &Local,
    service: &Service,
    parts: &Parts,
    body: Incoming,
) -> Result<(Option<Rc<Upload>>, Length), Answer> {
    let exact = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() };
    let most = service.route.body_max;
    if exact.is_some_and(|length| length > most) {
        return Err(too_large(most));
    }
    let length = headers::request_length(&parts.method, &parts.headers, exact);
    let has_body = exact != Some(0);
    Ok((has_body.then(|| Upload::new(body, most, local.shared.limits.body_idle)), length))
}

pub(crate) fn too_large(most: u64) -> Answer {
    Answer::new(Code::BodyTooLarge, format!("the request's body is larger than {most} bytes"))
}

/// Makes the response of an answer that has begun.
fn respond(local: &Rc<Local>, inbound: &Rc<Inbound>, passed: Passed, mut end: End) -> Response<Answered> {
    let Passed { attempt: Attempt { begun, mut lease, waited }, on_upgrade, request_id } = passed;
    let status = begun.head.status;
    let mut headers = begun.head.headers;
    let switching = status == StatusCode::SWITCHING_PROTOCOLS;
    headers::clean_response(&mut headers, switching);
    let stream = switching || headers::is_event_stream(&headers);
    if stream {
        lease.begin_stream();
    }
    end.cold(waited.map(|(waited, _)| waited));
    if let Some((waited, phases)) = waited
        && let Ok(value) =
            HeaderValue::from_str(&server_timing(waited, phases, lease.target().endpoint.pooled))
    {
        headers.append("server-timing", value);
    }
    if let (false, Ok(id)) =
        (headers.contains_key(&headers::X_REQUEST_ID), HeaderValue::from_str(&request_id))
    {
        headers.insert(headers::X_REQUEST_ID.clone(), id);
    }
    end.status = status.as_u16();
    let body = if let (true, Some(client)) = (switching, on_upgrade) {
        let websocket = headers.get(http::header::UPGRADE);
        let tunnel = Tunnel {
            local: Rc::clone(local),
            inbound: Rc::clone(inbound),
            instance: begun.connection,
            lease,
            line: end.take_line(),
            websocket: websocket.is_some_and(|name| name.as_bytes().eq_ignore_ascii_case(b"websocket")),
        };
        drop(tokio::task::spawn_local(tunnel.run(client)));
        Answered::whole(Bytes::new(), end)
    } else {
        let relayed = Relayed::new(
            Rc::clone(local),
            begun.connection,
            lease,
            begun.head.framing,
            begun.head.keep,
            begun.sending,
            stream,
        );
        Answered::relayed(relayed, end)
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// The phases of the start that an answer waited for, in milliseconds; `start` is the whole. And whether its
/// sandbox came from the pool.
fn server_timing(waited: Duration, phases: Phases, pooled: Option<bool>) -> String {
    let whole = (waited.as_secs_f64() * 1000.0).max(phases.listening.unwrap_or(0.0));
    let each = [
        ("start", Some(whole)),
        ("taken", phases.taken),
        ("mounted", phases.mounted),
        ("executed", phases.executed),
        ("listening", phases.listening),
    ];
    let each = each.into_iter().filter_map(|(name, at)| Some(format!("{name};dur={:.2}", at?)));
    let sandbox = pooled.map(|pooled| if pooled { "pooled" } else { "cold" });
    let sandbox = sandbox.map(|how| format!("sandbox;desc=\"{how}\""));
    each.chain(sandbox).collect::<Vec<_>>().join(", ")
}
