//! Certificates from files: kept apart, planned, put in force, taken away, and shown.

use std::time::Duration;

use minato_model::{
    code::Code,
    keys,
    time::Moment,
    tls::{Files, Secret, Source},
};
use minato_state::{State as _, Write, list_all};
use rcgen::{CertificateParams, KeyPair};

use super::rig::{NOW, Rig, files, key};
use crate::{
    apply::{self, File, Wishes},
    why,
};

const DAY: Duration = Duration::from_secs(86_400);

const SHOP: &str = r#"
app = "shop"

[services.web]
image = "shop/web:1"
hosts = ["shop.localhost"]

[services.web.tls]
certificate = "shop.crt"
key = "shop.key"
redirect = true
"#;

/// A certificate of its own, with its key, for 90 days from `from` on.
fn made(from: Moment, hosts: &[&str]) -> Files {
    let mut params =
        CertificateParams::new(hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>()).unwrap();
    let at = |moment: Moment| rcgen::date_time_ymd(1970, 1, 1) + moment.since(Moment(0));
    params.not_before = at(from);
    params.not_after = at(from.plus(90 * DAY));
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Files {
        certificate: Some(certificate.pem()),
        key: Some(Secret::new(key.serialize_pem())),
        client_ca: None,
    }
}

fn with(text: &str, sent: &Files) -> Vec<File> {
    let mut files = files(text);
    files[0].tls = [("web".to_owned(), sent.clone())].into();
    files
}

async fn shop() -> Rig {
    let rig = Rig::start().await;
    rig.image("shop/web:1", 1);
    rig
}

async fn try_apply(rig: &Rig, text: &str, sent: &Files) -> Result<Vec<String>, String> {
    let applied = apply::apply(&rig.control.core, &with(text, sent), &Wishes::default()).await;
    match applied {
        Ok(applied) => Ok(applied.plans[0]
            .changes
            .iter()
            .map(|change| format!("{} {}", change.what, change.reason))
            .collect()),
        Err(problem) => {
            assert_eq!(problem.file.as_deref(), Some("shop.toml"), "{problem:?}");
            Err(format!(
                "{} {} {}",
                problem.line.unwrap_or(0),
                problem.key.as_deref().unwrap_or_default(),
                problem.message
            ))
        }
    }
}

/// The ids of the files that are kept.
async fn kept(rig: &Rig) -> Vec<String> {
    let (items, _) = list_all(&*rig.state, keys::DOORS).await.unwrap();
    items.into_iter().map(|item| item.key).collect()
}

#[tokio::test]
async fn files_are_put_in_force_changed_and_taken_away() {
    let rig = shop().await;
    let (first, second) = (made(NOW, &["shop.localhost"]), made(NOW, &["shop.localhost", "b.localhost"]));
    assert_eq!(try_apply(&rig, SHOP, &first).await.unwrap().len(), 2);
    let slice = rig.slice("shop/web").await.unwrap();
    let id = slice.route.tls.files.clone().unwrap();
    assert!(slice.route.tls.redirect && !slice.route.tls.client_certificate);
    assert_eq!(kept(&rig).await, [keys::door(&key("shop/web"), &id)]);
    let (item, _) = rig.state.get(&keys::door(&key("shop/web"), &id)).await.unwrap();
    assert_eq!(serde_json::from_slice::<Files>(&item.unwrap().value).unwrap(), first);
    rig.stable("shop/web", 1).await;

    assert_eq!(try_apply(&rig, SHOP, &first).await.unwrap(), [""; 0], "the same again changes nothing");
    let changed = try_apply(&rig, SHOP, &second).await.unwrap();
    assert_eq!(
        changed,
        ["shop/web tls files change: handshakes from now on, connections and instances stay"]
    );
    let slice = rig.slice("shop/web").await.unwrap();
    assert_ne!(slice.route.tls.files.as_ref(), Some(&id));
    assert_eq!((slice.releases.len(), slice.releases[0].release.number), (1, 1), "nothing starts anew");
    assert_eq!(kept(&rig).await, [keys::door(&key("shop/web"), slice.route.tls.files.as_ref().unwrap())]);

    let status = rig.status("shop/web").await;
    let tls = status.tls.unwrap();
    assert_eq!(
        (tls.hosts[0].certificate, tls.hosts[0].valid_until),
        (Source::Files, Some(NOW.plus(90 * DAY)))
    );
    assert_eq!(status.url, "https://shop.localhost:8443/");

    rig.delete("shop").await.unwrap();
    assert_eq!(kept(&rig).await, [""; 0]);
}

#[tokio::test]
async fn no_key_is_ever_shown() {
    let rig = shop().await;
    let sent = made(NOW, &["shop.localhost"]);
    try_apply(&rig, SHOP, &sent).await.unwrap();
    let world = rig.read().await;
    let why = why::why(&rig.control.core, "shop/web").await.unwrap();
    let plan = apply::plan(&rig.control.core, &with(SHOP, &made(NOW, &["shop.localhost"]))).await.unwrap();
    let status = rig.status("shop/web").await;
    let shown = format!(
        "{world:?} {} {} {} {:?} {:?}",
        serde_json::to_string(&why).unwrap(),
        serde_json::to_string(&plan).unwrap(),
        serde_json::to_string(&status).unwrap(),
        with(SHOP, &sent),
        rig.events("app_applied"),
    );
    assert!(why.lines.iter().any(|line| line.contains("https://shop.localhost: a certificate from files")));
    let secret = sent.key.unwrap();
    // What follows in it is the public key.
    let secret: Vec<&str> = secret.expose().lines().filter(|line| !line.starts_with('-')).take(2).collect();
    assert!(!shown.contains("PRIVATE") && secret.iter().all(|line| !shown.contains(line)), "{shown}");
}

