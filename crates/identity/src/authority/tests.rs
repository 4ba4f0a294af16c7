mod clocks;
mod files;
mod year;

use std::{
    net::Ipv4Addr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use minato_model::{ids::ServiceKey, time::Moment};
use rustls::{CertificateError, client::danger::ServerCertVerifier, pki_types::ServerName};
use rustls_pki_types::UnixTime;
use webpki::KeyUsage;

use super::*;
use crate::{Bundle, Holder, Issued, Lifetimes, Trust, inspect, verify};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
const START: Moment = Moment(1_800_000_000_123);

/// An authority in a directory of its own, by a clock that a test moves.
struct Rig {
    dir: tempfile::TempDir,
    clock: Arc<AtomicI64>,
    lifetimes: Lifetimes,
}

impl Rig {
    fn new() -> Self {
        let clock = Arc::new(AtomicI64::new(START.0));
        Self { dir: tempfile::tempdir().unwrap(), clock, lifetimes: Lifetimes::default() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("identity")
    }

    fn open(&self) -> Arc<Authority> {
        self.try_open().unwrap()
    }

    fn try_open(&self) -> Result<Arc<Authority>, OpenError> {
        let clock = Arc::clone(&self.clock);
        let clock = Arc::new(move || Moment(clock.load(Ordering::SeqCst)));
        Authority::open(&self.path(), &"node-1".parse().unwrap(), self.lifetimes, clock)
    }

    fn now(&self) -> Moment {
        Moment(self.clock.load(Ordering::SeqCst))
    }

    fn set(&self, now: Moment) {
        self.clock.store(now.0, Ordering::SeqCst);
    }

    fn files(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.path()).unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn instance(authority: &Authority, greatest_age: Duration) -> Issued {
    let service: ServiceKey = "shop/cart".parse().unwrap();
    let id = "abc0123456".parse().unwrap();
    let who = Holder { service: &service, instance: &id, address: Ipv4Addr::new(10, 1, 2, 3) };
    authority.instance(&who, greatest_age, authority.key().unwrap()).unwrap()
}

fn unix(now: Moment) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_millis(u64::try_from(now.0).unwrap()))
}

fn verified(bundle: &Arc<Bundle>, issued: &Issued, now: Moment) -> Result<(), rustls::Error> {
    let trust = Trust::from(Arc::clone(bundle));
    let [leaf, above @ ..] = issued.chain.as_slice() else { panic!("a chain") };
    for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
        verify::identify(&trust, leaf, above, unix(now), usage)?;
    }
    Ok(())
}

#[test]
fn an_instance_gets_an_identity_that_is_verified() {
    let rig = Rig::new();
    let authority = rig.open();
    let issued = instance(&authority, DAY);
    verified(&authority.bundle(), &issued, rig.now()).unwrap();
    let names = inspect::names(&issued.chain[0]).unwrap();
    assert_eq!(names.dns, ["cart.shop.internal", "abc0123456.cart.shop.internal"]);
    assert_eq!(names.addresses, [Ipv4Addr::new(10, 1, 2, 3)]);
    let id = format!("spiffe://{}/app/shop/service/cart/instance/abc0123456", authority.cluster());
    assert_eq!(names.uris, [id.as_str()]);
    assert_eq!(verify::spiffe_of(&issued.chain[0]).unwrap().to_string(), id);
    let validity = inspect::validity(&issued.chain[0]).unwrap();
    assert_eq!((validity.not_before, validity.not_after), (issued.not_before, issued.not_after));
    assert!(issued.not_before <= rotation::back(START, HOUR) && issued.not_after >= START.plus(DAY * 3));
    assert!(issued.replace_at() > START.plus(DAY) && issued.replace_at() < issued.not_after);
    assert!(issued.key_pem().starts_with("-----BEGIN PRIVATE KEY-----\n"));
    assert_eq!(issued.chain_pem().matches("BEGIN CERTIFICATE").count(), 2);
    let shown = format!("{issued:?} {authority:?} {:?}", authority.key().unwrap());
    assert!(!shown.contains("BEGIN") && shown.ends_with(" Key"), "{shown}");
}

#[test]
fn the_longest_names_fit() {
    let authority = Rig::new().open();
    let longest = "a".repeat(40);
    let service: ServiceKey = format!("{longest}/{longest}").parse().unwrap();
    let id = longest.parse().unwrap();
    let who = Holder { service: &service, instance: &id, address: Ipv4Addr::LOCALHOST };
    let issued = authority.instance(&who, DAY, authority.key().unwrap()).unwrap();
    verified(&authority.bundle(), &issued, START).unwrap();
}

