use std::{collections::BTreeMap, sync::atomic::Ordering::Relaxed};

use super::*;
use crate::target::tests::target;

const ROOM: Room = Room { concurrency: 2, most: 4 };
const ANY: Room = Room { concurrency: 1_000_000, most: 1_000_000 };

/// Instances to choose from.
struct Field {
    clock: Clock,
    targets: Targets,
    method: Method,
    room: Room,
    turn: AtomicU64,
    random: AtomicU64,
}

impl Field {
    fn new(algorithm: Algorithm, room: Room, count: u64) -> Self {
        Self::of(algorithm, room, (1..=count).map(target).collect(), None)
    }

    fn of(algorithm: Algorithm, room: Room, targets: Vec<Target>, zone: Option<&str>) -> Self {
        Self {
            clock: Clock::start(),
            targets: Targets::new(targets.into_iter().map(Arc::new).collect(), zone),
            method: Method { algorithm, slow_start: 0 },
            room,
            turn: AtomicU64::new(0),
            random: AtomicU64::new(0),
        }
    }

    fn by(&self, serial: u64) -> &Target {
        self.targets.iter().find(|target| target.serial == serial).unwrap()
    }

    fn without(self, serial: u64) -> Self {
        let targets = self.targets.iter().filter(|target| target.serial != serial).cloned().collect();
        Self { targets: Targets::new(targets, None), ..self }
    }

    fn seek(&self, avoid: Option<u64>, key: Option<u64>) -> Option<u64> {
        let seeker = Seeker {
            method: self.method,
            room: self.room,
            clock: self.clock,
            avoid,
            key,
            random: mix(self.random.fetch_add(1, Relaxed)),
            turn: &self.turn,
        };
        pick(&self.targets, &seeker).map(|target| target.serial)
    }

    fn next(&self) -> Option<u64> {
        self.seek(None, None)
    }

    /// What each gets of so many requests that are answered at once.
    fn shares(&self, count: u64, seek: impl Fn(u64) -> Option<u64>) -> BTreeMap<u64, u64> {
        let mut shares = BTreeMap::new();
        for number in 0..count {
            let serial = seek(number).unwrap();
            self.by(serial).give_back(false);
            *shares.entry(serial).or_default() += 1;
        }
        shares
    }

    fn owners(&self) -> Vec<u64> {
        let owner = |key: u64| {
            let serial = self.seek(None, Some(mix(key))).unwrap();
            self.by(serial).give_back(false);
            serial
        };
        (0..4_000).map(owner).collect()
    }
}

const ALL: [Algorithm; 4] =
    [Algorithm::LeastRequest, Algorithm::Ewma, Algorithm::RoundRobin, Algorithm::Hash];

#[test]
fn a_method_fits_into_a_word() {
    for algorithm in ALL {
        let method = Method { algorithm, slow_start: 3_600_000_000 };
        assert_eq!(Method::unpack(method.pack()), method);
    }
    assert_eq!(Method::of(&Policy::default()).pack(), 0);
}

#[test]
fn every_algorithm_keeps_the_limits() {
    for algorithm in ALL {
        for key in [None, Some(7)] {
            let field = Field::new(algorithm, ROOM, 2);
            let mut taken: Vec<u64> = (0..4).map(|_| field.seek(None, key).unwrap()).collect();
            taken.sort_unstable();
            assert_eq!(taken, [1, 1, 2, 2], "{algorithm:?}");
            assert_eq!(field.seek(None, key), None, "a new instance stays within its concurrency");
            field.by(2).answered(1);
            let more = [0; 3].map(|_| field.seek(None, key));
            assert_eq!(more, [Some(2), Some(2), None], "{algorithm:?}");
        }
    }
}

#[test]
fn every_algorithm_passes_over_the_suspended_and_takes_the_avoided_last() {
    for algorithm in ALL {
        let field = Field::new(algorithm, ROOM, 2);
        assert_eq!(field.seek(Some(1), Some(7)), Some(2));
        field.by(2).suspend(field.clock);
        assert_eq!(field.seek(Some(1), Some(7)), Some(1), "{algorithm:?}");
        field.by(1).suspend(field.clock);
        assert_eq!(field.seek(None, Some(7)), None);
        assert_eq!(Field::new(algorithm, ROOM, 0).next(), None);
    }
}

#[test]
fn the_less_loaded_of_two_is_taken() {
    let field = Field::new(Algorithm::LeastRequest, ANY, 2);
    for _ in 0..5 {
        assert!(field.by(1).take(100));
    }
    assert_eq!([0; 5].map(|_| field.next()), [Some(2); 5]);
}

