use super::*;
use crate::{config::Limits, request};

fn written(build: impl FnOnce(http::request::Builder) -> http::request::Builder, trusted: bool) -> String {
    let request = build(http::Request::builder().uri("/p?q=1").header("host", "shop.localhost"));
    let (parts, ()) = request.body(()).unwrap().into_parts();
    let head = request::check(&parts, &Limits::default()).unwrap();
    let trace = Trace::of(&parts.headers, || 1);
    let peer = "192.0.2.7";
    let known = Known { scheme: "http", certificate: None, caller: None };
    let added = Added { peer, known, trusted, request_id: "id", trace: &trace, hops: 1, tried: Cell::new(0) };
    let mut out = Vec::new();
    write_request(&mut out, &parts, &head, &added, Length::None);
    String::from_utf8(out).unwrap()
}

#[test]
fn what_is_for_one_connection_stays_there() {
    let text = written(
        |request| {
            request
                .header("connection", "close, X-Secret")
                .header("x-secret", "1")
                .header("te", "trailers")
                .header("keep-alive", "timeout=5")
                .header("proxy-authorization", "x")
                .header("minato-origin", "cluster")
                .header("minato_code", "x")
                .header("expect", "100-continue")
                .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")
                .header("idempotency-key", "k")
        },
        false,
    );
    assert_eq!(
        text,
        "GET /p?q=1 HTTP/1.1\r\nhost: shop.localhost\r\nidempotency-key: k\r\n\
         x-forwarded-for: 192.0.2.7\r\nx-forwarded-proto: http\r\nx-forwarded-host: shop.localhost\r\n\
         x-request-id: id\r\n\
         traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00\r\nminato-hops: 1\r\n\
         te: trailers\r\nconnection: te\r\n\r\n"
    );
}

#[test]
fn forwarded_headers_are_believed_from_trusted_peers_only() {
    let check = |trusted| {
        written(
            |request| {
                request
                    .header("x-forwarded-for", "198.51.100.1")
                    .header("x_forwarded_for", "198.51.100.2")
                    .header("x-forwarded-proto", "https")
                    .header("forwarded", "for=198.51.100.1")
            },
            trusted,
        )
    };
    let text = check(false);
    assert!(!text.contains("198.51.100") && text.contains("x-forwarded-proto: http\r\n"), "{text}");
    let text = check(true);
    assert!(text.contains("x-forwarded-for: 198.51.100.1, 192.0.2.7\r\n"), "{text}");
    assert!(text.contains("x-forwarded-proto: https\r\n") && text.contains("forwarded: for="), "{text}");
}

#[test]
fn an_id_is_kept_if_it_is_safe() {
    let check = |id: &str| {
        let mut headers = HeaderMap::new();
        headers.insert("x-request-id", HeaderValue::from_bytes(id.as_bytes()).unwrap());
        request_id(&headers).is_some()
    };
    assert!(check("a1-b2.c3:d4"));
    assert!(check(&"x".repeat(64)));
    assert!(!check(&"x".repeat(65)));
    assert!(!check("a b") && !check("") && !check("\"><script>") && !check("ä"));
}

#[test]
fn an_answer_is_cleaned() {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("connection", "close, x-hop"),
        ("x-hop", "1"),
        ("minato-code", "forged"),
        ("minato-event", "checkout"),
        ("transfer-encoding", "chunked"),
        ("content-type", "text/plain"),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    clean_response(&mut headers, false);
    assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["content-type"]);
}

#[test]
fn trailers_say_nothing_that_belongs_ahead() {
    let mut trailers = HeaderMap::new();
    for name in [
        "authorization",
        "connection",
        "content-length",
        "forwarded",
        "grpc-status",
        "host",
        "minato-origin",
        "minato_origin",
        "te",
        "traceparent",
        "transfer-encoding",
        "x-checksum",
        "x-forwarded-for",
        "x_forwarded_for",
        "x-request-id",
    ] {
        trailers.insert(HeaderName::from_static(name), HeaderValue::from_static("1"));
    }
    clean_request_trailers(&mut trailers);
    let mut left: Vec<&str> = trailers.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["grpc-status", "x-checksum"]);
}
