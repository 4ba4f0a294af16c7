use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use minato_model::{ids::ServiceKey, time::Moment};
use rustls::CertificateError;
use rustls_pki_types::UnixTime;
use webpki::KeyUsage;

use super::*;
use crate::{Bundle, Holder, Issued, Lifetimes, Trust, inspect, verify};

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

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("identity")
    }

    fn open(&self) -> Arc<Authority> {
        self.try_open().unwrap()
    }

    fn try_open(&self) -> Result<Arc<Authority>, OpenError> {
        let clock = Arc::clone(&self.clock);
        let node = "node-1".parse().unwrap();
        Authority::open(
            &self.path(),
            &node,
            self.lifetimes,
            Arc::new(move || Moment(clock.load(Ordering::SeqCst))),
        )
    }

    fn now(&self) -> Moment {
        Moment(self.clock.load(Ordering::SeqCst))
    }

    fn set(&self, now: Moment) {
        self.clock.store(now.0, Ordering::SeqCst);
    }
}

fn instance(authority: &Authority, greatest_age: Duration) -> Issued {
    let service: ServiceKey = "shop/cart".parse().unwrap();
    let who = Holder {
        service: &service,
        instance: &"abc0123456".parse().unwrap(),
        address: Ipv4Addr::new(10, 1, 2, 3),
    };
    authority.instance(&who, greatest_age, authority.key().unwrap()).unwrap()
}

fn verified(bundle: &Arc<Bundle>, issued: &Issued, now: Moment) -> Result<(), rustls::Error> {
    let trust = Trust::from(Arc::clone(bundle));
    let time = UnixTime::since_unix_epoch(Duration::from_millis(u64::try_from(now.0).unwrap()));
    let [leaf, above @ ..] = issued.chain.as_slice() else { panic!("a chain") };
    for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
        verify::identify(&trust, leaf, above, time, usage)?;
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
    assert!(issued.not_before <= Moment(START.0 - 3_600_000) && issued.not_after >= START.plus(DAY * 3));
    assert!(issued.replace_at() > START.plus(DAY) && issued.replace_at() < issued.not_after);
}