#[test]
fn a_slow_instance_gets_less_by_ewma() {
    let field = Field::new(Algorithm::Ewma, ANY, 4);
    let now = field.clock.now();
    for serial in 1..=4 {
        field.by(serial).latency.measured(now, if serial == 3 { 100_000 } else { 1_000 }, true);
    }
    let shares = field.shares(1_000, |_| field.next());
    assert_eq!(shares.get(&3), None, "{shares:?}");
    assert!(shares.len() == 3 && shares.values().all(|share| *share > 200), "{shares:?}");
    // Under load the slow one is worth it when the others carry a hundred times as much.
    for serial in [1, 2, 4] {
        for _ in 0..500 {
            assert!(field.by(serial).take(1_000_000));
        }
    }
    assert!(field.shares(1_000, |_| field.next()).contains_key(&3));
}

#[test]
fn who_never_answered_is_tried_by_one() {
    let field = Field::new(Algorithm::Ewma, ANY, 2);
    field.by(1).latency.measured(field.clock.now(), 1_000, true);
    assert_eq!(field.next(), Some(2));
    assert_eq!([0; 10].map(|_| field.next()), [Some(1); 10]);
}

#[test]
fn turns_are_exact_among_those_with_room() {
    let field = Field::new(Algorithm::RoundRobin, ROOM, 4);
    let next = || {
        let serial = field.next()?;
        field.by(serial).give_back(false);
        Some(serial)
    };
    assert_eq!([0; 6].map(|_| next()), [1, 2, 3, 4, 1, 2].map(Some));
    field.by(3).suspend(field.clock);
    let turns = [0; 7].map(|_| next());
    assert_eq!(turns, [4, 1, 2, 4, 1, 2, 4].map(Some), "nobody gets the part of who is passed over");
}

#[test]
fn turns_are_exact_with_several_threads() {
    let field = Field::new(Algorithm::RoundRobin, ANY, 3);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..3_000 {
                    assert!(field.next().is_some());
                }
            });
        }
    });
    let shares: Vec<u32> = (1..=3).map(|serial| field.by(serial).in_flight()).collect();
    assert!(shares.iter().all(|share| share.abs_diff(4_000) <= 40), "{shares:?}");
}

#[test]
fn a_key_stays_with_its_instance() {
    let field = Field::new(Algorithm::Hash, ANY, 10);
    let before = field.owners();
    assert_eq!(before, field.owners());
    for serial in 1..=10 {
        let share = before.iter().filter(|owner| **owner == serial).count();
        assert!((300..=500).contains(&share), "{serial} has {share} of 4000");
    }
    // One goes: its keys move, and no other.
    let after = field.without(4).owners();
    let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
    assert_eq!(moved, before.iter().filter(|owner| **owner == 4).count());
    assert!(before.iter().zip(&after).all(|(before, after)| before == after || *before == 4));
    let heirs: std::collections::BTreeSet<_> =
        before.iter().zip(&after).filter(|(before, _)| **before == 4).map(|(_, after)| *after).collect();
    assert_eq!(heirs.len(), 9, "all inherit");
}

#[test]
fn a_full_instances_keys_go_on_to_the_next_and_come_back() {
    let field = Field::new(Algorithm::Hash, ROOM, 5);
    let seek = || field.seek(None, Some(99)).unwrap();
    let (owner, again, next) = (seek(), seek(), seek());
    assert!(owner == again && owner != next);
    assert_eq!(seek(), next, "always the same next one");
    field.by(owner).give_back(false);
    assert_eq!(seek(), owner);
    field.by(next).suspend(field.clock);
    let third = seek();
    assert!(third != owner && third != next);
}

#[test]
fn who_has_no_key_goes_to_the_less_loaded() {
    let field = Field::new(Algorithm::Hash, ANY, 2);
    let shares = [field.next(), field.next()];
    assert_ne!(shares[0], shares[1]);
}

