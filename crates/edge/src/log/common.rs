//! A line in NCSA's combined format, without referrer and browser, which may hold what isn't for a log;
//! then host, service, release, instance, milliseconds and flag.

use super::{
    date::Date,
    entry::Entry,
    text::{Quoting, address, decimal, milliseconds, quote},
};

/// Writes the line of a request that began at a moment, in milliseconds since 1970.
pub(crate) fn write(out: &mut Vec<u8>, date: &mut Date, at: i64, entry: &Entry) {
    address(out, entry.client);
    out.extend_from_slice(b" - - [");
    date.write(out, at);
    out.extend_from_slice(b"] \"");
    quoted(out, entry.method());
    out.push(b' ');
    quoted(out, entry.path());
    out.push(b' ');
    out.extend_from_slice(entry.protocol().as_bytes());
    out.extend_from_slice(b"\" ");
    decimal(out, entry.status.into());
    out.push(b' ');
    decimal(out, entry.bytes);
    out.extend_from_slice(b" \"-\" \"-\" ");
    word(out, entry.host());
    out.push(b' ');
    if entry.app().is_empty() {
        out.push(b'-');
    } else {
        out.extend_from_slice(entry.app());
        out.push(b'/');
        out.extend_from_slice(entry.service());
        out.push(b'@');
        decimal(out, entry.release);
    }
    out.push(b' ');
    word(out, entry.instance());
    out.push(b' ');
    milliseconds(out, entry.ended.saturating_sub(entry.began));
    out.push(b' ');
    word(out, entry.flag.unwrap_or_default().as_bytes());
    out.push(b'\n');
}

fn quoted(out: &mut Vec<u8>, value: &[u8]) {
    quote(out, if value.is_empty() { b"-" } else { value }, Quoting::Hexadecimal);
}

/// A word without quotes, so without spaces.
fn word(out: &mut Vec<u8>, value: &[u8]) {
    let from = out.len();
    quoted(out, value);
    for byte in out.iter_mut().skip(from).filter(|byte| **byte == b' ') {
        *byte = b'_';
    }
}

#[cfg(test)]
mod tests {
    use http::{Method, Version};

    use super::*;
    use crate::log::{Format, entry::Protocol};

    fn line(change: impl FnOnce(&mut Entry)) -> String {
        let mut entry = Entry::new();
        entry.begin("2001:db8::1".parse().unwrap(), 1_000);
        entry.protocol = Protocol::Http(Version::HTTP_2);
        entry.set_method(&Method::POST);
        change(&mut entry);
        let mut out = Vec::new();
        write(&mut out, &mut Date::new(Format::Common), 1_795_506_012_007, &entry);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_begins_as_the_combined_format() {
        let line = line(|entry| {
            entry.set_host(b"shop localhost");
            entry.set_path("/a\"b\n?token=secret");
            (entry.status, entry.bytes, entry.ended, entry.release) = (404, 12, 3_500, 3);
            entry.set_service("shop", "web");
            entry.flag = Some("no_route");
        });
        assert_eq!(
            line,
            "2001:db8::1 - - [24/Nov/2026:07:40:12 +0000] \"POST /a\\\"b\\x0a HTTP/2\" 404 12 \"-\" \"-\" \
             shop_localhost shop/web@3 - 2.500 no_route\n"
        );
    }
}
