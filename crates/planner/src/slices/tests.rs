use std::{collections::BTreeSet, time::Duration};

use minato_model::{
    images::ResolvedImage,
    manifest::{Source, parse},
    time::Moment,
};

use super::*;
use crate::release;

fn check(nodes: &[&str], rollout: &Rollout, expected: &[&str]) {
    let text = "app = \"shop\"\n[services.web]\nimage = \"a:1\"\nhosts = [\"shop.localhost\"]\nscale = { min = 2, max = 5 }\n";
    let manifest = parse(&[Source { name: "shop.toml", text }]).unwrap().remove(0);
    let (name, service) = manifest.services.first_key_value().unwrap();
    let key = ServiceKey { app: manifest.app.clone(), service: name.clone() };
    let made = |number: u32| {
        let digest = format!("sha256:{}", number.to_string().repeat(64)).parse().unwrap();
        let port = u16::try_from(3000 + number).unwrap();
        let image = ResolvedImage {
            digest,
            user: String::new(),
            ports: vec![port],
            volumes: Vec::new(),
            has_command: true,
        };
        let spec = release::spec(name, service, &image).unwrap();
        let hash = release::hash(&spec);
        (number, Release { number, hash, spec, image: service.image.clone(), created_at: Moment(0) })
    };
    let releases = [made(1), made(2)].into();
    let record = ServiceRecord { virtual_offset: 7, last_release: 2, taken_back: BTreeMap::new() };
    let wanted =
        Wanted { key: &key, service, record: &record, rollout, releases: &releases, presented: None };
    let nodes: Vec<NodeName> = nodes.iter().map(|node| node.parse().unwrap()).collect();
    let said = slices(&wanted, &nodes).into_iter().map(|(node, slice)| {
        assert_eq!((slice.route.virtual_offset, slice.route.port), (7, 3001));
        let shares = slice
            .releases
            .iter()
            .map(|share| format!("{}={}:{}-{}", share.release.number, share.weight, share.min, share.max));
        format!("{node} {}", shares.collect::<Vec<_>>().join(" "))
    });
    assert_eq!(said.collect::<Vec<_>>(), expected);
}

fn stable() -> Rollout {
    Rollout {
        phase: crate::rollout::Phase::Stable,
        serving: Some(1),
        ..Rollout::begin(1, None, 0, BTreeSet::new(), "")
    }
}

#[test]
fn bounds_are_split_and_weights_are_the_same() {
    check(&["a"], &stable(), &["a 1=1:2-5"]);
    check(&["a", "b", "c"], &stable(), &["a 1=1:1-2", "b 1=1:1-2", "c 1=1:0-1"]);
    check(&[], &stable(), &[]);
}

#[test]
fn while_a_release_is_under_way_both_are_there_and_the_old_ones_port_stays() {
    let rollout = Rollout::begin(2, Some(&stable()), 3, BTreeSet::new(), "");
    check(&["a", "b"], &rollout, &["a 1=3:1-3 2=0:1-3", "b 1=3:1-2 2=0:0-2"]);
    assert_eq!(rollout.elapsed, Duration::ZERO);
}
