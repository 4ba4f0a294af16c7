use std::time::Duration;

use minato_model::tls::Secret;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

/// 2026-03-01.
fn now() -> Moment {
    Moment(1_772_323_200_000)
}

fn params(names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2026, 4, 1);
    params.subject_alt_names =
        names.iter().map(|name| SanType::DnsName((*name).try_into().unwrap())).collect();
    params.distinguished_name.push(rcgen::DnType::CommonName, names.first().copied().unwrap_or("nobody"));
    params
}

fn authority(
    name: &str,
    by: Option<&CertifiedIssuer<'static, KeyPair>>,
) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = params(&[name]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    match by {
        Some(by) => CertifiedIssuer::signed_by(params, key, by).unwrap(),
        None => CertifiedIssuer::self_signed(params, key).unwrap(),
    }
}

/// A root, what it signed, and what that signed.
struct Chain {
    root: String,
    middle: String,
    leaf: String,
    key: String,
}

fn chain(leaf: CertificateParams) -> Chain {
    let root = authority("root", None);
    let middle = authority("middle", Some(&root));
    let key = KeyPair::generate().unwrap();
    let leaf = leaf.signed_by(&key, &middle).unwrap();
    Chain { root: root.pem(), middle: middle.pem(), leaf: leaf.pem(), key: key.serialize_pem() }
}

fn files(certificate: &str, key: &str) -> Files {
    let (certificate, key) = (Some(certificate.to_owned()), Some(Secret::new(key.to_owned())));
    Files { certificate, key, client_ca: None }
}

#[track_caller]
fn refused_with(read: Result<impl Sized, Refused>, key: &str, says: &str) {
    let refused = read.err().unwrap();
    assert!(refused.key == key && refused.message.contains(says), "{refused:?}");
}

#[test]
fn a_chain_with_its_key_is_taken_and_told_apart() {
    let one = chain(params(&["shop.example", "*.shop.example"]));
    let material = read(&files(&format!("{}{}", one.leaf, one.middle), &one.key)).unwrap();
    material.fresh(now()).unwrap();
    material.covers(&["shop.example".to_owned(), "a.shop.example".to_owned()]).unwrap();
    let leaf = material.presented.certificate.clone().unwrap();
    assert_eq!(leaf.names, ["shop.example", "*.shop.example"]);
    assert_eq!(leaf.not_after.to_string(), "2026-04-01T00:00:00.000Z");
    let alone = read(&files(&one.leaf, &one.key)).unwrap();
    alone.fresh(now()).unwrap();
    assert_ne!(alone.presented.id, material.presented.id);
    let with_roots = Files { client_ca: Some(one.root.clone()), ..files(&one.leaf, &one.key) };
    let with_roots = read(&with_roots).unwrap().presented;
    assert!(with_roots.client_roots.is_some() && with_roots.id != alone.presented.id);
    let roots_alone = Files { client_ca: Some(one.root), ..Files::default() };
    read(&roots_alone).unwrap().fresh(now()).unwrap();
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let (one, other) = (chain(params(&["shop.example"])), chain(params(&["shop.example"])));
    refused_with(read(&files(&one.leaf, &other.key)), "key", "doesn't belong to the certificate");
    let swapped = format!("{}{}", one.middle, one.leaf);
    refused_with(read(&files(&swapped, &one.key)), "key", "doesn't belong");
    let skipped = format!("{}{}", one.leaf, one.root);
    refused_with(read(&files(&skipped, &one.key)), "certificate", "certificate 2 of the file didn't sign");
    let mixed = format!("{}{}{}", one.leaf, one.root, one.middle);
    refused_with(read(&files(&mixed, &one.key)), "certificate", "out of order");
    let foreign = read(&files(&format!("{}{}", one.leaf, other.middle), &one.key)).unwrap();
    refused_with(foreign.fresh(now()), "certificate", "doesn't come from the last one");
    let both = format!("{}{}", one.leaf, one.key);
    refused_with(read(&files(&both, &one.key)), "certificate", "private key in it");
    refused_with(read(&files("nothing", &one.key)), "certificate", "no certificate in it");
    refused_with(read(&files(&one.leaf, "nothing")), "key", "no private key in it");
    refused_with(read(&files(&one.leaf, &format!("{}{}", one.key, other.key))), "key", "several");
    let many = one.leaf.repeat(CHAIN_MAX + 1);
    refused_with(read(&files(&many, &one.key)), "certificate", "11 certificates");
    refused_with(read(&files(&"-".repeat(1 << 20), &one.key)), "certificate", "larger than 64 KiB");
    refused_with(read(&Files { key: None, ..files(&one.leaf, "") }), "certificate", "no private key for it");
    let broken = one.leaf.replace("MII", "M!!");
    refused_with(read(&files(&broken, &one.key)), "certificate", "PEM");
    let not = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    refused_with(read(&files(not, &one.key)), "certificate", "no X.509 certificate");
    let not = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    refused_with(read(&files(&one.leaf, not)), "key", "can't be read");
}

