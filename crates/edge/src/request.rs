//! A request's head, checked: what hyper lets through and the edge doesn't.

use http::{HeaderMap, Method, Version, header, request::Parts, uri::Authority};
use minato_model::code::Code;

use crate::{answer::Answer, config::Limits};

/// With it the application itself sees to it that nothing is done twice.
static IDEMPOTENCY_KEY: header::HeaderName = header::HeaderName::from_static("idempotency-key");

/// What the rest of the walk needs to know of a head.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The host asked for, as it was written.
    pub(crate) authority: String,
    /// The same in lower case, without port and final dot.
    pub(crate) host: String,
    /// Whether repeating it does no harm (RFC 9110, 9.2.2).
    pub(crate) idempotent: bool,
    /// What the client wants to upgrade to.
    pub(crate) upgrade: Option<header::HeaderValue>,
    /// Whether it asks so in a stream of HTTP/2, by an extended CONNECT (RFC 8441).
    pub(crate) connect: bool,
    /// What an instance of HTTP/1.1 has to prove then that it takes part (RFC 6455, 1.3).
    pub(crate) key: Option<String>,
}

/// Checks a head.
pub(crate) fn check(parts: &Parts, limits: &Limits) -> Result<Head, Answer> {
    let length = parts.uri.path_and_query().map_or(0, |path| path.as_str().len());
    if length > limits.uri_bytes {
        let detail = format!("the request's target is longer than {} bytes", limits.uri_bytes);
        return Err(Answer::new(Code::UriTooLong, detail));
    }
    // hyper's own bound is that of its buffer, which may grow a little beyond.
    let size =
        |(name, value): (&header::HeaderName, &header::HeaderValue)| name.as_str().len() + value.len() + 4;
    if parts.headers.iter().map(size).sum::<usize>() + length > limits.head_bytes {
        let detail = format!("the request's head is larger than {} bytes", limits.head_bytes);
        return Err(Answer::new(Code::HeadersTooLarge, detail));
    }
    let connect = parts.method == Method::CONNECT;
    let upgrade =
        if connect { Some(connect_protocol(parts)?) } else { upgrade(&parts.headers, parts.version) };
    let authority = authority(parts)?;
    Ok(Head {
        host: host(&authority).ok_or_else(|| bad("the Host header holds no host"))?,
        authority,
        idempotent: is_idempotent(&parts.method) || parts.headers.contains_key(&IDEMPOTENCY_KEY),
        upgrade,
        connect,
        key: None,
    })
}

fn bad(detail: &str) -> Answer {
    Answer::new(Code::BadRequest, detail)
}

/// The one host that the request names.
fn authority(parts: &Parts) -> Result<String, Answer> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let target = parts.uri.authority();
    let Some(host) = hosts.next() else {
        // HTTP/2 has `:authority` in its place (RFC 9113, 8.3.1).
        let target = target.filter(|_| parts.version == Version::HTTP_2);
        return target
            .map(|target| target.as_str().to_owned())
            .ok_or_else(|| bad("the request has no Host header"));
    };
    if hosts.next().is_some() {
        return Err(bad("the request has more than one Host header"));
    }
    let host = host.to_str().map_err(|_| bad("the Host header holds no host"))?;
    // The absolute form names the host once more (RFC 9112, 3.2.2), and so does `:authority`.
    if let Some(target) = target
        && !target.as_str().eq_ignore_ascii_case(host)
    {
        return Err(bad("the request's target and its Host header name different hosts"));
    }
    Ok(host.to_owned())
}

/// The host of an authority, as routes are looked up by it.
fn host(authority: &str) -> Option<String> {
    let parsed: Authority = authority.parse().ok()?;
    if parsed.as_str().contains('@') {
        return None;
    }
    let host = parsed.host();
    let host = host.strip_suffix('.').unwrap_or(host);
    (!host.is_empty()).then(|| host.to_ascii_lowercase())
}

fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS, Method::TRACE].contains(method)
}