/// The second of two instances is new; its part of a thousand requests at this point of its start.
fn share_at(algorithm: Algorithm, tenths: u64) -> u64 {
    let mut field = Field::new(algorithm, ANY, 2);
    let now = field.clock.now();
    field.method.slow_start = 1_000_000_000;
    for serial in [1, 2] {
        field.by(serial).latency.measured(now, 1_000, true);
    }
    // Started so long ago that the little that passes meanwhile makes no difference.
    field.by(2).rise.anew(now + 10_000_000_000 - tenths * 100_000_000);
    let later = |number: u64| {
        let seeker = Seeker {
            method: field.method,
            room: ANY,
            clock: field.clock,
            avoid: None,
            key: (algorithm == Algorithm::Hash).then(|| mix(number)),
            random: mix(number.wrapping_mul(31)),
            turn: &field.turn,
        };
        pick_at(&field.targets, &seeker, now + 10_000_000_000).map(|target| target.serial)
    };
    field.shares(1_000, later).get(&2).copied().unwrap_or(0)
}

#[test]
fn a_new_instance_gets_less_than_its_part_rising() {
    for algorithm in ALL {
        let shares = [0, 2, 5, 8, 10].map(|tenths| share_at(algorithm, tenths));
        assert!(shares.is_sorted(), "{algorithm:?}: {shares:?}");
        assert!(shares[0] <= 10, "{algorithm:?}: {shares:?}");
        assert!((70..=220).contains(&shares[1]), "{algorithm:?}: {shares:?}");
        assert!((200..=380).contains(&shares[2]), "{algorithm:?}: {shares:?}");
        assert!((440..=560).contains(&shares[4]), "{algorithm:?}: {shares:?}");
    }
}

#[test]
fn a_new_instance_gets_all_where_there_is_no_other() {
    for algorithm in ALL {
        let mut field = Field::new(algorithm, ROOM, 1);
        field.method.slow_start = 1_000_000_000;
        assert_eq!(field.seek(None, Some(1)), Some(1), "{algorithm:?}");
    }
}

#[test]
fn a_rising_part_only_adds_keys() {
    let mut field = Field::new(Algorithm::Hash, ANY, 4);
    field.method.slow_start = 1_000_000_000;
    let at = |late: u64| {
        let owner = |key: u64| {
            let seeker = Seeker {
                method: field.method,
                room: ANY,
                clock: field.clock,
                avoid: None,
                key: Some(mix(key)),
                random: 0,
                turn: &field.turn,
            };
            pick_at(&field.targets, &seeker, late).unwrap().serial
        };
        (0..1_000).map(owner).collect::<Vec<_>>()
    };
    for serial in [1, 2, 3] {
        field.by(serial).rise.anew(0);
    }
    let start = 5_000_000_000;
    field.by(4).rise.anew(start);
    let steps = [1, 3, 6, 10].map(|tenths| at(start + tenths * 100_000_000));
    for pair in steps.windows(2) {
        assert!(pair[0].iter().zip(&pair[1]).all(|(before, after)| before == after || *after == 4));
    }
    assert!(steps[0].iter().filter(|owner| **owner == 4).count() < 60);
}

fn in_zone(serial: u64, zone: Option<&str>) -> Target {
    let mut target = target(serial);
    target.endpoint.zone = zone.map(str::to_owned);
    target
}

#[test]
fn the_own_zone_comes_first_and_spills_over() {
    let zones =
        || vec![in_zone(1, Some("b")), in_zone(2, Some("a")), in_zone(3, Some("b")), in_zone(4, Some("a"))];
    for algorithm in [Algorithm::LeastRequest, Algorithm::Ewma, Algorithm::RoundRobin] {
        let field = Field::of(algorithm, ROOM, zones(), Some("a"));
        let mut taken: Vec<u64> = (0..8).map(|_| field.next().unwrap()).collect();
        assert!(taken[..4].iter().all(|serial| [2, 4].contains(serial)), "{algorithm:?}: {taken:?}");
        taken.sort_unstable();
        assert_eq!(taken, [1, 1, 2, 2, 3, 3, 4, 4], "up to what each is meant to hold");
        assert_eq!(field.next(), None);
        field.by(3).answered(1);
        assert_eq!(field.next(), Some(3), "beyond it whoever answers");
    }
}

#[test]
fn zones_that_are_not_known_or_not_there_make_no_difference() {
    let near = |zone: Option<&str>, zones: [Option<&str>; 3]| {
        let targets = (1..=3).zip(zones).map(|(serial, zone)| Arc::new(in_zone(serial, zone))).collect();
        Targets::new(targets, zone).by_distance().0.len()
    };
    assert_eq!(near(None, [Some("a"), Some("b"), None]), 3);
    assert_eq!(near(Some("a"), [Some("a"), Some("b"), None]), 2);
    assert_eq!(near(Some("c"), [Some("a"), Some("b"), Some("b")]), 3);
    assert_eq!(near(Some("a"), [Some("a"), Some("a"), Some("a")]), 3);
}