#[test]
fn hosts_get_certificates_that_name_nobody() {
    let rig = Rig::new();
    let authority = rig.open();
    let names = ["shop.localhost".to_owned(), "x".repeat(63) + ".example"];
    let issued = authority.hosts(&names, &["::1".parse().unwrap()]).unwrap();
    assert_eq!(inspect::names(&issued.chain[0]).unwrap().dns, names);
    let refused = verified(&authority.bundle(), &issued, START).unwrap_err();
    assert!(format!("{refused:?}").contains("has no identity"), "{refused:?}");
    let mut store = rustls::RootCertStore::empty();
    assert_eq!(store.add_parsable_certificates(authority.bundle().roots.iter().cloned()), (2, 0));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let public = rustls::client::WebPkiServerVerifier::builder_with_provider(store.into(), provider);
    let name = ServerName::try_from("shop.localhost").unwrap();
    let [leaf, above @ ..] = issued.chain.as_slice() else { panic!("a chain") };
    public.build().unwrap().verify_server_cert(leaf, above, &name, &[], unix(START)).unwrap();
    for wrong in ["*.localhost", "", "a b", "shop.localhost.", "a..b", &"a".repeat(300)] {
        let refused = authority.hosts(&[wrong.to_owned()], &[]);
        assert!(matches!(refused, Err(IssueError::Host { .. })), "{wrong}");
    }
    assert!(matches!(authority.hosts(&[], &[]), Err(IssueError::Count { count: 0 })));
    assert!(matches!(authority.hosts(&vec!["a.b".to_owned(); 101], &[]), Err(IssueError::Count { .. })));
}

#[test]
fn who_is_wrong_is_refused() {
    let (rig, foreign) = (Rig::new(), Rig::new().open());
    let authority = rig.open();
    let issued = instance(&authority, HOUR);
    let bundle = authority.bundle();
    let kind = |error: rustls::Error| {
        let rustls::Error::InvalidCertificate(kind) = error else { panic!("{error:?}") };
        kind
    };
    assert_eq!(
        kind(verified(&bundle, &instance(&foreign, HOUR), START).unwrap_err()),
        CertificateError::UnknownIssuer
    );
    let expired = kind(verified(&bundle, &issued, START.plus(DAY + HOUR)).unwrap_err());
    assert!(matches!(expired, CertificateError::ExpiredContext { .. }), "{expired:?}");
    let early = kind(verified(&bundle, &issued, rotation::back(START, HOUR * 2)).unwrap_err());
    assert!(matches!(early, CertificateError::NotValidYetContext { .. }), "{early:?}");

    let id = verify::spiffe_of(&issued.chain[0]).unwrap();
    let edge = authority.edge().unwrap();
    let edge_id = verify::spiffe_of(&edge.chain[0]).unwrap();
    assert_eq!(edge_id.to_string(), format!("spiffe://{}/node/node-1/edge", authority.cluster()));
    let name = ServerName::try_from("10.1.2.3").unwrap();
    let said = |expected: &SpiffeId, shown: &Issued| {
        let verifier = verify::instance_verifier(authority.trust(), expected.clone());
        let [leaf, above @ ..] = shown.chain.as_slice() else { panic!("a chain") };
        verifier.verify_server_cert(leaf, above, &name, &[], unix(START)).map(|_| ())
    };
    said(&id, &issued).unwrap();
    let another = kind(said(&edge_id, &issued).unwrap_err()).to_string();
    assert!(another.contains("was expected"), "{another}");
    assert!(said(&id, &edge).is_err());
    let callers = verify::caller_verifier(authority.trust());
    assert!(!callers.client_auth_mandatory() && callers.root_hint_subjects().is_empty());
    callers.verify_client_cert(&edge.chain[0], &edge.chain[1..], unix(START)).unwrap();
    // Without the intermediate nothing leads to a root; with a bit changed nothing is signed.
    assert!(callers.verify_client_cert(&edge.chain[0], &[], unix(START)).is_err());
    let mut changed = edge.chain[0].to_vec();
    *changed.last_mut().unwrap() ^= 1;
    assert!(callers.verify_client_cert(&changed.into(), &edge.chain[1..], unix(START)).is_err());
}

#[test]
fn a_certificate_is_made_in_a_fraction_of_a_start() {
    let authority = Rig::new().open();
    // The best of many, so that a busy machine doesn't count; what isn't optimised is far slower.
    let most = Duration::from_micros(if cfg!(debug_assertions) { 5_000 } else { 300 });
    #[expect(clippy::disallowed_methods, reason = "what is measured is the time of the machine")]
    let once = || {
        let began = std::time::Instant::now();
        instance(&authority, DAY);
        began.elapsed()
    };
    let best = (0..200).map(|_| once()).min().unwrap();
    assert!(best < most, "{best:?}");
}
