//! The handshake of a WebSocket (RFC 6455, 4), where the edge has to play a side of it: HTTP/2 has none
//! (RFC 8441, 5).

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue};

use crate::serve::Local;

/// What both sides know (RFC 6455, 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A new key. It needn't be secret: it only tells a WebSocket's answer from an old one.
pub(crate) fn key(local: &Local) -> String {
    STANDARD.encode([local.draw().to_be_bytes(), local.draw().to_be_bytes()].concat())
}

/// What answers a key.
pub(crate) fn accept(key: &[u8]) -> String {
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat()))
}

/// Whether the instance answered the key.
pub(crate) fn is_accepted(headers: &HeaderMap, key: &str) -> bool {
    let answer = headers.get("sec-websocket-accept").map(HeaderValue::as_bytes);
    answer == Some(accept(key.as_bytes()).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_specification_is_accepted() {
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        let headers = HeaderMap::from_iter([(
            "sec-websocket-accept".parse().unwrap(),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".parse().unwrap(),
        )]);
        assert!(is_accepted(&headers, key));
        assert!(!is_accepted(&headers, "AAAAAAAAAAAAAAAAAAAAAA=="));
    }
}
