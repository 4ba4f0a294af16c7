//! Answers that go on: a line of JSON each, until the client goes, its token ends or the server stops.

use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::Response,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use serde::Serialize;

/// As many lines as may be asked for at once.
pub(super) const LIMIT_MAX: usize = 10_000;
/// As many as are given where nobody says.
pub(super) const LIMIT: usize = 200;

/// Lines that come in heaps, each heap as soon as it is there. Nothing is made before the client has
/// taken what came before. They end with `over`.
pub(super) fn lines<T, S>(heaps: S, over: impl Future<Output = ()> + Send + 'static) -> Response
where
    T: Serialize + Send + 'static,
    S: Stream<Item = Vec<T>> + Send + 'static,
{
    let body = heaps
        .filter(|heap| std::future::ready(!heap.is_empty()))
        .map(|heap| Ok::<_, std::convert::Infallible>(encode(&heap)))
        .take_until(over);
    answer(Body::from_stream(body))
}

/// Lines that are all there.
pub(super) fn whole<T: Serialize>(heap: &[T]) -> Response {
    answer(encode(heap).into())
}

fn answer(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn encode<T: Serialize>(heap: &[T]) -> Bytes {
    let mut text = Vec::new();
    for line in heap {
        // Plain data always serialises.
        if serde_json::to_writer(&mut text, line).is_ok() {
            text.push(b'\n');
        }
    }
    text.into()
}
