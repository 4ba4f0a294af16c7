use std::time::Duration;

use minato_model::{
    ids::InstanceId,
    manifest::Protocol,
    route::{Route, Split, Weight},
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
            tls: Default::default(),
            traffic: minato_model::traffic::Policy::default(),
        },
        weights: weights.iter().map(|(number, weight)| Weight { number: *number, weight: *weight }).collect(),
        split: Split::default(),
    }
}

fn compile(services: Vec<Entry>) -> Snapshot {
    let clock = Clock::start();
    let release = |key: &ReleaseKey| Arc::new(Release::new(key.clone(), clock, Arc::new(Asleep)));
    Snapshot::compile(&Table { services }, &Snapshot::default(), release)
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
async fn what_has_not_changed_is_taken_over_with_its_turns() {
    let clock = Clock::start();
    let mut made = 0;
    let mut release = |key: &ReleaseKey| {
        made += 1;
        Arc::new(Release::new(key.clone(), clock, Arc::new(Asleep)))
    };
    let table = |weight| Table {
        services: vec![
            entry("a/web", &["web.localhost"], &["/"], &[(1, 1), (2, 1)]),
            entry("a/other", &["other.localhost"], &["/"], &[(1, 1), (2, weight)]),
        ],
    };
    let first = Snapshot::compile(&table(1), &Snapshot::default(), &mut release);
    let second = Snapshot::compile(&table(2), &first, &mut release);
    let find = |snapshot: &Snapshot, host: &str| Arc::clone(snapshot.public(host, "/").unwrap());
    assert!(Arc::ptr_eq(&find(&first, "web.localhost"), &find(&second, "web.localhost")));
    assert!(!Arc::ptr_eq(&find(&first, "other.localhost"), &find(&second, "other.localhost")));
    assert_eq!(made, 6);
}

/// What a table of the size of the promise costs: shown with `--no-capture`.
#[tokio::test]
async fn ten_thousand_hosts_are_compiled_at_once() {
    let entries = (0..10_000).map(|number: u16| {
        let (service, host) = (format!("app{number}/web"), format!("shop{number}.example.test"));
        let mut entry = entry(&service, &[host.as_str()], &["/"], &[(1, 9_000), (2, 901), (3, 99)]);
        entry.route.virtual_offset = number;
        entry
    });
    let table = Table { services: entries.collect() };
    let clock = Clock::start();
    let wake: Arc<dyn Wake> = Arc::new(Asleep);
    let release = |key: &ReleaseKey| Arc::new(Release::new(key.clone(), clock, Arc::clone(&wake)));
    let (before, began) = (resident(), tokio::time::Instant::now());
    let first = Snapshot::compile(&table, &Snapshot::default(), release);
    let (compiled, grown) = (began.elapsed(), resident() - before);
    let began = tokio::time::Instant::now();
    let second = Snapshot::compile(&table, &first, release);
    let again = began.elapsed();
    let began = tokio::time::Instant::now();
    for host in table.services.iter().flat_map(|entry| &entry.route.hosts) {
        assert!(second.public(host, "/a/b").is_some());
    }
    let found = began.elapsed() / 10_000;
    println!(
        "compiled in {compiled:?}, again in {again:?}, {} bytes a route, found in {found:?}",
        grown / 10_000
    );
    assert_eq!(second.services().count(), 10_000);
    assert!(compiled < Duration::from_secs(20), "{compiled:?}");
}

/// What this process has in memory, in bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
