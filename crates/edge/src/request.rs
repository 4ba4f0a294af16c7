//! A request's head, checked: what hyper lets through and the edge doesn't.

use http::{HeaderMap, Method, Version, header, request::Parts, uri::Authority};
use minato_model::code::Code;

use crate::{answer::Answer, config::Limits};

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
    if parts.method == Method::CONNECT {
        return Err(bad("CONNECT is not for this server"));
    }
    let authority = authority(parts)?;
    Ok(Head {
        host: host(&authority).ok_or_else(|| bad("the Host header holds no host"))?,
        authority,
        idempotent: is_idempotent(&parts.method),
        upgrade: upgrade(&parts.headers, parts.version),
    })
}

fn bad(detail: &str) -> Answer {
    Answer::new(Code::BadRequest, detail)
}

/// The one host that the request names.
fn authority(parts: &Parts) -> Result<String, Answer> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next().ok_or_else(|| bad("the request has no Host header"))?;
    if hosts.next().is_some() {
        return Err(bad("the request has more than one Host header"));
    }
    let host = host.to_str().map_err(|_| bad("the Host header holds no host"))?;
    // In the absolute form the target names the host once more (RFC 9112, 3.2.2).
    if let Some(target) = parts.uri.authority()
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
    headers.get(header::UPGRADE).filter(|_| asked).cloned()
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
}
