//! The certificate that an instance has for its life: what is known of it, and when the instance is to be
//! replaced. Pure, but for its being issued: nothing here reads a clock.

mod issue;

use minato_model::{ids::InstanceId, inventory, time::Moment};
use serde::{Deserialize, Serialize};

pub(crate) use issue::{Issuer, certify};

use crate::recycle::jitter;

/// What is known of an instance's certificate, by this server and the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Certified {
    pub(crate) serial: String,
    pub(crate) not_before: Moment,
    pub(crate) not_after: Moment,
}

impl Certified {
    /// Whether its instance is to be replaced: past two thirds of its life, or up to 15 % of that sooner, so
    /// that those that began together don't end together.
    pub(crate) fn is_due(&self, id: &InstanceId, now: Moment) -> bool {
        self.over(now, 3_000) >= 2 * i64::from(jitter(id))
    }

    /// Whether half of what was left then is over too.
    pub(crate) fn presses(&self, now: Moment) -> bool {
        self.over(now, 6) >= 5
    }

    /// How much of its life is over, in `parts` of it.
    fn over(&self, now: Moment, parts: i64) -> i64 {
        let life = self.not_after.0.saturating_sub(self.not_before.0).max(1);
        now.0.saturating_sub(self.not_before.0).saturating_mul(parts) / life
    }

    /// As others see it.
    pub(crate) fn seen(&self) -> inventory::Identity {
        inventory::Identity { serial: self.serial.clone(), not_after: self.not_after }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_due_past_two_thirds_and_none_sooner_than_by_its_jitter() {
        const HOUR: i64 = 3_600_000;
        let start = 1_800_000_000_000;
        let certified = Certified {
            serial: "1".to_owned(),
            not_before: Moment(start - HOUR),
            not_after: Moment(start + 23 * HOUR),
        };
        let at = |hours: i64| Moment(start + hours * HOUR);
        let ids: Vec<InstanceId> = (0..200).map(|n| format!("a{n}").parse().unwrap()).collect();
        let due = |hours| ids.iter().filter(|id| certified.is_due(id, at(hours))).count();
        assert_eq!((due(0), due(12), due(15)), (0, 0, 200));
        assert!((50..150).contains(&due(14)), "{}", due(14));
        assert!(!certified.presses(at(18)) && certified.presses(at(19)));
        // Expired long ago, not valid yet, and without any life.
        assert!(certified.is_due(&ids[0], Moment(i64::MAX)) && certified.presses(Moment(i64::MAX)));
        assert!(!certified.is_due(&ids[0], Moment(0)));
        let none = Certified { not_before: at(0), not_after: at(0), ..certified };
        assert!(none.is_due(&ids[0], at(1)) && !none.is_due(&ids[0], at(-1)));
    }
}
