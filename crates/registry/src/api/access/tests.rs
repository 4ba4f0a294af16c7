use std::time::Duration;

use axum::http::Request;

use super::*;

fn guard(anonymous_push: bool) -> Guard {
    Guard::new(Access { api_token: "secret".into(), anonymous_push, hosts: Vec::new() })
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
async fn tickets_are_for_one_right_and_a_short_time() {
    let tickets = Tickets::new();
    for right in [Right::Pull, Right::Push] {
        let ticket = tickets.make(right);
        assert_eq!(tickets.right_of(&ticket), right);
        tokio::time::advance(LIFETIME - Duration::from_secs(1)).await;
        assert_eq!(tickets.right_of(&ticket), right);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(tickets.right_of(&ticket), Right::Nothing);
    }
}

#[test]
fn no_api_token_means_that_nothing_is_one() {
    let guard = Guard::new(Access { api_token: "".into(), anonymous_push: false, hosts: Vec::new() });
    for value in ["Bearer ", "Basic eDo=", "Bearer", "Basic"] {
        let value = HeaderValue::from_static(value);
        assert_eq!(guard.right_of(&value), Right::Nothing);
    }
}