/// The protocol to change to, if the request asks for it properly (RFC 9110, 7.8).
fn upgrade(headers: &HeaderMap, version: Version) -> Option<header::HeaderValue> {
    let asked = version == Version::HTTP_11 && has_token(headers, "upgrade");
    // A tunnel of HTTP/2 would carry requests that nobody looks at.
    let is_http2 = |value: &header::HeaderValue| {
        let mut tokens = value.as_bytes().split(|byte| *byte == b',');
        tokens.any(|token| token.trim_ascii().to_ascii_lowercase().starts_with(b"h2"))
    };
    let passes = asked && !headers.get_all(header::UPGRADE).iter().any(is_http2);
    headers.get(header::UPGRADE).filter(|_| passes).cloned()
}

/// The protocol that an extended CONNECT asks for; the ordinary one is for forward proxies.
fn connect_protocol(parts: &Parts) -> Result<header::HeaderValue, Answer> {
    let asked = parts
        .extensions
        .get::<hyper::ext::Protocol>()
        .ok_or_else(|| bad("CONNECT is not for this server"))?;
    if asked.as_str().eq_ignore_ascii_case("websocket") {
        return Ok(header::HeaderValue::from_static("websocket"));
    }
    Err(bad("of the protocols that CONNECT may ask for only websocket is known here"))
}

/// Makes one of several `Cookie` headers, as HTTP/2 may have them (RFC 9113, 8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let all: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(header::HeaderValue::as_bytes).collect();
    if let Ok(joined) = header::HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Whether `Connection` names the option.
pub(crate) fn has_token(headers: &HeaderMap, token: &str) -> bool {
    connection_tokens(headers).any(|other| other.eq_ignore_ascii_case(token))
}

/// The options that `Connection` names.
pub(crate) fn connection_tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::CONNECTION).iter();
    values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_hosts(uri: &str, hosts: &[&str]) -> Result<String, Code> {
        let mut request = http::Request::builder().uri(uri);
        for host in hosts {
            request = request.header("host", *host);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        check(&parts, &Limits::default()).map(|head| head.host).map_err(|answer| answer.code)
    }

    #[test]
    fn exactly_one_host_is_asked_for() {
        let check = check_hosts;
        assert_eq!(check("/", &["Shop.Localhost:8080"]).as_deref(), Ok("shop.localhost"));
        assert_eq!(check("/", &["shop.localhost."]).as_deref(), Ok("shop.localhost"));
        assert_eq!(check("/", &["[::1]:80"]).as_deref(), Ok("[::1]"));
        assert_eq!(check("http://a.b/x", &["A.B"]).as_deref(), Ok("a.b"));
        for (uri, hosts) in [
            ("/", &[][..]),
            ("/", &["a", "a"]),
            ("/", &[""]),
            ("/", &["u@a"]),
            ("/", &["a b"]),
            ("http://a/", &["b"]),
        ] {
            assert_eq!(check(uri, hosts), Err(Code::BadRequest), "{uri} {hosts:?}");
        }
        assert_eq!(check(&format!("/{}", "x".repeat(17_000)), &["a"]), Err(Code::UriTooLong));
    }

    #[test]
    fn an_authority_takes_the_place_of_a_host_in_http2_only() {
        let check = |version, host: Option<&str>| {
            let mut request = http::Request::builder().uri("http://Shop.localhost:80/").version(version);
            if let Some(host) = host {
                request = request.header("host", host);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            check(&parts, &Limits::default()).map(|head| head.host).map_err(|answer| answer.code)
        };
        assert_eq!(check(Version::HTTP_2, None).as_deref(), Ok("shop.localhost"));
        assert_eq!(check(Version::HTTP_2, Some("shop.localhost:80")).as_deref(), Ok("shop.localhost"));
        assert_eq!(check(Version::HTTP_2, Some("other.localhost")), Err(Code::BadRequest));
        assert_eq!(check(Version::HTTP_11, None), Err(Code::BadRequest));
    }

    #[test]
    fn cookies_that_came_apart_are_joined() {
        let mut headers = HeaderMap::new();
        for crumb in ["a=1", "b=2"] {
            headers.append(header::COOKIE, crumb.parse().unwrap());
        }
        join_cookies(&mut headers);
        assert_eq!(headers.get_all(header::COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }
}
