use std::time::Duration;

use minato_model::{
    ids::InstanceId,
    manifest::Protocol,
    route::{Entry, Split, Weight},
    routing::Wake,
};

use super::*;
use crate::clock::Clock;

struct Asleep;
impl Wake for Asleep {
    fn wake(&self, _: &ReleaseKey, _: u32) {}
    fn suspect(&self, _: &InstanceId) {}
}

fn entry(service: &str, hosts: &[&str], paths: &[&str], weights: &[(u32, u32)]) -> Entry {
    Entry {
        service: service.parse().unwrap(),
        route: Route {
            hosts: hosts.iter().copied().map(String::from).collect(),
            paths: paths.iter().copied().map(String::from).collect(),
            virtual_offset: u16::try_from(service.len()).unwrap(),
            port: 8080,
            protocol: Protocol::Http,
            calls: None,
            timeout: Duration::from_secs(1),
            body_max: 1,
            concurrency: 1,
            concurrency_max: 1,
            listen: None,
            traffic: minato_model::traffic::Policy::default(),
        },
        weights: weights.iter().map(|(number, weight)| Weight { number: *number, weight: *weight }).collect(),
        split: Split::default(),
    }
}

fn compile(services: Vec<Entry>) -> Snapshot {
    let clock = Clock::start();
    Snapshot::compile(&Table { services }, |key| Arc::new(Release::new(key.clone(), clock, Arc::new(Asleep))))
}

#[tokio::test]
async fn the_longest_prefix_of_whole_segments_wins() {
    let snapshot = compile(vec![
        entry("a/root", &["shop.localhost"], &["/"], &[]),
        entry("a/api", &["shop.localhost"], &["/api"], &[]),
        entry("a/deep", &["shop.localhost"], &["/api/v2/", "/x/y/z"], &[]),
        entry("a/only", &["only.localhost"], &["/only"], &[]),
    ]);
    let check =
        |host: &str, path: &str| snapshot.public(host, path).map(|s| s.key.service.as_str().to_owned());
    for (path, expected) in [
        ("/", "root"),
        ("/apix", "root"),
        ("/ap", "root"),
        ("/api", "api"),
        ("/api/", "api"),
        ("/api/v1", "api"),
        ("/api/v2", "deep"),
        ("/api/v2/", "deep"),
        ("/api/v22", "api"),
        ("/api/v2/a/b/c/d/e/f", "deep"),
        ("/x/y/z", "deep"),
        ("/x/y/zz", "root"),
        ("/x/y", "root"),
        ("/äöü/äöü", "root"),
        ("*", "root"),
    ] {
        assert_eq!(check("shop.localhost", path).as_deref(), Some(expected), "{path}");
    }
    assert_eq!(check("only.localhost", "/"), None);
    assert_eq!(check("only.localhost", "/onlyx"), None);
    assert_eq!(check("only.localhost", "/only").as_deref(), Some("only"));
    assert_eq!(check("other.localhost", "/"), None);
}

#[tokio::test]
async fn weights_are_exact_in_every_cycle() {
    let snapshot = compile(vec![entry("a/web", &["h"], &["/"], &[(1, 95), (2, 5), (3, 0)])]);
    let service = snapshot.public("h", "/").unwrap();
    for _ in 0..3 {
        let seconds: Vec<_> = (0..20).filter(|_| service.next_release().unwrap().key.number == 2).collect();
        assert_eq!(seconds.len(), 1);
    }
    assert_eq!(service.releases().len(), 2, "a release without weight takes nothing");
}

#[test]
fn cycles_are_smooth_and_bounded() {
    assert_eq!(cycle(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
    assert_eq!(cycle(&[50, 50]), [0, 1]);
    assert_eq!(cycle(&[7]), Vec::<u16>::new());
    let long = cycle(&[4_000_000_007, 13]);
    assert!(long.len() <= 10_001 && long.contains(&1));
}
