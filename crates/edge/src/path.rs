//! What a request's path means. The instance behind may decode and tidy it more than the edge does; where
//! that could lead to another route, or out of the one that was found, the request is refused.

use minato_model::code::Code;

use crate::answer::Answer;

/// A path that has been looked at.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Path<'a> {
    /// There is one way to read it.
    Plain(&'a str),
    /// There are two, which have to lead to the same service.
    Read {
        /// As routes are looked up: decoded, but for what would separate segments.
        decoded: String,
        /// As an instance may take it that decodes those too, and takes several slashes for one.
        merged: String,
    },
}

/// Whether nothing in the path is written in a way that has to be read.
fn is_plain(path: &[u8]) -> bool {
    let mut before = 0;
    path.iter().all(|byte| {
        let plain = match byte {
            b'%' | b'\\' => false,
            b'/' | b'.' => before != b'/',
            _ => true,
        };
        before = *byte;
        plain
    })
}

/// Looks at a path, and refuses what nobody means who means well.
pub(crate) fn read(path: &str) -> Result<Path<'_>, Answer> {
    if is_plain(path.as_bytes()) { Ok(Path::Plain(path)) } else { decode(path) }
}

fn decode(path: &str) -> Result<Path<'_>, Answer> {
    let bad = |detail: &str| Answer::new(Code::BadRequest, detail);
    let (mut decoded, mut merged) = (Vec::with_capacity(path.len()), Vec::with_capacity(path.len()));
    let mut bytes = path.bytes();
    while let Some(written) = bytes.next() {
        let byte = match written {
            b'\\' => return Err(bad("the path has a backslash")),
            b'%' => {
                hex(bytes.next(), bytes.next()).ok_or_else(|| bad("the path has a % that codes nothing"))?
            }
            plain => plain,
        };
        match byte {
            0 => return Err(bad("the path has a NUL in it")),
            b'/' | b'\\' => {
                // Written out it separates; coded it may, depending on who reads it.
                decoded.extend_from_slice(if written == b'/' { b"/" } else { b"%2f" });
                if merged.last() != Some(&b'/') {
                    merged.push(b'/');
                }
            }
            other => {
                decoded.push(other);
                merged.push(other);
            }
        }
    }
    // Some servers leave out what follows a semicolon, and what is left counts.
    let name = |segment: &[u8]| segment.iter().position(|byte| *byte == b';').unwrap_or(segment.len());
    let mut segments = merged.split(|byte| *byte == b'/');
    if segments.any(|segment| matches!(segment.get(..name(segment)), Some(b"." | b".."))) {
        return Err(bad("the path has a segment that is `.` or `..`"));
    }
    // No route has what isn't UTF-8, so it doesn't matter what takes its place.
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Path::Read { decoded: text(&decoded), merged: text(&merged) })
}

fn hex(high: Option<u8>, low: Option<u8>) -> Option<u8> {
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? * 16 + digit(low)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_in_the_ways_that_there_are() {
        for path in ["/", "/api/y", "*", "/a.b/c..d/e;f=g", "/a/~b:@!$&'()*+,", ""] {
            assert_eq!(read(path), Ok(Path::Plain(path)), "{path}");
        }
        for (path, decoded, merged) in [
            ("/%61pi/y", "/api/y", "/api/y"),
            ("/%2561pi", "/%61pi", "/%61pi"),
            ("/api%2Fy", "/api%2fy", "/api/y"),
            ("/api%5cy", "/api%2fy", "/api/y"),
            ("//api///y/", "//api///y/", "/api/y/"),
            ("/.well-known/x", "/.well-known/x", "/.well-known/x"),
            ("/.../a%2e", "/.../a.", "/.../a."),
            ("/%c3%a4%ff", "/ä\u{fffd}", "/ä\u{fffd}"),
        ] {
            let (decoded, merged) = (decoded.to_owned(), merged.to_owned());
            assert_eq!(read(path), Ok(Path::Read { decoded, merged }), "{path}");
        }
    }

    #[test]
    fn what_leads_elsewhere_is_refused() {
        for path in [
            "/..",
            "/a/../b",
            "/a/./b",
            "/.",
            "/a/%2e%2e/b",
            "/a/.%2E",
            "/a/%2e",
            "/a%2f..%2fb",
            "/a%5c..",
            "/a/..;/b",
            "/a/..;x=y",
            "/a/%2e%2e%3bx",
            "/a//../b",
            "/a\\b",
            "/%00",
            "/%",
            "/a%2",
            "/%zz",
            "/%+1",
        ] {
            let refused = read(path).map_err(|answer| answer.code);
            assert_eq!(refused, Err(Code::BadRequest), "{path}");
        }
    }
}
