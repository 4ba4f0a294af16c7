use std::time::Duration;

use axum::http::Request;
use minato_identity::token::{Order, Record, Who, make};
use minato_model::time::Moment;

use super::*;

const NOW: Moment = Moment(1_000_000);

fn guard_with(own: &str, anonymous_push: bool) -> Guard {
    let tokens = Arc::new(Tokens::new(own, Arc::new(|| NOW)));
    Guard::new(Access { tokens, anonymous_push, hosts: Vec::new(), secure: false })
}

fn guard(anonymous_push: bool) -> Guard {
    guard_with("secret", anonymous_push)
}

/// Makes a token with these scopes that the guard knows.
fn token(guard: &Guard, scopes: &[&str], expires_at: Option<Moment>) -> (Record, String) {
    let scopes = scopes.iter().map(|scope| scope.parse().expect("a scope")).collect();
    let order = Order { name: String::new(), scopes, expires_at, by: "test".to_owned() };
    let (record, text) = make(order, NOW).expect("a token");
    guard.access.tokens.put(record.clone(), 1);
    (record, text.to_string())
}

fn headers(value: &str) -> HeaderMap {
    HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().expect("a header"))])
}

fn check(guard: &Guard, value: &str, wanted: Wanted<'_>) -> Result<(), (StatusCode, String)> {
    let host = Host::parse("127.0.0.1:7070").expect("a host");
    let refused = |refusal: Refusal| (refusal.status, refusal.message);
    guard.check_right(&headers(value), &host, wanted, None).map(drop).map_err(refused)
}

/// The ticket that a password is given.
async fn ticket(guard: &Guard, password: &str) -> String {
    let mut request = from(None);
    *request.headers_mut() = headers(&format!("Basic {}", STANDARD.encode(format!("x:{password}"))));
    let response = guard.make_ticket(&request).expect("it counts");
    let bytes = axum::body::to_bytes(response.into_body(), 10_000).await.expect("a body");
    let body: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
    format!("Bearer {}", body["token"].as_str().expect("a ticket"))
}

#[tokio::test]
async fn a_token_allows_its_repositories_and_no_others() {
    let guard = guard(false);
    let (_, text) = token(&guard, &["push:shop/*"], None);
    for shown in [format!("Bearer {text}"), ticket(&guard, &text).await] {
        assert_eq!(check(&guard, &shown, Wanted::Push("shop/web")), Ok(()));
        assert_eq!(check(&guard, &shown, Wanted::Pull("shop/web")), Ok(()));
        for wanted in [Wanted::Push("shop"), Wanted::Pull("blog/web"), Wanted::List] {
            let (status, message) = check(&guard, &shown, wanted).expect_err("it isn't allowed");
            assert_eq!(status, StatusCode::FORBIDDEN, "{message}");
        }
        let (_, message) = check(&guard, &shown, Wanted::Push("blog/web")).expect_err("it isn't allowed");
        assert!(message.contains("it takes `push:blog/web`"), "{message}");
    }
    let (_, reader) = token(&guard, &["read"], None);
    let shown = format!("Bearer {reader}");
    assert_eq!(check(&guard, &shown, Wanted::List), Ok(()));
    assert_eq!(check(&guard, &shown, Wanted::Pull("blog/web")), Ok(()));
    assert!(check(&guard, &shown, Wanted::Push("blog/web")).is_err());
}

#[tokio::test]
async fn a_ticket_ends_with_its_token() {
    let guard = guard(false);
    let (mut record, text) = token(&guard, &["push:*"], None);
    let shown = ticket(&guard, &text).await;
    assert_eq!(check(&guard, &shown, Wanted::Push("shop/web")), Ok(()));
    record.token.revoked_at = Some(NOW);
    guard.access.tokens.put(record, 2);
    for shown in [shown, format!("Bearer {text}")] {
        let (status, message) = check(&guard, &shown, Wanted::Push("shop/web")).expect_err("it was revoked");
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert!(message.contains("was revoked"), "{message}");
    }
    let (_, expired) = token(&guard, &["admin"], Some(NOW));
    let (_, message) =
        check(&guard, &format!("Bearer {expired}"), Wanted::Entry).expect_err("it has expired");
    assert!(message.contains("expired"), "{message}");
}

fn from(peer: Option<&str>) -> Request<()> {
    let mut request = Request::new(());
    let address = peer.map(|text| text.parse::<SocketAddr>().expect("an address"));
    if let Some(address) = address {
        request.extensions_mut().insert(ConnectInfo(address));
    }
    request
}

#[test]
fn only_callers_on_loopback_are_anonymous() {
    for anonymous_push in [false, true] {
        let guard = guard(anonymous_push);
        for peer in ["127.0.0.1:9", "127.9.9.9:9", "[::1]:9", "[::ffff:127.0.0.1]:9"] {
            guard.make_ticket(&from(Some(peer))).expect(peer);
        }
        for peer in [None, Some("10.0.0.1:9"), Some("[fe80::1]:9"), Some("0.0.0.0:9")] {
            let refusal = guard.make_ticket(&from(peer)).expect_err("it comes from elsewhere");
            assert_eq!(refusal.status, StatusCode::UNAUTHORIZED);
        }
    }
    let mut request = from(Some("10.0.0.1:9"));
    let password = format!("Basic {}", STANDARD.encode("x:secret"));
    request.headers_mut().insert(header::AUTHORIZATION, password.parse().expect("a header"));
    guard(false).make_ticket(&request).expect("whoever has the token may come from anywhere");
}

#[tokio::test(start_paused = true)]
async fn tickets_are_somebodys_and_for_a_short_time() {
    let tickets = Tickets::new();
    let known = Who::Token("abcdefghij".parse().expect("an id"));
    let holders = [
        Holder::Anonymous { push: false },
        Holder::Anonymous { push: true },
        Holder::Token(Who::Own),
        Holder::Token(known),
    ];
    for holder in holders {
        let ticket = tickets.make(&holder);
        assert_eq!(tickets.holder(&ticket).as_ref(), Some(&holder));
        assert_eq!(Tickets::new().holder(&ticket), None, "another process' key");
        assert_eq!(tickets.holder(&format!("B{}", ticket.get(1..).expect("more"))), None, "forged");
        tokio::time::advance(LIFETIME - Duration::from_secs(1)).await;
        assert_eq!(tickets.holder(&ticket).as_ref(), Some(&holder));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(tickets.holder(&ticket), None);
    }
}

#[test]
fn no_api_token_means_that_nothing_is_one() {
    let guard = guard_with("", false);
    for value in ["Bearer ", "Basic eDo=", "Bearer", "Basic"] {
        let value = HeaderValue::from_static(value);
        assert!(guard.caller(&value).is_err());
    }
}
