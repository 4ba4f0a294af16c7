//! The head of an instance's answer, parsed and judged.

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::framing::{Chunk, Framing};
use crate::request::has_token;

const HEADERS_MAX: usize = 100;

/// An answer's head.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) framing: Framing,
    /// Whether the connection can carry another request after the body.
    pub(crate) keep: bool,
}

/// The bytes are no answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Takes the head from the buffer; `None`: it isn't whole yet.
pub(crate) fn parse(buffer: &mut BytesMut, method: &Method) -> Result<Option<Head>, Malformed> {
    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let length = match response.parse(buffer) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Malformed),
    };
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Malformed)?;
    let version = response.version.unwrap_or(0);
    // Places in the buffer: the values become views of it, without being copied.
    let start = buffer.as_ptr().addr();
    let mut places = Vec::with_capacity(response.headers.len());
    for field in response.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed)?;
        let from = field.value.as_ptr().addr().wrapping_sub(start);
        // An empty value may point anywhere.
        let from = if field.value.is_empty() { 0 } else { from };
        places.push((name, from..from + field.value.len()));
    }
    let head = buffer.split_to(length).freeze();
    let mut headers = HeaderMap::with_capacity(places.len() + 4);
    for (name, place) in places {
        let value = head.get(place.clone()).map(|_| head.slice(place)).ok_or(Malformed)?;
        headers.append(name, HeaderValue::from_maybe_shared(value).map_err(|_| Malformed)?);
    }
    let (framing, clear) = framing(method, status, &mut headers)?;
    let keep = clear
        && framing != Framing::Close
        && !has_token(&headers, "close")
        && (version == 1 || has_token(&headers, "keep-alive"));
    Ok(Some(Head { status, headers, framing, keep }))
}

/// How the body is framed (RFC 9112, 6.3), and whether no doubt is left about it. Leaves only the
/// headers about it that are true.
fn framing(
    method: &Method,
    status: StatusCode,
    headers: &mut HeaderMap,
) -> Result<(Framing, bool), Malformed> {
    let length = content_length(headers)?;
    let coded = headers.contains_key(header::TRANSFER_ENCODING);
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        headers.remove(header::CONTENT_LENGTH);
        return Ok((Framing::Done, !coded));
    }
    if method == Method::HEAD || status == StatusCode::NOT_MODIFIED {
        if coded {
            headers.remove(header::CONTENT_LENGTH);
        }
        return Ok((Framing::Done, true));
    }
    if coded {
        let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
        let chunked = codings.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked"));
        if !chunked || codings.next().is_some() {
            return Err(Malformed);
        }
        headers.remove(header::CONTENT_LENGTH);
        // Both at once: whoever wrote that may not be trusted with where the body ends.
        return Ok((Framing::Chunked(Chunk::Size), length.is_none()));
    }
    Ok((length.map_or(Framing::Close, Framing::Length), true))
}

/// The one length that is stated; several equal ones become one.
fn content_length(headers: &mut HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut length = None;
    let mut count = 0;
    for value in headers.get_all(header::CONTENT_LENGTH) {
        let text = value.to_str().map_err(|_| Malformed)?;
        let digits = !text.is_empty() && text.len() <= 18 && text.bytes().all(|byte| byte.is_ascii_digit());
        let this: u64 = if digits { text.parse().map_err(|_| Malformed)? } else { return Err(Malformed) };
        if length.is_some_and(|length| length != this) {
            return Err(Malformed);
        }
        length = Some(this);
        count += 1;
    }
    if let (Some(length), true) = (length, count > 1) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &Method, wire: &str) -> Result<Option<(u16, Framing, bool)>, Malformed> {
        let mut buffer = BytesMut::from(wire);
        let head = parse(&mut buffer, method)?;
        Ok(head.map(|head| (head.status.as_u16(), head.framing, head.keep)))
    }

    #[test]
    fn heads_say_how_their_body_is_framed() {
        let chunked = Framing::Chunked(Chunk::Size);
        for (wire, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", (200, Framing::Length(5), true)),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
                (200, Framing::Length(5), true),
            ),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", (200, chunked, true)),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
                (200, chunked, false),
            ),
            ("HTTP/1.1 200 \r\n\r\n", (200, Framing::Close, false)),
            ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", (200, Framing::Length(5), false)),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n",
                (200, Framing::Length(5), true),
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: x, close\r\n\r\n",
                (200, Framing::Length(5), false),
            ),
            ("HTTP/1.1 204 No Content\r\nX:\r\n\r\n", (204, Framing::Done, true)),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", (304, Framing::Done, true)),
        ] {
            assert_eq!(check(&Method::GET, wire), Ok(Some(expected)), "{wire:?}");
        }
        let wire = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(check(&Method::HEAD, wire), Ok(Some((200, Framing::Done, true))));
        assert_eq!(check(&Method::GET, "HTTP/1.1 200 OK\r\nConte"), Ok(None));
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for wire in [
            "SSH-2.0-OpenSSH\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nbad name: x\r\n\r\n",
        ] {
            assert_eq!(check(&Method::GET, wire), Err(Malformed), "{wire:?}");
        }
    }

    #[test]
    fn values_are_kept_as_they_were() {
        let mut buffer =
            BytesMut::from("HTTP/1.1 200 OK\r\nA:  b c \r\nE:\r\nSet-Cookie: x\r\nset-cookie: y\r\n\r\nbody");
        let head = parse(&mut buffer, &Method::GET).unwrap().unwrap();
        assert_eq!(head.headers["a"], "b c");
        assert_eq!(head.headers["e"], "");
        assert_eq!(head.headers.get_all("set-cookie").iter().count(), 2);
        assert_eq!(&buffer[..], b"body");
    }
}
