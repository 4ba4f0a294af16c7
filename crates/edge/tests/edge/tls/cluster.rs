//! Certificates by the cluster's own authority: at the door, and at virtual addresses, where callers prove who
//! they are.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::SeqCst},
    },
    time::Duration,
};

use minato_identity::{
    Authority,
    certificate::{Holder, Issued},
    lifetimes::Lifetimes,
};
use minato_model::{manifest::Protocol, network::AddressPlan, routing::Routing as _, time::Moment};
use rustls::{AlertDescription, ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Ca, Door, alert, door_with};
use crate::support::{Client, Instance, entry, id, within};

/// An authority in a directory of its own, with a clock that the test sets.
struct Cluster {
    authority: Arc<Authority>,
    hours: Arc<AtomicI64>,
    _folder: tempfile::TempDir,
}

fn cluster() -> Cluster {
    let folder = tempfile::tempdir().unwrap();
    let hours = Arc::new(AtomicI64::new(0));
    #[expect(clippy::disallowed_methods, reason = "the test's clock begins at what rustls takes for now")]
    let begun = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let (begun, passed) = (Moment(i64::try_from(begun.as_millis()).unwrap()), Arc::clone(&hours));
    let clock = move || begun.plus(Duration::from_secs(passed.load(SeqCst).unsigned_abs() * 3600));
    let lifetimes = Lifetimes::scaled(1.0).unwrap();
    let dir = folder.path().join("identity");
    let authority = Authority::open(&dir, &"n1".parse().unwrap(), lifetimes, Arc::new(clock)).unwrap();
    Cluster { authority, hours, _folder: folder }
}

impl Cluster {
    fn door(&self, plan: Option<AddressPlan>) -> Door {
        door_with(|config| {
            config.authority = Some(Arc::clone(&self.authority));
            config.plan = plan;
        })
    }

