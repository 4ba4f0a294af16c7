//! A request's walk: `request → route → admit → hold → balance → upstream → relay → observe`.

use std::{cell::Cell, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts};
use http_body::Body as _;
use hyper::{body::Incoming, upgrade::OnUpgrade};
use minato_model::{code::Code, node::Phases};

use crate::{
    admit,
    answer::Answer,
    attempt::{self, Attempt, Task},
    door,
    end::End,
    grpc,
    headers::{self, Added, Asked, Length},
    inbound::Inbound,
    key::Client,
    relay::{Answered, Relayed, stream::Streamed},
    release::Release,
    request::{self, Head},
    route,
    serve::Local,
    snapshot::Service,
    trace::Trace,
    upgrade::Tunnel,
    upstream::{exchange::Source, upload::Upload},
    websocket,
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
    // A connection of HTTP/2 ends otherwise, and what is left of a body is no head there.
    let http2 = request.version() == Version::HTTP_2;
    let grpc = if has_body { grpc::content_type(request.headers()).cloned() } else { None };
    if let Some(proof) = door::proof(&local.shared, inbound, &request) {
        end.status = StatusCode::OK.as_u16();
        return proof.map(|body| Answered::whole(body, end));
    }
    let mut hsts = None;
    let mut response = match pass_on(local, inbound, request, &mut end, &mut hsts).await {
        Ok(passed) => respond(local, inbound, passed, end),
        Err(Refused { answer, release }) => {
            end.refuse(&answer, release);
            if has_body && !http2 {
                inbound.phase.set_linger();
            }
            let body = |body| Answered::whole(body, end);
            let mut response = match grpc {
                Some(content) => answer.into_grpc(content, body),
                None => answer.into_response(body),
            };
            if has_body && !http2 {
                // What is left of the body would be read as the next request's head.
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
    };
    if let Some(hsts) = hsts {
        response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, hsts);
    }
    if http2 {
        return response.map(|body| body.watched(&inbound.bodies));
    }
    if local.retired_at().is_some() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        // The client finds the successor with its next request.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// An instance's answer has begun.
struct Passed {
    attempt: Attempt,
    /// The client's side, if another protocol follows.
    on_upgrade: Option<OnUpgrade>,
    request_id: HeaderValue,
}

async fn pass_on(
    local: &Rc<Local>,
    inbound: &Rc<Inbound>,
    mut request: Request<Incoming>,
    end: &mut End,
    hsts: &mut Option<HeaderValue>,
) -> Result<Passed, Refused> {
    let asks_upgrade = request.headers().contains_key(header::UPGRADE) || request.method() == Method::CONNECT;
    let on_upgrade = asks_upgrade.then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    if parts.version == Version::HTTP_2 {
        request::join_cookies(&mut parts.headers);
    }
    let mut head = request::check(&parts, &local.shared.limits)?;
    if head.connect {
        parts.headers.remove("sec-websocket-key");
        head.key = Some(websocket::key(local));
    }
    let service = route::find(&local.shared.snapshot.load(), inbound, &head, parts.uri.path())?;
    end.found(&service.key);
    if inbound.tls.is_some() && inbound.entry.is_public() {
        hsts.clone_from(&service.hsts);
    }
    let known = door::pass(&local.shared, inbound, &service, &head, &parts)?;
    let hops = route::hops(inbound, &parts.headers)?;
    let client = Client::of(inbound, &parts.headers, &local.shared.trusted);
    admit::admit(&service, &client, local.shared.clock)?;
    let grpc = if body.is_end_stream() { None } else { grpc::content_type(&parts.headers) };
    if grpc.is_some() && parts.version < Version::HTTP_2 && !headers::takes_trailers(&parts.headers) {
        return Err(Answer::new(Code::BadRequest, "a call of gRPC needs HTTP/2, or `TE: trailers`").into());
    }
    // A call's messages may be far between.
    let limits = &local.shared.limits;
    let pause = if grpc.is_some() { limits.stream_idle } else { limits.body_idle };
    let (body, length) = upload(pause, &service, &parts, body)?;
    let request_id = headers::request_id(&parts.headers).cloned().unwrap_or_else(|| local.next_id());
    let id_text = request_id.to_str().unwrap_or_default();
    let trace = Trace::of(&parts.headers, || local.draw());
    if let Some(line) = end.line() {
        line.set_request_id(id_text);
        line.trace_id = Some(trace.id());
    }
    let peer = inbound.peer_text.as_str();
    let added = Added {
        peer,
        known,
        trusted: inbound.trusted,
        request_id: id_text,
        trace: &trace,
        hops,
        tried: Cell::new(0),
    };
    let asked = Asked { parts: &parts, head: &head, added: &added };
    let mut wire = local.scratch.take();
    wire.clear();
    headers::write_request(&mut wire, &parts, &head, &added, length);
    let task = Task {
        local,
        inbound,
        method: &parts.method,
        client,
        head: &wire,
        asked,
        body: body.as_ref().map(|body| (body, length)),
        idempotent: head.idempotent,
        upgrade: head.upgrade.is_some(),
        is_repeated: headers::is_repeated(inbound, &parts.headers),
        patience: grpc.and_then(|_| grpc::timeout(&parts.headers)),
        end,
    };
    let attempted = attempt::run(task, service).await;
    local.scratch.replace(wire);
    let mut attempt = attempted?;
    let on_upgrade = if switch(&mut attempt, &parts, &head)? { on_upgrade } else { None };
    Ok(Passed { attempt, on_upgrade, request_id })
}

/// The request's body, if it has one of an acceptable size.
fn upload(
    pause_max: Duration,
    service: &Service,
    parts: &Parts,
    body: Incoming,
) -> Result<(Option<Rc<Upload>>, Length), Answer> {
    let exact = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() };
    let most = service.route.body_max;
    if exact.is_some_and(|length| length > most) {
        return Err(too_large(most));
    }
    if exact.is_none() && !headers::is_chunked_only(&parts.headers) {
        // It would be framed anew, and what codes it lost on the way.
        return Err(Answer::new(
            Code::BadRequest,
            "the only transfer coding of a request's body is `chunked`",
        ));
    }
    let length = headers::request_length(&parts.method, &parts.headers, exact);
    let has_body = exact != Some(0);
    Ok((has_body.then(|| Upload::new(body, most, pause_max)), length))
}

pub(crate) fn too_large(most: u64) -> Answer {
    Answer::new(Code::BodyTooLarge, format!("the request's body is larger than {most} bytes"))
}

/// Says an instance's agreement to a WebSocket as the client's protocol has it, and refuses what is none.
/// Whether another protocol follows.
fn switch(attempt: &mut Attempt, parts: &Parts, head: &Head) -> Result<bool, Refused> {
    let Attempt { begun, lease, .. } = attempt;
    let refuse = |detail| {
        let release = Some(Arc::clone(lease.release()));
        Err(Refused { answer: Answer::new(Code::Upstream, detail), release })
    };
    let by_http2 = matches!(begun.source, Source::Stream { .. });
    if by_http2 && parts.version < Version::HTTP_2 && grpc::content_type(&begun.headers).is_some() {
        // HTTP/1 names trailers ahead; a call's are known.
        begun.headers.entry(header::TRAILER).or_insert(grpc::TRAILERS);
    }
    let switches = begun.switches();
    match &head.key {
        // Over HTTP/2 a success is the agreement, and nothing else may look like one.
        Some(_) if !switches && begun.status.is_success() => {
            return refuse("the instance takes no WebSocket here");
        }
        Some(key) if switches && !by_http2 && !websocket::is_accepted(&begun.headers, key) => {
            return refuse("the instance took up no WebSocket that was asked for");
        }
        Some(_) if switches => {
            begun.status = StatusCode::OK;
            for name in ["connection", "upgrade", "sec-websocket-accept"] {
                begun.headers.remove(name);
            }
        }
        None if switches && by_http2 => {
            begun.status = StatusCode::SWITCHING_PROTOCOLS;
            begun.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            let key = parts.headers.get("sec-websocket-key").map(HeaderValue::as_bytes).unwrap_or_default();
            if let Ok(accept) = HeaderValue::from_str(&websocket::accept(key)) {
                begun.headers.insert("sec-websocket-accept", accept);
            }
        }
        Some(_) | None => {}
    }
    Ok(switches)
}

/// Makes the response of an answer that has begun.
fn respond(local: &Rc<Local>, inbound: &Rc<Inbound>, passed: Passed, mut end: End) -> Response<Answered> {
    let Passed { attempt: Attempt { begun, mut lease, waited }, on_upgrade, request_id } = passed;
    let (status, switching) = (begun.status, on_upgrade.is_some());
    let mut headers = begun.headers;
    headers::clean_response(&mut headers, status == StatusCode::SWITCHING_PROTOCOLS);
    let grpc = matches!(begun.source, Source::Stream { .. }) && grpc::content_type(&headers).is_some();
    let stream = switching || grpc || headers::is_event_stream(&headers);
    if stream {
        lease.begin_stream();
    }
    if grpc {
        end.fields(&headers);
    }
    end.cold(waited.map(|(waited, _)| waited));
    if let Some((waited, phases)) = waited
        && let Ok(value) =
            HeaderValue::from_str(&server_timing(waited, phases, lease.target().endpoint.pooled))
    {
        headers.append("server-timing", value);
    }
    if let header::Entry::Vacant(place) = headers.entry(&headers::X_REQUEST_ID) {
        place.insert(request_id);
    }
    end.status = status.as_u16();
    let websocket = headers.get(header::UPGRADE);
    let websocket = websocket.is_none_or(|name| name.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let local = Rc::clone(local);
    let body = match (begun.source, on_upgrade) {
        (source, Some(client)) => {
            let line = end.take_line();
            let tunnel =
                Tunnel { local, inbound: Rc::clone(inbound), instance: source, lease, line, websocket };
            drop(tokio::task::spawn_local(tunnel.run(client)));
            Answered::whole(Bytes::new(), end)
        }
        (Source::Connection { connection, framing, keep, sending }, None) => {
            let relayed = Relayed::new(local, connection, lease, framing, keep, sending, stream);
            Answered::relayed(relayed, end)
        }
        (Source::Stream { body, share, upload, .. }, None) => {
            let streamed = Streamed::new(local, lease, (body, share, upload), stream, grpc);
            Answered::streamed(streamed, end)
        }
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
