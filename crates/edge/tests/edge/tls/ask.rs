//! What a service asks of those who come: TLS, a certificate. And what authorities ask of the edge.

use std::sync::Arc;

use http::Method;
use minato_edge::Prefix;
use minato_model::{
    ids::ReleaseKey,
    routing::Routing as _,
    tls::{Challenges, ClientRoots, Door as Asks, Secured, Source},
};
use rustls::AlertDescription;

use super::{Ca, Door, alert, door, door_with};
use crate::{
    http2::{Link, request},
    support::{Client, Instance, entry},
};

async fn asking(door: &Door, asks: Asks) -> Instance {
    let instance = door.shop().await;
    door.bed.publish_web(|route| route.tls = asks).await;
    instance
}

#[tokio::test]
async fn who_comes_without_tls_is_sent_to_it() {
    let door = door_with(|config| config.trusted_proxies = Vec::new());
    let asks = Asks { redirect: true, hsts: Some(std::time::Duration::from_secs(86_400)), ..Asks::default() };
    let _instance = asking(&door, asks).await;
    let mut client = door.bed.client().await;
    for (target, path) in [
        ("/a//b?c=d%20e", "/a//b?c=d%20e"),
        ("http://shop.localhost?x", "/?x"),
        ("//evil.example/", "//evil.example/"),
    ] {
        let reply = client.get(target).await;
        assert_eq!((reply.status, reply.code()), (308, Some("redirected")), "{reply:?}");
        let location = format!("https://shop.localhost:{}{path}", door.address.port());
        assert_eq!(reply.field("location"), Some(&*location));
        assert_eq!(reply.field("strict-transport-security"), None, "only TLS may say so");
    }
    let reply = client.ask("GET", "/", "X-Forwarded-Proto: https\r\n").await;
    assert_eq!(reply.status, 308, "not everybody is believed");
    let mut client = door.client().await;
    let reply = client.get("/").await;
    assert_eq!((reply.text(), reply.field("strict-transport-security")), ("one", Some("max-age=86400")));
    let reply = client.ask("POST", "/", "Content-Length: 999999999\r\n").await;
    assert_eq!((reply.status, reply.field("strict-transport-security")), (413, Some("max-age=86400")));
}

#[tokio::test]
async fn a_proxy_that_spoke_tls_is_believed() {
    let trusted: Prefix = "127.0.0.1".parse().unwrap();
    let door = door_with(|config| config.trusted_proxies = vec![trusted]);
    let _instance = asking(&door, Asks { redirect: true, ..Asks::default() }).await;
    let mut client = door.bed.client().await;
    assert_eq!(client.ask("GET", "/", "X-Forwarded-Proto: https\r\n").await.text(), "one");
    assert_eq!(client.ask("GET", "/", "X-Forwarded-Proto: http\r\n").await.status, 308);
}

/// `shop.localhost` asks for certificates of one authority, `free.localhost` for none.
async fn guarded(door: &Door, clients: &Ca) -> [Instance; 2] {
    let free = ReleaseKey { service: "shop/free".parse().unwrap(), number: 1 };
    let instances = [Instance::start("one").await, Instance::of("two", free).await];
    for instance in &instances {
        door.bed.handle.admit(instance.endpoint.clone());
    }
    let certificates = vec![door.ca.signs(&["shop.localhost", "free.localhost"])];
    let hosts = vec!["shop.localhost".to_owned()];
    let client_roots = vec![ClientRoots { hosts, roots: vec![clients.der()] }];
    door.bed.handle.secure(Source::Files, Arc::new(Secured { certificates, client_roots }));
    let asks = Asks { client_certificate: true, ..Asks::default() };
    let shop = entry("shop/web", |route| route.tls = asks, &[(1, 1)]);
    let free = |route: &mut minato_model::route::Route| {
        (route.hosts, route.virtual_offset) = (vec!["free.localhost".to_owned()], 3);
    };
    door.bed.publish(vec![shop, entry("shop/free", free, &[(1, 1)])]).await;
    instances
}

