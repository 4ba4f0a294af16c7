//! How the body of an instance's answer is told apart from what follows it (RFC 9112, 6 and 7).

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

/// A chunk's line and the trailers, in bytes.
const LINE_MAX: usize = 16 * 1024;

/// Where reading the body stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// This many bytes are to come.
    Length(u64),
    /// Chunks.
    Chunked(Chunk),
    /// All until the connection's end.
    Close,
    /// Nothing more.
    Done,
}

/// Where reading chunks stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chunk {
    /// Before a chunk's line.
    Size,
    /// This many bytes are to come.
    Data(u64),
    /// Before the end of line that follows a chunk's data.
    End,
    /// Before the trailers.
    Trailers,
}

/// What could be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A part of the body.
    Data(Bytes),
    /// Trailers; nothing follows.
    Trailers(HeaderMap),
    /// More has to arrive first.
    More,
    /// That was all.
    Done,
}

/// The bytes are no body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl Framing {
    /// Reads on in what has arrived.
    pub(crate) fn step(&mut self, buffer: &mut BytesMut) -> Result<Step, Malformed> {
        loop {
            match self {
                Self::Done => return Ok(Step::Done),
                Self::Close if buffer.is_empty() => return Ok(Step::More),
                Self::Close => return Ok(Step::Data(buffer.split().freeze())),
                Self::Length(0) => *self = Self::Done,
                Self::Length(left) => {
                    return Ok(data(buffer, left).map_or(Step::More, Step::Data));
                }
                Self::Chunked(chunk) => match chunk {
                    Chunk::Data(0) => *chunk = Chunk::End,
                    Chunk::Data(left) => {
                        return Ok(data(buffer, left).map_or(Step::More, Step::Data));
                    }
                    Chunk::End => match line(buffer)? {
                        None => return Ok(Step::More),
                        Some(line) if line.is_empty() => *chunk = Chunk::Size,
                        Some(_) => return Err(Malformed),
                    },
                    Chunk::Size => match line(buffer)? {
                        None => return Ok(Step::More),
                        Some(line) => {
                            let size = size(&line)?;
                            *chunk = if size == 0 { Chunk::Trailers } else { Chunk::Data(size) };
                        }
                    },
                    Chunk::Trailers => {
                        let Some(trailers) = trailers(buffer)? else { return Ok(Step::More) };
                        *self = Self::Done;
                        return Ok(if trailers.is_empty() { Step::Done } else { Step::Trailers(trailers) });
                    }
                },
            }
        }
    }
}

/// What has arrived of the next `left` bytes.
fn data(buffer: &mut BytesMut, left: &mut u64) -> Option<Bytes> {
    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
    *left -= u64::try_from(length).unwrap_or(0);
    (length > 0).then(|| buffer.split_to(length).freeze())
}

/// The next line, without its end.
fn line(buffer: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
    let Some(end) = buffer.iter().take(LINE_MAX).position(|byte| *byte == b'\n') else {
        return if buffer.len() >= LINE_MAX { Err(Malformed) } else { Ok(None) };
    };
    let mut line = buffer.split_to(end).freeze();
    buffer.advance(1);
    if line.last() != Some(&b'\r') {
        return Err(Malformed);
    }
    line.truncate(end - 1);
    Ok(Some(line))
}

/// A chunk's size; extensions are left out.
fn size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
    // 15 digits: no overflow, and more than any body has.
    if digits.is_empty() || digits.len() > 15 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(Malformed);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| Malformed)?;
    u64::from_str_radix(digits, 16).map_err(|_| Malformed)
}

fn trailers(buffer: &mut BytesMut) -> Result<Option<HeaderMap>, Malformed> {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    match httparse::parse_headers(buffer, &mut fields) {
        Ok(httparse::Status::Complete((length, fields))) => {
            let mut trailers = HeaderMap::new();
            for field in fields {
                let name = http::HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed)?;
                let value = http::HeaderValue::from_bytes(field.value).map_err(|_| Malformed)?;
                trailers.append(name, value);
            }
            buffer.advance(length);
            Ok(Some(trailers))
        }
        Ok(httparse::Status::Partial) if buffer.len() < LINE_MAX => Ok(None),
        Ok(httparse::Status::Partial) | Err(_) => Err(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body as text, however the bytes arrive, and what is left behind it.
    fn check(framing: Framing, wire: &str) -> Result<(String, bool, String), Malformed> {
        let mut results = Vec::new();
        for piece in [1, 2, 3, 7, wire.len().max(1)] {
            let (mut framing, mut buffer) = (framing, BytesMut::new());
            let (mut body, mut done) = (Vec::new(), false);
            for part in wire.as_bytes().chunks(piece) {
                buffer.extend_from_slice(part);
                while !done {
                    match framing.step(&mut buffer)? {
                        Step::Data(data) => body.extend_from_slice(&data),
                        Step::More => break,
                        Step::Done | Step::Trailers(_) => done = true,
                    }
                }
            }
            let rest = String::from_utf8(buffer.to_vec()).unwrap();
            results.push((String::from_utf8(body).unwrap(), done, rest));
        }
        results.dedup();
        assert_eq!(results.len(), 1, "it depends on how the bytes arrive: {results:?}");
        Ok(results.remove(0))
    }

    #[test]
    fn bodies_end_where_they_end() {
        let ok = |body: &str, done, rest: &str| Ok((body.to_owned(), done, rest.to_owned()));
        assert_eq!(check(Framing::Length(5), "helloHTTP"), ok("hello", true, "HTTP"));
        assert_eq!(check(Framing::Length(5), "hell"), ok("hell", false, ""));
        assert_eq!(check(Framing::Close, "hello"), ok("hello", false, ""));
        let chunked = Framing::Chunked(Chunk::Size);
        assert_eq!(
            check(chunked, "5;x=y\r\nhello\r\nA \r\n0123456789\r\n0\r\n\r\nX"),
            ok("hello0123456789", true, "X")
        );
        assert_eq!(check(chunked, "0\r\nA: b\r\n\r\n"), ok("", true, ""));
        assert_eq!(check(chunked, "5\r\nhello\r\n0\r\n"), ok("hello", false, ""));
        for bad in [
            "5\nhello\r\n",
            "x\r\n",
            "\r\n",
            "5\r\nhelloo\r\n",
            "-1\r\n",
            "1234567890123456\r\n",
            "0x5\r\nhello",
        ] {
            assert_eq!(check(chunked, bad), Err(Malformed), "{bad:?}");
        }
    }
}
