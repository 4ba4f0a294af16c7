//! Who is to be renewed, and why: routine, decided by what an instance has carried, how old it is and
//! what it holds. Pure: nothing here reads a clock.
//!
//! Each instance has a jitter of its own, drawn from its id: it is renewed between 85 and 100 % of
//! each bound, so that those that began together don't end together.

use std::time::Duration;

use minato_model::{ids::InstanceId, manifest::Recycle};

/// An instance has too much in flight only if it has for so long: a moment says nothing.
const CROWDED: Duration = Duration::from_secs(10);
/// Growth below this is no growth, whatever share of a small program's memory it is.
const GROWTH_MIN: u64 = 8 << 20;

/// Why an instance is renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// It has served as many requests as it is meant to.
    Requests,
    /// It is as old as it is meant to become.
    Age,
    /// It has far more in flight than its siblings.
    InFlight,
    /// It holds far more memory than at first.
    Memory,
    /// Its certificate is past two thirds of its life.
    Identity,
    /// Something about it was changed by hand.
    Drifted,
    /// It accepts requests and answers none.
    Stuck,
    /// It fails what it is asked, and each request that the edge tries it with again.
    Failing,
    /// It is out of routing, and holds far more memory than at first.
    Leaking,
    /// It has been out of routing for too long.
    Unhealthy,
}

impl Why {
    /// As metrics and events name it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Age => "age",
            Self::InFlight => "in_flight",
            Self::Memory => "memory_growth",
            Self::Identity => "identity",
            Self::Drifted => "drifted",
            Self::Stuck => "stuck",
            Self::Failing => "failing",
            Self::Leaking => "leaking",
            Self::Unhealthy => "unhealthy",
        }
    }

    /// Every one.
    pub(crate) const ALL: [Self; 10] = [
        Self::Requests,
        Self::Age,
        Self::InFlight,
        Self::Memory,
        Self::Identity,
        Self::Drifted,
        Self::Stuck,
        Self::Failing,
        Self::Leaking,
        Self::Unhealthy,
    ];

    /// Routine always starts the replacement first; repair doesn't.
    pub(crate) fn is_routine(self) -> bool {
        self.waits() || matches!(self, Self::Identity)
    }

    /// Routine waits for a good moment, unless there is an identity to lose.
    pub(crate) fn waits(self) -> bool {
        matches!(self, Self::Requests | Self::Age | Self::InFlight | Self::Memory)
    }

    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Requests => "it has served its number of requests and is renewed",
            Self::Age => "it has reached its age and is renewed",
            Self::InFlight => "it has far more in flight than its siblings and is renewed",
            Self::Memory => "its memory has grown far above what it began with and it is renewed",
            Self::Identity => "its certificate is past two thirds of its life and it is renewed",
            Self::Drifted => "something about it was changed by hand and it is replaced",
            Self::Stuck => "it accepts requests and answers none and is replaced",
            Self::Failing => "it fails requests, probes after a pause too, and is replaced",
            Self::Leaking => "it is unhealthy and its memory has grown and it is replaced",
            Self::Unhealthy => "it stayed unhealthy and is replaced",
        }
    }
}

/// What an instance has behind it.
#[derive(Debug, Clone)]
pub(crate) struct Wear<'a> {
    pub(crate) id: &'a InstanceId,
    /// Requests it was given.
    pub(crate) requests: u64,
    /// How long ago its start began.
    pub(crate) age: Duration,
    /// How long it has had too much in flight.
    pub(crate) crowded: Duration,
    /// Its memory now and at first, once both were measured.
    pub(crate) memory: Option<(u64, u64)>,
}

/// Why an instance should be renewed, if it should.
pub(crate) fn worn(wear: &Wear<'_>, policy: &Recycle) -> Option<Why> {
    let jitter = jitter(wear.id);
    let requests = policy.requests.saturating_mul(u64::from(jitter)) / 1_000;
    let age = policy.age.saturating_mul(jitter) / 1_000;
    let grown = |(now, first)| has_grown(now, first, policy.memory_growth_millis);
    if policy.requests > 0 && wear.requests >= requests.max(1) {
        Some(Why::Requests)
    } else if !age.is_zero() && wear.age >= age {
        Some(Why::Age)
    } else if wear.memory.is_some_and(grown) {
        Some(Why::Memory)
    } else if wear.crowded >= CROWDED {
        Some(Why::InFlight)
    } else {
        None
    }
}

