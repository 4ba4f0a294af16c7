//! A line as an object of JSON. What doesn't apply to a request is left out.

use super::{
    date::Date,
    entry::Entry,
    text::{Quoting, address, decimal, milliseconds, quote},
};

/// Writes the line of a request that began at a moment, in milliseconds since 1970.
pub(crate) fn write(out: &mut Vec<u8>, date: &mut Date, at: i64, entry: &Entry) {
    out.extend_from_slice(b"{\"time\":\"");
    date.write(out, at);
    out.extend_from_slice(b"\",\"client\":\"");
    address(out, entry.client);
    out.push(b'"');
    text(out, b",\"method\":\"", entry.method());
    text(out, b",\"host\":\"", entry.host());
    text(out, b",\"path\":\"", entry.path());
    out.extend_from_slice(b",\"protocol\":\"");
    out.extend_from_slice(entry.protocol().as_bytes());
    out.push(b'"');
    if entry.status != 0 {
        number(out, b",\"status\":", entry.status.into());
    }
    if let Some(status) = entry.grpc_status {
        number(out, b",\"grpc_status\":", status.into());
    }
    number(out, b",\"bytes\":", entry.bytes);
    if entry.received != 0 {
        number(out, b",\"received\":", entry.received);
    }
    out.extend_from_slice(b",\"duration_ms\":");
    milliseconds(out, entry.ended.saturating_sub(entry.began));
    if entry.answered != 0 {
        out.extend_from_slice(b",\"upstream_ms\":");
        milliseconds(out, entry.answered.saturating_sub(entry.began));
    }
    if entry.cold != 0 {
        out.extend_from_slice(b",\"cold_ms\":");
        milliseconds(out, entry.cold);
    }
    id(out, b",\"app\":\"", entry.app());
    id(out, b",\"service\":\"", entry.service());
    if entry.release != 0 {
        number(out, b",\"release\":", entry.release);
    }
    id(out, b",\"instance\":\"", entry.instance());
    if entry.attempts != 0 {
        number(out, b",\"attempts\":", entry.attempts.into());
    }
    text(out, b",\"request_id\":\"", entry.request_id());
    id(out, b",\"trace_id\":\"", entry.trace_id.as_ref().map_or(&[], |id| id.as_slice()));
    id(out, b",\"flag\":\"", entry.flag.unwrap_or_default().as_bytes());
    out.extend_from_slice(b"}\n");
}

fn text(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    if !value.is_empty() {
        out.extend_from_slice(key);
        quote(out, value, Quoting::Json);
        out.push(b'"');
    }
}

/// A text that no client chose, and that needs no escape.
fn id(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    if !value.is_empty() {
        out.extend_from_slice(key);
        out.extend_from_slice(value);
        out.push(b'"');
    }
}

fn number(out: &mut Vec<u8>, key: &[u8], value: u64) {
    out.extend_from_slice(key);
    decimal(out, value);
}

#[cfg(test)]
mod tests {
    use http::{Method, Version};

    use super::*;
    use crate::log::{Format, entry::Protocol};

    fn line(change: impl FnOnce(&mut Entry)) -> String {
        let mut entry = Entry::new();
        entry.begin("192.0.2.7".parse().unwrap(), 1_000);
        entry.protocol = Protocol::Http(Version::HTTP_11);
        entry.set_method(&Method::GET);
        change(&mut entry);
        let mut out = Vec::new();
        write(&mut out, &mut Date::new(Format::Json), 1_795_506_012_007, &entry);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_says_all_that_applies() {
        let line = line(|entry| {
            entry.set_host(b"shop.localhost");
            entry.set_path("/cart?token=secret");
            (entry.status, entry.bytes, entry.ended, entry.answered) = (200, 12, 3_500, 2_250);
            (entry.cold, entry.release, entry.attempts, entry.flag) = (900, 3, 2, Some("upstream_broke"));
            entry.set_service("shop", "web");
            entry.set_instance("abc");
            entry.set_request_id("r-1");
            entry.trace_id = Some([b'a'; 32]);
        });
        let expected = concat!(
            r#"{"time":"2026-11-24T07:40:12.007Z","client":"192.0.2.7","method":"GET","host":"shop.localhost","#,
            r#""path":"/cart","protocol":"HTTP/1.1","status":200,"bytes":12,"duration_ms":2.500,"#,
            r#""upstream_ms":1.250,"cold_ms":0.900,"app":"shop","service":"web","release":3,"instance":"abc","#,
            r#""attempts":2,"request_id":"r-1","trace_id":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","#,
            r#""flag":"upstream_broke"}"#,
            "\n"
        );
        assert_eq!(line, expected);
    }

    #[test]
    fn whatever_a_client_sends_it_stays_one_object_on_one_line_of_bounded_length() {
        let hostile = "\"}\n{\"a\":\u{7}\u{1b}\\é".repeat(2_000);
        let line = line(|entry| {
            entry.set_host(hostile.as_bytes());
            entry.set_path(&hostile);
            entry.set_request_id(&hostile);
            entry.set_method(&Method::from_bytes("X".repeat(5_000).as_bytes()).unwrap());
        });
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.len() < 20_000, "{}", line.len());
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert!(value["path"].as_str().unwrap().starts_with("\"}\n{\"a\":\u{7}\u{1b}\\%C3%A9"));
        assert_eq!(value["method"].as_str().unwrap().len(), 35);
    }

    #[test]
    fn what_does_not_apply_is_left_out() {
        let line = line(|entry| entry.status = 400);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        let keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
        let mut expected = ["time", "client", "method", "protocol", "status", "bytes", "duration_ms"];
        expected.sort_unstable();
        let mut keys: Vec<_> = keys.iter().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, expected);
    }
}
