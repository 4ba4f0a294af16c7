//! Clocks that are wrong.

use super::*;

#[test]
fn an_hour_back_or_forward_costs_nothing() {
    let rig = Rig::new();
    let authority = rig.open();
    for days in [0, 7, 14, 15, 29, 30, 31, 44, 45, 59, 60] {
        let right = START.plus(DAY * days);
        rig.set(right);
        authority.rotate().unwrap();
        let before = instance(&authority, DAY);
        let carried = authority.bundle();
        for wrong in [right.plus(HOUR), rotation::back(right, HOUR)] {
            rig.set(wrong);
            authority.rotate().unwrap();
            let issued = instance(&authority, DAY);
            for bundle in [&carried, &authority.bundle()] {
                for (issued, now) in [(&issued, right), (&issued, wrong), (&before, wrong)] {
                    verified(bundle, issued, now).unwrap();
                }
            }
        }
        rig.set(right);
        authority.rotate().unwrap();
        verified(&authority.bundle(), &before, right).unwrap();
    }
}

/// As that of a machine without a battery, until it is set.
#[test]
fn a_clock_years_back_destroys_nothing_and_what_is_issued_is_good_once_it_is_right() {
    let rig = Rig::new();
    let authority = rig.open();
    let right = START.plus(DAY * 400);
    rig.set(right);
    authority.rotate().unwrap();
    let (before, bundle, files) = (instance(&authority, DAY), authority.bundle(), rig.files());
    for wrong in [Moment(0), rotation::back(right, DAY * 365), rotation::back(START, DAY)] {
        rig.set(wrong);
        authority.rotate().unwrap();
        let opened = rig.open();
        assert_eq!(opened.rotate().unwrap().roots, []);
        assert_eq!((rig.files(), opened.bundle().roots.clone()), (files.clone(), bundle.roots.clone()));
        for issued in [instance(&authority, DAY), instance(&opened, DAY)] {
            verified(&bundle, &issued, right).unwrap();
        }
    }
    rig.set(right.plus(HOUR));
    assert_eq!(authority.rotate().unwrap(), Rotation::default());
    verified(&authority.bundle(), &before, rig.now()).unwrap();
    assert_eq!(authority.cluster(), rig.open().cluster());
}

#[test]
fn a_clock_years_ahead_for_a_while_destroys_nothing() {
    let rig = Rig::new();
    let authority = rig.open();
    rig.set(START.plus(DAY * 40));
    authority.rotate().unwrap();
    let (before, bundle) = (instance(&authority, DAY), authority.bundle());
    let right = rig.now();
    for years in [1, 5, 20] {
        rig.set(right.plus(DAY * 365 * years));
        authority.rotate().unwrap();
        verified(&authority.bundle(), &instance(&authority, DAY), rig.now()).unwrap();
    }
    rig.set(right.plus(HOUR));
    for authority in [rig.open(), authority] {
        authority.rotate().unwrap();
        assert_eq!(authority.bundle().roots, bundle.roots);
        verified(&bundle, &instance(&authority, DAY), rig.now()).unwrap();
        verified(&authority.bundle(), &before, rig.now()).unwrap();
    }
    rig.set(right.plus(DAY * 100));
    let authority = rig.open();
    verified(&authority.bundle(), &instance(&authority, DAY), rig.now()).unwrap();
}

#[test]
fn other_lifetimes_begin_anew_and_know_what_was_before() {
    let mut rig = Rig::new();
    let (before, former) = {
        let authority = rig.open();
        (instance(&authority, DAY), authority.bundle())
    };
    for scale in [0.000_1, 0.01, 1.0, 0.5] {
        rig.lifetimes = Lifetimes::scaled(scale).unwrap();
        rig.set(rig.now().plus(Duration::from_secs(60)));
        let authority = rig.open();
        let bundle = authority.bundle();
        assert!(former.roots.iter().all(|root| bundle.roots.contains(root)), "{scale}");
        verified(&bundle, &before, rig.now()).unwrap();
        let issued = instance(&authority, DAY);
        verified(&bundle, &issued, rig.now()).unwrap();
        let lives = issued.not_after.since(rig.now());
        assert!(lives <= rig.lifetimes.instance(DAY) + Duration::from_secs(2), "{scale}: {lives:?}");
        assert!(lives >= rig.lifetimes.floor().mul_f64(0.99), "{scale}: {lives:?}");
    }
}

/// As it is watched for real: a root of ten minutes.
#[test]
fn everything_rotates_in_minutes_too() {
    let mut rig = Rig::new();
    rig.lifetimes = Lifetimes::scaled(200.0 / 2_592_000.0).unwrap();
    let authority = rig.open();
    let mut living: Vec<Issued> = Vec::new();
    for _ in 0..600 {
        rig.set(rig.now().plus(Duration::from_millis(2_300)));
        authority.rotate().unwrap();
        living.retain(|issued| issued.not_after > rig.now());
        living.push(instance(&authority, DAY));
        let (bundle, now) = (authority.bundle(), rig.now());
        assert!((2..=4).contains(&bundle.roots.len()), "{}", bundle.roots.len());
        for issued in &living {
            verified(&bundle, issued, now).unwrap();
        }
    }
}
