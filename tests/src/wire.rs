//! Calls of the API and the registry with whatever headers a test wants, right or wrong.
#![expect(clippy::unwrap_used, reason = "a test whose call has no answer fails here")]

use crate::{
    Server,
    http::{self, Answer},
};

/// Sends one request to the API's port, whole, and reads its answer. `Host` is the API's unless it is
/// given.
///
/// # Panics
/// When there is no answer.
#[must_use]
#[track_caller]
pub fn call(server: &Server, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut bytes = head(server, method, path, headers, Some(body.len() as u64)).into_bytes();
    bytes.extend_from_slice(body);
    http::raw(server.api, &bytes).unwrap()
}

/// A request's head, with a length if one is announced.
#[must_use]
pub fn head(
    server: &Server,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    length: Option<u64>,
) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if headers.iter().all(|(name, _)| !name.eq_ignore_ascii_case("host")) {
        head.push_str(&format!("Host: {}\r\n", server.api));
    }
    if let Some(length) = length {
        head.push_str(&format!("Content-Length: {length}\r\n"));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head + "\r\n"
}

/// The header that lets a call of the API through.
#[must_use]
pub fn bearer(server: &Server) -> String {
    format!("Bearer {}", server.token())
}

/// A call of the API as its command line makes it.
///
/// # Panics
/// When there is no answer.
#[must_use]
#[track_caller]
pub fn api(server: &Server, method: &str, path: &str, body: &str) -> Answer {
    let token = bearer(server);
    let headers = [("Authorization", token.as_str()), ("Content-Type", "application/json")];
    call(server, method, path, &headers, body.as_bytes())
}

/// The body that applies one manifest.
#[must_use]
pub fn files(text: &str) -> String {
    serde_json::json!({ "files": [{ "name": "shop.toml", "text": text }] }).to_string()
}

/// The header that lets an anonymous caller push to a repository.
///
/// # Panics
/// When the registry gives no token.
#[must_use]
#[track_caller]
pub fn pusher(server: &Server, repository: &str) -> String {
    let path = format!("/v2/token?service=minato&scope=repository:{repository}:pull,push");
    let answer = call(server, "GET", &path, &[], b"");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    format!("Bearer {}", answer["token"].as_str().unwrap())
}
