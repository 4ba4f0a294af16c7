//! How long roots, intermediates and certificates live: decided once, and scaled as a whole.

use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// How long what lives. A root lives three periods, an intermediate one; all of it by one scale, so that a
/// rotation of months can be watched in minutes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lifetimes {
    scale: f64,
}

/// A scale that isn't above 0 and at most 1.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("a scale of lifetimes is above 0, at least {min} here, and at most 1; this is {scale}", min = Lifetimes::SCALE_MIN)]
pub struct InvalidScale {
    /// What was given.
    pub scale: f64,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self { scale: 1.0 }
    }
}

impl Lifetimes {
    /// Below it a period has less than 26 seconds, and X.509 knows whole seconds only.
    pub const SCALE_MIN: f64 = 0.000_01;

    /// Everything multiplied by this.
    ///
    /// # Errors
    /// Not above 0, or above 1.
    pub fn scaled(scale: f64) -> Result<Self, InvalidScale> {
        if (Self::SCALE_MIN..=1.0).contains(&scale) {
            Ok(Self { scale })
        } else {
            Err(InvalidScale { scale })
        }
    }

    /// For how long a root signs: 30 days. It is published for one period before, and kept for one after.
    #[must_use]
    pub fn period(&self) -> Duration {
        self.of(DAY * 30)
    }

    /// The shortest life of an instance's certificate: 24 hours.
    #[must_use]
    pub fn floor(&self) -> Duration {
        self.of(DAY)
    }

    /// How far before now a certificate begins, for who has a clock that is behind: an hour.
    #[must_use]
    pub fn back(&self) -> Duration {
        self.of(HOUR)
    }

    /// How long the certificate of an instance lives that gets this old: three times that, so that two
    /// thirds are left when the instance is recycled, and at least [`Self::floor`]. The authority cuts it
    /// at the end of what signs it.
    #[must_use]
    pub fn instance(&self, greatest_age: Duration) -> Duration {
        self.of(greatest_age.saturating_mul(3).max(DAY).min(DAY * 30))
    }

    /// How often to look whether something is due.
    #[must_use]
    pub fn look(&self) -> Duration {
        (self.period() / 200).min(Duration::from_secs(60))
    }

    fn of(&self, duration: Duration) -> Duration {
        duration.mul_f64(self.scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_scaled_alike() {
        let whole = Lifetimes::default();
        assert_eq!(whole.instance(HOUR), DAY);
        assert_eq!(whole.instance(DAY), DAY * 3);
        assert_eq!(whole.instance(Duration::MAX), whole.period(), "at most what an intermediate lives");
        let tenth = Lifetimes::scaled(0.1).unwrap();
        for life in [Lifetimes::period, Lifetimes::floor, Lifetimes::back, |l: &Lifetimes| l.instance(DAY)] {
            let ratio = life(&tenth).as_secs_f64() / life(&whole).as_secs_f64();
            assert!((ratio - 0.1).abs() < 1e-9, "{ratio}");
        }
    }

    #[test]
    fn scales_that_mean_nothing_are_refused() {
        for scale in [0.0, -1.0, 1.000_1, f64::NAN, f64::INFINITY, 1e-9] {
            assert!(Lifetimes::scaled(scale).is_err(), "{scale}");
        }
    }
}