#[tokio::test]
async fn a_certificate_that_is_asked_for_is_shown_to_the_instance() {
    let (door, clients) = (door(), Ca::new());
    let _instance = guarded(&door, &clients).await;
    let own = clients.signs(&["alice"]);
    for versions in [&[&rustls::version::TLS12], &[&rustls::version::TLS13]] {
        let config = door.ca.client_of(&["http/1.1"], Some(&own), versions);
        let mut client = Client::on(door.connect(&config, "shop.localhost").await.unwrap());
        let reply = client.ask("GET", "/echo", "Client-Cert: :AAAA:\r\nclient_cert_chain: :AAAA:\r\n").await;
        let shown = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &own.chain[0]);
        assert!(reply.text().contains(&format!("\r\nclient-cert: :{shown}:\r\n")), "{}", reply.text());
        assert!(!reply.text().contains(":AAAA:"), "{}", reply.text());

        // None is shown: said in words.
        let config = door.ca.client_of(&["http/1.1"], None, versions);
        let mut client = Client::on(door.connect(&config, "shop.localhost").await.unwrap());
        let reply = client.get("/").await;
        assert_eq!((reply.status, reply.code()), (403, Some("denied")));

        // Another authority's: no agreement. TLS 1.3 tells it with the first answer.
        let foreign = Ca::new().signs(&["alice"]);
        let config = door.ca.client_of(&["http/1.1"], Some(&foreign), versions);
        let error = match door.connect(&config, "shop.localhost").await {
            Err(error) => error,
            Ok(mut stream) => tokio::io::AsyncReadExt::read(&mut stream, &mut [0]).await.unwrap_err(),
        };
        assert_eq!(alert(&error), Some(AlertDescription::UnknownCA), "{error}");
    }
    let reply = door.bed.get("/").await;
    assert_eq!((reply.status, reply.code()), (403, Some("denied")), "without TLS there is none");
    let mut client = door.bed.client().await;
    client.send("GET /echo HTTP/1.1\r\nHost: free.localhost\r\nClient-Cert: :AAAA:\r\n\r\n").await;
    let reply = client.reply("GET").await;
    assert!(reply.status == 200 && !reply.text().contains("client-cert"), "{}", reply.text());
}

#[tokio::test]
async fn a_connection_for_another_host_is_not_good_enough() {
    let (door, clients) = (door(), Ca::new());
    let _instance = guarded(&door, &clients).await;
    let own = clients.signs(&["alice"]);
    let config = door.ca.client_of(&["h2"], Some(&own), rustls::DEFAULT_VERSIONS);
    let mut link = Link::on(door.connect(&config, "free.localhost").await.unwrap()).await;
    let reply = link.ask(request(Method::GET, "/"), None).await.unwrap();
    assert_eq!(
        (reply.status.as_u16(), &reply.headers["minato-code"]),
        (421, &"misdirected".parse().unwrap())
    );
    let mut link = Link::on(door.connect(&config, "shop.localhost").await.unwrap()).await;
    assert_eq!(link.ask(request(Method::GET, "/"), None).await.unwrap().text(), "one");
    // The same roots once more change nothing; others do.
    let _same = guarded(&door, &clients).await;
    assert_eq!(link.ask(request(Method::GET, "/"), None).await.unwrap().status, 200);
    let _other = guarded(&door, &Ca::new()).await;
    assert_eq!(link.ask(request(Method::GET, "/"), None).await.unwrap().status, 421);
}

#[tokio::test]
async fn authorities_find_their_proofs() {
    let door = door();
    let _instance = asking(&door, Asks { redirect: true, ..Asks::default() }).await;
    let mut proof = door.ca.signs(&["shop.localhost"]);
    proof.hosts.clear();
    let challenges = Challenges {
        http: [("token-1".to_owned(), "token-1.thumb".to_owned())].into(),
        alpn: [("shop.localhost".to_owned(), proof.clone())].into(),
    };
    door.bed.handle.challenge(Arc::new(challenges));
    let reply = door.bed.get("/.well-known/acme-challenge/token-1").await;
    assert_eq!((reply.status, reply.text()), (200, "token-1.thumb"));
    assert_eq!(reply.field("content-type"), Some("application/octet-stream"));
    assert_eq!(door.bed.get("/.well-known/acme-challenge/token-2").await.status, 308);
    let stream = door.connect(&door.ca.client(&["acme-tls/1"]), "shop.localhost").await.unwrap();
    let session = stream.get_ref().1;
    assert_eq!(session.alpn_protocol(), Some(&b"acme-tls/1"[..]));
    assert_eq!(session.peer_certificates().unwrap()[0].as_ref(), proof.chain[0]);
    // Nobody else sees it.
    let mut client = door.client().await;
    assert_eq!(client.get("/").await.text(), "one");
    assert_ne!(client.stream.get_ref().1.peer_certificates().unwrap()[0].as_ref(), proof.chain[0]);
    door.bed.handle.challenge(Arc::default());
    let error = door.connect(&door.ca.client(&["acme-tls/1"]), "shop.localhost").await.unwrap_err();
    assert_eq!(alert(&error), Some(AlertDescription::NoApplicationProtocol));
}
