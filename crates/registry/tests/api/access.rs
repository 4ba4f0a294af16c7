//! Who may do what.

use axum::body::Body;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use minato_registry::Limits;

use crate::server::{Answer, Server, TOKEN};

fn basic(password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("anybody:{password}")))
}

async fn token(server: &Server, fields: &[(&str, &str)]) -> String {
    let answer = server.send_plain("GET", "/v2/token?service=minato", fields, Body::empty()).await;
    answer.check(200);
    assert!(answer.json()["expires_in"].as_u64().is_some_and(|seconds| seconds >= 60));
    answer.json()["token"].as_str().unwrap().to_owned()
}

async fn with_token(server: &Server, method: &str, path: &str, token: &str) -> Answer {
    let authorization = format!("Bearer {token}");
    server.send_plain(method, path, &[("authorization", &authorization)], Body::empty()).await
}

#[tokio::test]
async fn without_a_token_one_is_told_where_to_get_it() {
    let server = Server::start().await;
    let answer = server.send_plain("GET", "/v2/", &[], Body::empty()).await;
    answer.refused(401, "UNAUTHORIZED");
    let realm = format!("Bearer realm=\"http://{}/v2/token\",service=\"minato\"", server.address);
    assert_eq!(answer.header("www-authenticate"), realm);
    assert_eq!(answer.header("docker-distribution-api-version"), "registry/2.0");

    let answer = server.send_plain("POST", "/v2/a/b/blobs/uploads/", &[], Body::empty()).await;
    answer.refused(401, "UNAUTHORIZED");
    assert!(answer.header("www-authenticate").contains("scope=\"repository:a/b:pull,push\""));
}

#[tokio::test]
async fn anonymous_callers_on_loopback_may_pull_only() {
    let server = Server::start().await;
    let anonymous = token(&server, &[]).await;
    with_token(&server, "GET", "/v2/", &anonymous).await.check(200);
    with_token(&server, "GET", "/v2/a/tags/list", &anonymous).await.refused(404, "NAME_UNKNOWN");
    for (method, path) in [
        ("POST", "/v2/a/blobs/uploads/"),
        ("PUT", "/v2/a/manifests/v1"),
        ("DELETE", "/v2/a/manifests/v1"),
        ("PATCH", "/v2/a/blobs/uploads/00000000000000000000000000000000"),
    ] {
        with_token(&server, method, path, &anonymous).await.refused(401, "UNAUTHORIZED");
    }
    assert!(crate::server::files(&server.root()).is_empty());
}

#[tokio::test]
async fn the_api_token_gives_a_token_for_pushing() {
    let server = Server::start().await;
    let pushing = token(&server, &[("authorization", &basic(TOKEN))]).await;
    with_token(&server, "POST", "/v2/a/blobs/uploads/", &pushing).await.check(202);
    with_token(&server, "POST", "/v2/a/blobs/uploads/", TOKEN).await.check(202);

    let wrong = [("authorization", &*basic("wrong"))];
    server.send_plain("GET", "/v2/token", &wrong, Body::empty()).await.refused(401, "UNAUTHORIZED");
    server.send_plain("POST", "/v2/token", &[], Body::empty()).await.check(405);
    for forged in ["", "x", "AQAAAAAAAAAA", &pushing[1..], &format!("{pushing}A")] {
        with_token(&server, "GET", "/v2/", forged).await.refused(401, "UNAUTHORIZED");
    }
    // A token that another process made.
    let other = Server::start().await;
    with_token(&other, "GET", "/v2/", &pushing).await.refused(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn anonymous_pushes_where_they_are_allowed() {
    let server = Server::with(Limits::default(), true).await;
    let anonymous = token(&server, &[]).await;
    with_token(&server, "POST", "/v2/a/blobs/uploads/", &anonymous).await.check(202);
    let wrong = [("authorization", &*basic("wrong"))];
    server.send_plain("GET", "/v2/token", &wrong, Body::empty()).await.refused(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn foreign_hosts_and_origins_are_refused() {
    let server = Server::start().await;
    let port = server.address.port();
    for path in ["/v2/", "/v2/token", "/v2/a/tags/list"] {
        for host in ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1", "[::2]:80"] {
            let answer = server.send_plain("GET", path, &[("host", host)], Body::empty()).await;
            answer.refused(403, "DENIED");
        }
        for origin in ["http://evil.example", "null", "http://localhost:1", "file://"] {
            let answer = server.send_plain("GET", path, &[("origin", origin)], Body::empty()).await;
            answer.refused(403, "DENIED");
        }
        for host in ["", "a b", "\"quoted\"", "localhost:99999"] {
            let answer = server.send_plain("GET", path, &[("host", host)], Body::empty()).await;
            assert!(answer.status.is_client_error(), "{answer:?}");
        }
    }
    for host in ["localhost", "LOCALHOST:80", "127.3.2.1", "[::1]:7070", "registry.test"] {
        let origin = format!("http://{host}");
        let fields = [("host", host), ("origin", &origin)];
        server.send("GET", "/v2/", &fields, Body::empty()).await.check(200);
        let challenge = server.send_plain("GET", "/v2/", &[("host", host)], Body::empty()).await;
        let realm = format!("realm=\"http://{}/v2/token\"", host.to_lowercase());
        assert!(challenge.header("www-authenticate").contains(&realm), "{challenge:?}");
    }
    let origin = format!("http://127.0.0.1:{port}");
    server.send("GET", "/v2/", &[("origin", &origin)], Body::empty()).await.check(200);
}
