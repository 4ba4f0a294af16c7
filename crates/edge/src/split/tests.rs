use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use http::HeaderMap;
use minato_model::{
    ids::{InstanceId, ReleaseNumber},
    manifest::Protocol,
    route::Match,
    routing::Wake,
    traffic::{Key, Policy},
};

use super::*;
use crate::clock::Clock;

struct Asleep;
impl Wake for Asleep {
    fn wake(&self, _: &ReleaseKey, _: u32) {}
    fn suspect(&self, _: &InstanceId) {}
}

fn service(weights: &[(ReleaseNumber, u32)], split: Split) -> Service {
    let route = Route {
        hosts: Vec::new(),
        paths: Vec::new(),
        virtual_offset: 2,
        port: 8080,
        protocol: Protocol::Http,
        calls: None,
        timeout: Duration::from_secs(1),
        body_max: 1,
        concurrency: 1,
        concurrency_max: 1,
        listen: None,
        tls: Default::default(),
        traffic: Policy::default(),
    };
    let weights =
        weights.iter().map(|(number, weight)| Weight { number: *number, weight: *weight }).collect();
    let entry = Entry { service: "shop/web".parse().unwrap(), route, weights, split };
    let clock = Clock::start();
    let mut known = BTreeMap::new();
    Service::new(entry, None, &mut |key| {
        let make = || Arc::new(Release::new(key.clone(), clock, Arc::new(Asleep)));
        Arc::clone(known.entry(key.number).or_insert_with(make))
    })
}

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
}

fn choose(service: &Service, fields: &[(&'static str, &str)]) -> ReleaseNumber {
    let headers = headers(fields);
    let client = Client { headers: &headers, peer: Ipv4Addr::LOCALHOST.into(), trusted: false, proxies: &[] };
    service.choose(&client).unwrap().key.number
}

fn turns(weights: &[(ReleaseNumber, u32)], count: usize) -> Vec<ReleaseNumber> {
    let service = service(weights, Split::default());
    (0..count).map(|_| choose(&service, &[])).collect()
}

fn sticky(header: &str) -> Split {
    Split { sticky: Some(Key::Header(header.to_owned())), ..Split::default() }
}

#[tokio::test]
async fn weights_are_exact_in_every_cycle() {
    let check = |weights: &[(ReleaseNumber, u32)], cycle: usize, expected: &[usize]| {
        let turns = turns(weights, 3 * cycle);
        for cycle in turns.chunks(cycle) {
            let counts = weights.iter().map(|(n, _)| cycle.iter().filter(|other| *other == n).count());
            assert_eq!(counts.collect::<Vec<_>>(), expected, "{weights:?}");
        }
    };
    check(&[(1, 95), (2, 5)], 100, &[95, 5]);
    check(&[(1, 95), (2, 5), (3, 0)], 20, &[19, 1, 0]);
    check(&[(1, 5), (2, 1), (4, 1)], 7, &[5, 1, 1]);
    check(&[(1, 9_000), (2, 901), (3, 99)], 10_000, &[9_000, 901, 99]);
    assert_eq!(turns(&[(1, 50), (2, 50)], 4), [2, 1, 2, 1]);
    assert_eq!(turns(&[(7, 3)], 2), [7, 7]);
}

#[tokio::test]
async fn turns_are_spread_evenly() {
    let turns = turns(&[(1, 90), (2, 10)], 1_000);
    let at: Vec<_> = (0..turns.len()).filter(|at| turns[*at] == 2).collect();
    assert!(at.windows(2).all(|pair| pair[1] - pair[0] == 10), "{at:?}");
}

#[tokio::test]
async fn any_weights_have_turns() {
    let service = service(&[(1, u32::MAX), (2, 13), (3, u32::MAX), (4, 1)], Split::default());
    let threes = (0..10_000).filter(|_| choose(&service, &[]) == 3).count();
    assert!((4_999..=5_001).contains(&threes), "{threes}");
}

#[tokio::test]
async fn the_first_match_that_fits_decides_whatever_the_weights() {
    let rule = |by, value: Option<&str>, number| Match { by, value: value.map(str::to_owned), number };
    let header = |name: &str| Key::Header(name.to_owned());
    let matches = vec![
        rule(header("x-gone"), None, 9),
        rule(header("x-beta"), Some("yes"), 2),
        rule(Key::Cookie("beta".to_owned()), None, 3),
        rule(header("x-beta"), None, 1),
    ];
    let service = service(&[(1, 0), (2, 0), (3, 1), (4, 1)], Split { matches, ..sticky("x-beta") });
    assert_eq!(choose(&service, &[("x-beta", "yes")]), 2);
    assert_eq!(choose(&service, &[("x-beta", "yes"), ("cookie", "a=b; beta=1")]), 2);
    assert_eq!(choose(&service, &[("x-beta", "no"), ("cookie", "a=b; beta=1")]), 3);
    assert_eq!(choose(&service, &[("x-beta", "no")]), 1);
    assert!([3, 4].contains(&choose(&service, &[("x-gone", "1")])), "the table doesn't name release 9");
    let headers = headers(&[("x-beta", "yes")]);
    let peer = Ipv4Addr::LOCALHOST.into();
    let client = Client { headers: &headers, peer, trusted: false, proxies: &[] };
    let second = Arc::clone(service.choose(&client).unwrap());
    assert!(service.keeps(&second, &client) && !service.has(&second));
    let nobody = Client { headers: &HeaderMap::new(), ..client };
    assert!(!service.keeps(&second, &nobody), "who doesn't match chooses again");
}

#[tokio::test]
async fn a_client_stays_while_its_releases_weight_rises() {
    let at = |weights: &[(ReleaseNumber, u32)]| {
        let service = service(weights, sticky("x-user"));
        (0..4_000).map(|user| choose(&service, &[("x-user", &user.to_string())])).collect::<Vec<_>>()
    };
    let steps = [at(&[(1, 95), (2, 5)]), at(&[(1, 75), (2, 25)]), at(&[(1, 1), (2, 99)]), at(&[(2, 1)])];
    for (step, share) in steps.iter().zip([200, 1_000, 3_960, 4_000]) {
        let got = step.iter().filter(|number| **number == 2).count();
        assert!(got.abs_diff(share) <= 100, "{got} for {share}");
    }
    for pair in steps.windows(2) {
        assert!(pair[0].iter().zip(&pair[1]).all(|(before, after)| before <= after), "none goes back");
    }
    // A third release takes from both, and nobody else moves.
    let third = at(&[(1, 75), (2, 25), (3, 10)]);
    assert!(steps[1].iter().zip(&third).all(|(before, after)| before == after || *after == 3));
}

#[tokio::test]
async fn who_has_no_key_goes_by_turn() {
    let service = service(&[(1, 19), (2, 1)], sticky("x-user"));
    let seconds = (0..100).filter(|_| choose(&service, &[]) == 2).count();
    assert_eq!(seconds, 5);
}
