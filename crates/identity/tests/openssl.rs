//! What the authority makes, as OpenSSL sees it: strictly by RFC 5280, over a rotation too.
#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use minato_identity::{Authority, Holder, Issued, Lifetimes};
use minato_model::{ids::ServiceKey, time::Moment};

const START: i64 = 1_800_000_000_000;
const DAY: i64 = 86_400_000;

struct Rig {
    dir: tempfile::TempDir,
    clock: Arc<AtomicI64>,
    authority: Arc<Authority>,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(AtomicI64::new(START));
        let hand = Arc::clone(&clock);
        let authority = Authority::open(
            &dir.path().join("identity"),
            &"node-1".parse().unwrap(),
            Lifetimes::default(),
            Arc::new(move || Moment(hand.load(Ordering::SeqCst))),
        );
        Self { dir, clock, authority: authority.unwrap() }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn instance(&self) -> Issued {
        let service: ServiceKey = "shop/cart".parse().unwrap();
        let id = "abc0123456".parse().unwrap();
        let who = Holder { service: &service, instance: &id, address: Ipv4Addr::new(10, 1, 2, 3) };
        let key = self.authority.key().unwrap();
        self.authority.instance(&who, Duration::from_secs(86_400), key).unwrap()
    }

    /// `openssl verify`, strictly, at a moment; the chain's first certificate by the others and these roots.
    fn verify(&self, chain: &Path, roots: &Path, purpose: &str, at: i64) -> Result<String, String> {
        let (chain, roots) = (chain.to_str().unwrap(), roots.to_str().unwrap());
        let at = (at / 1_000).to_string();
        openssl(&[
            "verify",
            "-x509_strict",
            "-check_ss_sig",
            "-purpose",
            purpose,
            "-attime",
            &at,
            "-CAfile",
            roots,
            "-untrusted",
            chain,
            chain,
        ])
    }
}

fn openssl(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("openssl").args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() { Ok(said) } else { Err(said) }
}

#[test]
fn instances_are_verified_under_all_their_names() {
    let rig = Rig::new();
    let issued = rig.instance();
    let chain = rig.write("tls.crt", &issued.chain_pem());
    let roots = rig.write("ca.crt", &rig.authority.bundle().pem);
    for purpose in ["sslserver", "sslclient"] {
        rig.verify(&chain, &roots, purpose, START).unwrap();
        assert!(rig.verify(&chain, &roots, purpose, START + 5 * DAY).unwrap_err().contains("expired"));
        assert!(rig.verify(&chain, &roots, purpose, START - DAY).unwrap_err().contains("not yet valid"));
    }
    let path = chain.to_str().unwrap();
    for (flag, name, matches) in [
        ("-checkhost", "cart.shop.internal", true),
        ("-checkhost", "abc0123456.cart.shop.internal", true),
        ("-checkhost", "cart.other.internal", false),
        ("-checkip", "10.1.2.3", true),
        ("-checkip", "10.1.2.4", false),
    ] {
        let said = openssl(&["x509", "-in", path, "-noout", flag, name]);
        let said = said.unwrap_or_else(|said| said);
        assert_eq!(said.contains("does match"), matches, "{name}: {said}");
    }
    let text = openssl(&["x509", "-in", path, "-noout", "-text"]).unwrap();
    for says in [
        "Public-Key: (256 bit)",
        "Signature Algorithm: ecdsa-with-SHA256",
        "CA:FALSE",
        "Digital Signature",
        "TLS Web Server Authentication, TLS Web Client Authentication",
        "X509v3 Subject Key Identifier",
        "X509v3 Authority Key Identifier",
        &format!("URI:spiffe://{}/app/shop/service/cart/instance/abc0123456", rig.authority.cluster()),
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
}

#[test]
fn the_key_is_read_and_belongs_to_its_certificate() {
    let rig = Rig::new();
    let issued = rig.instance();
    let certificate = rig.write("tls.crt", &issued.chain_pem());
    let key = rig.write("tls.key", &issued.key_pem());
    let of_key = openssl(&["pkey", "-in", key.to_str().unwrap(), "-pubout"]).unwrap();
    let of_certificate =
        openssl(&["x509", "-in", certificate.to_str().unwrap(), "-noout", "-pubkey"]).unwrap();
    assert_eq!(of_key, of_certificate);
    openssl(&["pkey", "-in", key.to_str().unwrap(), "-check", "-noout"]).unwrap();
}

#[test]
fn hosts_and_the_edge_are_verified_and_foreign_roots_verify_nobody() {
    let (rig, foreign) = (Rig::new(), Rig::new());
    let roots = rig.write("ca.crt", &rig.authority.bundle().pem);
    let others = rig.write("others.crt", &foreign.authority.bundle().pem);
    let hosts = rig.authority.hosts(&["shop.localhost".to_owned()], &["127.0.0.1".parse().unwrap()]).unwrap();
    let chain = rig.write("host.crt", &hosts.chain_pem());
    rig.verify(&chain, &roots, "sslserver", START).unwrap();
    let said = openssl(&["x509", "-in", chain.to_str().unwrap(), "-noout", "-checkhost", "shop.localhost"]);
    assert!(said.unwrap().contains("does match"));
    let edge = rig.write("edge.crt", &rig.authority.edge().unwrap().chain_pem());
    rig.verify(&edge, &roots, "sslclient", START).unwrap();
    assert!(rig.verify(&edge, &others, "sslclient", START).is_err());
}

/// Roots are told apart by their key ids; of those that rotate none is missed and none is confused.
#[test]
fn certificates_are_verified_by_bundles_of_a_period_before_and_after() {
    let rig = Rig::new();
    let mut former: Option<(PathBuf, PathBuf)> = None;
    for period in 0..14_i64 {
        let now = START + period * 30 * DAY;
        rig.clock.store(now, Ordering::SeqCst);
        rig.authority.rotate().unwrap();
        let chain = rig.write(&format!("{period}.crt"), &rig.instance().chain_pem());
        let roots = rig.write(&format!("{period}.ca"), &rig.authority.bundle().pem);
        rig.verify(&chain, &roots, "sslserver", now).unwrap();
        if let Some((former_chain, former_roots)) = &former {
            rig.verify(&chain, former_roots, "sslserver", now).unwrap();
            rig.verify(former_chain, &roots, "sslclient", now - 29 * DAY).unwrap();
        }
        former = Some((chain, roots));
    }
}