    /// Who believes the cluster's roots, with its own certificate, if it has one.
    fn client(&self, own: Option<&Issued>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        for root in &self.authority.bundle().roots {
            roots.add(root.clone()).unwrap();
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        match own {
            Some(own) => builder.with_client_auth_cert(own.chain.clone(), own.key.clone_key()).unwrap(),
            None => builder.with_no_client_auth(),
        }
    }

    fn identity(&self, service: &str, instance: &str, address: Ipv4Addr) -> Issued {
        let (service, instance) = (service.parse().unwrap(), id(instance));
        let who = Holder { service: &service, instance: &instance, address };
        let key = self.authority.key().unwrap();
        self.authority.instance(&who, Duration::from_secs(3600), key).unwrap()
    }
}

fn shown(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn hosts_without_a_certificate_have_one_of_the_clusters() {
    let cluster = cluster();
    let door = cluster.door(None);
    door.bed.publish_web(|_| {}).await;
    let instance = Instance::start("one").await;
    door.bed.handle.admit(instance.endpoint.clone());
    let config = cluster.client(None);
    let first = door.connect(&config, "shop.localhost").await.unwrap();
    let certificate = shown(&first);
    assert_eq!(Client::on(first).get("/").await.text(), "one");
    assert_eq!(shown(&door.connect(&config, "shop.localhost").await.unwrap()), certificate);
    // Who names no host is shown the address that it came to.
    assert!(door.connect(&config, "127.0.0.1").await.is_ok());
    let error = door.connect(&config, "web.localhost").await.unwrap_err();
    assert_eq!(alert(&error), Some(AlertDescription::UnrecognisedName));
    // One that was given goes before it.
    door.give(vec![door.ca.signs(&["shop.localhost"])]);
    assert!(door.connect(&door.ca.client(&[]), "shop.localhost").await.is_ok());
    door.give(Vec::new());
    assert_eq!(shown(&door.connect(&config, "shop.localhost").await.unwrap()), certificate);
    // It is made anew at half its life.
    cluster.hours.store(11, SeqCst);
    assert_eq!(shown(&door.connect(&config, "shop.localhost").await.unwrap()), certificate);
    cluster.hours.store(13, SeqCst);
    let next = door.connect(&cluster.client(None), "shop.localhost").await;
    // Its own clock is not the test's: the certificate isn't valid yet for it.
    assert!(next.is_err_and(|error| error.to_string().contains("not valid yet")));
    // What the table doesn't name any more has none.
    door.bed.publish(Vec::new()).await;
    assert!(door.connect(&config, "shop.localhost").await.is_err());
}

/// A connection over TLS from an address to a service's virtual one.
async fn call(
    config: ClientConfig,
    from: Ipv4Addr,
    to: Ipv4Addr,
) -> std::io::Result<Client<TlsStream<TcpStream>>> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let stream = within(socket.connect(SocketAddr::from((to, 443)))).await?;
    let name = ServerName::try_from("cart.shop.internal").unwrap();
    Ok(Client::on(within(TlsConnector::from(Arc::new(config)).connect(name, stream)).await?))
}

#[tokio::test]
async fn a_caller_may_prove_who_it_is() {
    let cluster = cluster();
    let plan = AddressPlan::new(Ipv4Addr::new(127, 96, 0, 0));
    let door = cluster.door(Some(plan));
    let cart = entry("shop/cart", |route| route.virtual_offset = 5, &[(1, 1)]);
    let front = entry("shop/front", |route| route.virtual_offset = 6, &[]);
    let other = entry("other/app", |route| route.virtual_offset = 7, &[]);
    door.bed.publish(vec![cart, front, other]).await;
    let release = minato_model::ids::ReleaseKey { service: "shop/cart".parse().unwrap(), number: 1 };
    let instance = Instance::of("cart1", release).await;
    door.bed.handle.admit(instance.endpoint.clone());
    let (front, stranger) = (plan.at(16_400), plan.at(16_401));
    door.bed.handle.introduce(&id("front1"), &"shop/front".parse().unwrap(), front);
    door.bed.handle.introduce(&id("app1"), &"other/app".parse().unwrap(), stranger);
    let address = plan.at(5);

    // Without a certificate the address says who calls, and nothing more is said of it.
    let mut client = call(cluster.client(None), front, address).await.unwrap();
    let reply = client.ask("GET", "/echo", "Minato-Caller: spiffe://x/y\r\nminato_caller: z\r\n").await;
    assert!(!reply.text().to_lowercase().contains("caller"), "{}", reply.text());
    assert!(reply.text().contains("x-forwarded-proto: https\r\n"), "{}", reply.text());

    // With its own it is named, and only so.
    let own = cluster.identity("shop/front", "front1", front);
    let mut client = call(cluster.client(Some(&own)), front, address).await.unwrap();
    let reply = client.ask("GET", "/echo", "Minato-Caller: spiffe://x/y\r\n").await;
    let named = format!(
        "minato-caller: spiffe://{}/app/shop/service/front/instance/front1\r\n",
        cluster.authority.cluster()
    );
    assert!(reply.text().contains(&named) && !reply.text().contains("spiffe://x"), "{}", reply.text());

    // Another's is refused, even of the same service.
    for (service, instance) in [("shop/front", "front2"), ("shop/cart", "front1"), ("other/app", "app1")] {
        let others = cluster.identity(service, instance, front);
        let mut client = call(cluster.client(Some(&others)), front, address).await.unwrap();
        let reply = client.get("/").await;
        assert_eq!((reply.status, reply.code()), (403, Some("denied")), "{service} {instance}");
        assert!(reply.text().contains("is that of"), "{}", reply.text());
    }
    // Who may not call may not by its own certificate either.
    let own = cluster.identity("other/app", "app1", stranger);
    let mut client = call(cluster.client(Some(&own)), stranger, address).await.unwrap();
    let reply = client.get("/").await;
    assert!(reply.status == 403 && reply.text().contains("may not call"), "{}", reply.text());

    // One of another cluster ends the handshake.
    let foreign = self::cluster().identity("shop/front", "front1", front);
    let error = match call(cluster.client(Some(&foreign)), front, address).await {
        Err(error) => error,
        Ok(mut client) => tokio::io::AsyncReadExt::read(&mut client.stream, &mut [0]).await.unwrap_err(),
    };
    assert!(alert(&error).is_some(), "{error}");
    // And who calls doesn't take anybody else for the service.
    assert!(call(Ca::new().client(&[]), front, address).await.is_err());

    // A service of plain TCP has its own port 443 as it is, and one that is none any more has TLS there.
    for protocol in [Protocol::Tcp, Protocol::Http] {
        let own = |route: &mut minato_model::route::Route| {
            (route.virtual_offset, route.port, route.protocol) = (5, 443, protocol);
        };
        door.bed.publish(vec![entry("shop/cart", own, &[(1, 1)])]).await;
        let mut tries = 0;
        while call(cluster.client(None), front, address).await.is_ok() != (protocol == Protocol::Http) {
            // The address is free when the listener before is gone.
            tokio::time::sleep(Duration::from_millis(50)).await;
            tries += 1;
            assert!(tries < 100, "{protocol:?}");
        }
    }
}