#[test]
fn hosts_and_times_are_checked() {
    let one = chain(params(&["*.shop.example"]));
    let material = read(&files(&one.leaf, &one.key)).unwrap();
    for host in ["shop.example", "a.b.shop.example", "127.0.0.1", "other"] {
        let refused = material.covers(&["a.shop.example".to_owned(), host.to_owned()]);
        refused_with(refused, "certificate", &format!("the host `{host}`: it is for *.shop.example"));
    }
    refused_with(material.fresh(now().plus(40 * DAY)), "certificate", "has expired at 2026-04-01");
    refused_with(material.fresh(Moment(0)), "certificate", "is not valid before 2026-01-01");
}

#[test]
fn encrypted_keys_and_short_ones_are_refused() {
    let one = chain(params(&["shop.example"]));
    let encrypted = one.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    refused_with(read(&files(&one.leaf, &encrypted)), "key", "encrypted");
    let older = one.key.replace("PRIVATE KEY-----\n", "PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\n");
    refused_with(read(&files(&one.leaf, &older)), "key", "encrypted");
    let certificate = include_str!("tests/rsa1024.crt");
    refused_with(read(&files(certificate, &one.key)), "certificate", "an RSA key of 1024 bits");
}

#[test]
fn only_what_is_meant_is_sent() {
    let one = chain(params(&["shop.example"]));
    let both = format!("A note.\n{}\n{}bag\n{}", one.key, one.leaf, one.middle);
    assert_eq!(portion("certificate", both.as_bytes()).unwrap(), format!("{}{}", one.leaf, one.middle));
    assert_eq!(portion("key", both.as_bytes()).unwrap().trim_end(), one.key.trim_end());
    refused_with(portion("key", b"root:x:0:0"), "key", "no private key in it");
    refused_with(portion("client_ca", &[0x30, 0x82, 0xff]), "client_ca", "isn't PEM, which is text");
    refused_with(portion("key", &vec![b'-'; FILE_MAX + 1]), "key", "larger than 64 KiB");
    for cut in 0..one.leaf.len() {
        assert!(portion("certificate", &one.leaf.as_bytes()[..cut]).is_err() || cut + 1 >= one.leaf.len());
    }
}

#[test]
fn whatever_is_changed_or_cut_comes_to_an_end() {
    let one = chain(params(&["shop.example"]));
    let certificate = format!("{}{}", one.leaf, one.middle);
    let tried = |certificate: &str, key: &str| {
        if let Ok(material) = read(&files(certificate, key)) {
            drop((material.covers(&["shop.example".to_owned()]), material.fresh(now())));
        }
    };
    for at in (0..certificate.len()).step_by(3) {
        let mut changed = certificate.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'-' } else { b'A' };
        tried(str::from_utf8(&changed).unwrap(), &one.key);
        tried(&certificate[..at], &one.key);
        drop(portion("certificate", &changed));
    }
    for at in 0..one.key.len() {
        let mut changed = one.key.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'-' } else { b'A' };
        tried(&certificate, str::from_utf8(&changed).unwrap());
        tried(&certificate, &one.key[..at]);
    }
}