/// From 850 to 1,000 thousandths, always the same for an instance (FNV-1a of its id).
pub(crate) fn jitter(id: &InstanceId) -> u32 {
    let mix = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    1_000 - id.as_str().bytes().fold(0x811c_9dc5, mix) % 151
}

/// Whether an instance has too much in flight: `factor` (in thousandths) times the median of its ready
/// siblings, of which there is one at least, and half of what it is meant to hold.
pub(crate) fn is_crowded(own: u32, siblings: &mut [u32], factor: u32, concurrency: u32) -> bool {
    if factor == 0 || siblings.is_empty() || own < (concurrency / 2).max(2) {
        return false;
    }
    siblings.sort_unstable();
    let middle = |index: usize| siblings.get(index).copied().map_or(0, u64::from);
    let twice = middle(siblings.len() / 2) + middle((siblings.len() - 1) / 2);
    u64::from(own) * 2_000 >= u64::from(factor) * twice
}

/// Whether memory has grown by this many thousandths of what it was at first.
pub(crate) fn has_grown(now: u64, first: u64, thousandths: u32) -> bool {
    let bound = first.saturating_add(first.saturating_mul(u64::from(thousandths)) / 1_000);
    thousandths > 0 && now >= bound && now.saturating_sub(first) >= GROWTH_MIN
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn check(requests: u64, age: u64, crowded: u64, memory: Option<(u64, u64)>) -> Option<Why> {
        let id = "a1".parse().unwrap();
        let (age, crowded) = (Duration::from_secs(age), Duration::from_secs(crowded));
        worn(&Wear { id: &id, requests, age, crowded, memory }, &Recycle::default())
    }

    #[test]
    fn each_bound_renews() {
        assert_eq!(check(849_999, 6_119, 9, Some((29 * MIB, 20 * MIB))), None);
        assert_eq!(check(1_000_000, 0, 0, None), Some(Why::Requests));
        assert_eq!(check(0, 7_200, 0, None), Some(Why::Age));
        assert_eq!(check(0, 0, 10, None), Some(Why::InFlight));
        assert_eq!(check(0, 0, 0, Some((30 * MIB, 20 * MIB))), Some(Why::Memory));
        // Half as much again, but hardly anything.
        assert_eq!(check(0, 0, 0, Some((3 * MIB, MIB))), None);
    }

    #[test]
    fn a_bound_that_is_off_renews_nobody() {
        let id = "a1".parse().unwrap();
        let never = Recycle {
            requests: 0,
            age: Duration::from_secs(1_000_000),
            in_flight_millis: 0,
            memory_growth_millis: 0,
        };
        let memory = Some((900 * MIB, MIB));
        let wear = Wear { id: &id, requests: u64::MAX, age: Duration::ZERO, crowded: Duration::ZERO, memory };
        assert_eq!(worn(&wear, &never), None);
        assert!(!is_crowded(1_000, &mut [1], 0, 10));
    }

    #[test]
    fn each_instance_has_its_own_jitter_and_keeps_it() {
        let id = |n: u32| format!("a{n}").parse::<InstanceId>().unwrap();
        let all: Vec<u32> = (0..1_000).map(|n| jitter(&id(n))).collect();
        assert!(all.iter().all(|jitter| (850..=1_000).contains(jitter)));
        let (low, high) = (all.iter().min().unwrap(), all.iter().max().unwrap());
        assert!(*low < 860 && *high > 990, "{low} {high}");
        assert_eq!(jitter(&id(7)), all[7]);
        let mean = all.iter().sum::<u32>() / 1_000;
        assert!((915..=935).contains(&mean), "{mean}");
    }

    #[test]
    fn in_flight_is_measured_by_the_siblings() {
        assert!(is_crowded(20, &mut [9, 10, 30], 2_000, 32));
        assert!(!is_crowded(19, &mut [9, 10, 30], 2_000, 32));
        // The median of two is between them.
        assert!(is_crowded(20, &mut [12, 8], 2_000, 32));
        assert!(!is_crowded(20, &mut [13, 8], 2_000, 32));
        // Alone, or with less than half of what it is meant to hold.
        assert!(!is_crowded(100, &mut [], 2_000, 32));
        assert!(!is_crowded(15, &mut [0, 0], 2_000, 32));
        assert!(is_crowded(16, &mut [0, 0], 2_000, 32));
    }
}