#[tokio::test]
async fn what_does_not_fit_is_refused_at_its_line_and_nothing_is_done() {
    let rig = shop().await;
    let fine = made(NOW, &["shop.localhost"]);
    let other = made(NOW, &["other.localhost"]);
    let with_key = |key: Option<Secret>| Files { key, ..fine.clone() };
    let hsts = SHOP.replace("redirect = true", "hsts = \"180d\"");
    for (text, sent, says) in [
        (
            SHOP,
            &Files::default(),
            "9 services.web.tls.certificate the file of `certificate` wasn't sent along",
        ),
        (SHOP, &with_key(None), "10 services.web.tls.key the file of `key` wasn't sent along"),
        (SHOP, &with_key(other.key.clone()), "10 services.web.tls.key `key`: the private key doesn't belong"),
        (
            SHOP,
            &other,
            "9 services.web.tls.certificate `certificate`: the certificate isn't for the host `shop.localhost`: it is for other.localhost",
        ),
        (
            SHOP,
            &made(NOW.plus(DAY), &["shop.localhost"]),
            "9 services.web.tls.certificate `certificate`: certificate 1 of the file is not valid before",
        ),
        (
            SHOP,
            &made(Moment(NOW.0 - 91 * 86_400_000), &["shop.localhost"]),
            "9 services.web.tls.certificate `certificate`: certificate 1 of the file has expired",
        ),
        (
            &hsts,
            &fine,
            "11 services.web.tls.hsts `hsts` needs HTTPS on port 443, and this server has it on 8443",
        ),
    ] {
        let refused = try_apply(&rig, text, sent).await.unwrap_err();
        assert!(refused.starts_with(says), "{refused}");
    }
    assert!(rig.read().await.apps.is_empty() && kept(&rig).await.is_empty());
    let plain = SHOP.split("[services.web.tls]").next().unwrap();
    let unasked = apply::plan(&rig.control.core, &with(plain, &fine)).await.unwrap_err();
    assert_eq!(unasked.code, Code::InvalidRequest);
}

#[tokio::test]
async fn services_of_one_host_have_one_door() {
    let rig = shop().await;
    try_apply(&rig, SHOP, &made(NOW, &["shop.localhost"])).await.unwrap();
    let other = SHOP
        .replace("app = \"shop\"", "app = \"blog\"")
        .replace("[services.web.tls]", "paths = [\"/blog\"]\n[services.web.tls]");
    let refused = try_apply(&rig, &other, &made(NOW, &["shop.localhost"])).await.unwrap_err();
    assert_eq!(
        refused,
        "10 services.web.tls.certificate shop/web has another certificate for `shop.localhost`"
    );
}

#[tokio::test]
async fn an_end_is_told_in_time_and_keeps_nobody_from_other_changes() {
    let rig = shop().await;
    let sent = made(NOW, &["shop.localhost"]);
    try_apply(&rig, SHOP, &sent).await.unwrap();
    rig.stable("shop/web", 1).await;
    assert_eq!(rig.status("shop/web").await.why, None);
    let steps = [(70, "certificate_expiring", 1, "at_rest"), (84, "certificate_expiring", 2, "at_rest")];
    for (days, kind, count, verdict) in steps.into_iter().chain([(91, "certificate_expired", 1, "degraded")])
    {
        rig.play(|play| play.later = days * DAY);
        // What changes wakes the reconciler.
        let news = vec![Write::Put { key: "/news".to_owned(), value: days.to_string().into_bytes() }];
        rig.state.commit(Vec::new(), news).await.unwrap();
        rig.until("shop/web", |_| rig.events(kind).len() == count).await;
        let status = rig.status("shop/web").await;
        assert_eq!(status.verdict, verdict, "{days}");
        assert!(status.why.unwrap().contains("its certificate from files expire"));
    }
    let slower = SHOP.replace("hosts = [", "timeout = \"5s\"\nhosts = [");
    assert_eq!(try_apply(&rig, &slower, &sent).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_an_apply_left_behind_is_swept() {
    let rig = shop().await;
    let sent = made(NOW, &["shop.localhost"]);
    try_apply(&rig, SHOP, &sent).await.unwrap();
    let named = kept(&rig).await;
    let stray = vec![Write::Put { key: keys::door(&key("shop/web"), "00"), value: b"{}".to_vec() }];
    rig.state.commit(Vec::new(), stray).await.unwrap();
    let rig = rig.restart().await;
    rig.until("shop/web", |status| status.release == Some(1)).await;
    let swept = async {
        while kept(&rig).await != named {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), swept).await.unwrap();
}
