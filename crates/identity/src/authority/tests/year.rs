//! Rotation over a year, by a clock that is moved: whoever may still live and whoever may still meet them.

use super::*;

/// A bundle, and until when somebody may live who was given it.
struct Carried {
    bundle: Arc<Bundle>,
    until: Moment,
}

/// Lives through more than a year in steps of `step`. At each, instances begin, short-lived and long-lived;
/// each lives as long as its certificate, longer than any really does, and with the bundle of its beginning.
/// Every certificate is verified against every bundle that is carried at the same time: as the one or the
/// other comes up, for neither changes afterwards. Says how many roots and intermediates were made.
fn live(
    rig: &Rig,
    step: Duration,
    mut at_step: impl FnMut(u32, Arc<Authority>) -> Arc<Authority>,
) -> (usize, usize) {
    let mut authority = rig.open();
    let mut living: Vec<Issued> = Vec::new();
    let mut carried: Vec<Carried> = Vec::new();
    let (mut rotations, mut renewals) = (0, 0);
    let steps = u32::try_from(DAY.as_millis() * 400 / step.as_millis()).unwrap();
    for number in 0..steps {
        authority = at_step(number, authority);
        let rotation = authority.rotate().unwrap();
        assert!(authority.rotate().unwrap() == Rotation::default(), "what was done is done once");
        rotations += rotation.roots.len();
        renewals += usize::from(rotation.intermediate.is_some());
        let now = rig.now();
        living.retain(|issued| issued.not_after > now);
        carried.retain(|carried| carried.until > now);
        let bundle = authority.bundle();
        if carried.iter().all(|carried| carried.bundle.serial != bundle.serial) {
            for issued in &living {
                verified(&bundle, issued, now).unwrap();
            }
            assert!(carried.iter().all(|carried| carried.bundle.serial < bundle.serial));
            carried.push(Carried { bundle, until: now });
        }
        for greatest_age in [HOUR, DAY * 3, DAY * 90] {
            let issued = instance(&authority, greatest_age);
            assert!(issued.not_after >= now.plus(DAY), "at least the floor");
            for carried in &carried {
                verified(&carried.bundle, &issued, now).unwrap();
            }
            outlived_by_its_root(&carried.last().unwrap().bundle, &issued);
            let last = carried.last_mut().unwrap();
            last.until = last.until.max(issued.not_after);
            living.push(issued);
        }
        rig.set(now.plus(step));
    }
    (rotations, renewals)
}

/// As OpenSSL looks at it: the root must be valid too, for as long as the certificate is.
fn outlived_by_its_root(bundle: &Bundle, issued: &Issued) {
    let by = |root: &&CertificateDer<'static>| inspect::is_issued_by(&issued.chain[1], root).unwrap();
    let root = inspect::validity(bundle.roots.iter().find(by).unwrap()).unwrap();
    let above = inspect::validity(&issued.chain[1]).unwrap();
    assert!(above.not_after <= root.not_after && issued.not_after <= above.not_after);
    assert!(root.not_before <= above.not_before && above.not_before <= issued.not_before);
}

#[test]
fn whoever_lives_is_known_to_whoever_may_meet_them() {
    let made = live(&Rig::new(), HOUR * 7, |_, authority| authority);
    assert_eq!(made, (15, 27), "a root a period and two to begin with; two intermediates a period");
}

#[test]
fn restarts_and_outages_of_days_change_nothing_of_that() {
    let rig = Rig::new();
    live(&rig, HOUR * 11, |number, authority| {
        if number % 5 != 0 {
            return authority;
        }
        drop(authority);
        if number % 25 == 0 {
            // Nothing rotates for days, while instances live on.
            rig.set(rig.now().plus(DAY * 6));
        }
        rig.open()
    });
}

#[test]
fn what_is_over_is_taken_away_in_time() {
    let rig = Rig::new();
    let authority = rig.open();
    for _ in 0..36 {
        rig.set(rig.now().plus(DAY * 10));
        authority.rotate().unwrap();
    }
    rig.set(rig.now().plus(HOUR));
    authority.rotate().unwrap();
    let files = rig.files();
    let count = |prefix: &str| files.iter().filter(|name| name.starts_with(prefix)).count();
    assert_eq!(count("root-"), 2 * (3 + 8), "{files:?}");
    assert!((2 * 9..=2 * 11).contains(&count("node-")), "{files:?}");
}

#[test]
fn two_processes_on_one_directory_make_the_same() {
    let rig = Rig::new();
    let (former, successor) = (rig.open(), rig.open());
    for _ in 0..8 {
        rig.set(rig.now().plus(DAY * 8));
        former.rotate().unwrap();
        successor.rotate().unwrap();
        let (one, other) = (former.bundle(), successor.bundle());
        assert_eq!((one.serial, &one.roots), (other.serial, &other.roots));
        verified(&one, &instance(&successor, DAY), rig.now()).unwrap();
        assert_eq!(instance(&former, DAY).chain[1], instance(&successor, DAY).chain[1]);
    }
}

#[test]
fn an_authority_that_nobody_calls_rotates_when_it_issues() {
    let rig = Rig::new();
    let authority = rig.open();
    rig.set(START.plus(DAY * 70));
    let issued = instance(&authority, DAY);
    verified(&authority.bundle(), &issued, rig.now()).unwrap();
    let told = authority.rotate().unwrap();
    assert_eq!(told.roots.iter().map(|root| root.number).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(told.intermediate.map(|made| made.root), Some(2));
}
