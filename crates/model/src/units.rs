//! Durations and sizes as a manifest writes them: `"250ms"`, `"30s"`, `"5m"`, `"2h"`, `"180d"`; `"64MiB"`.

use std::time::Duration;

/// Why a duration or a size was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUnit {
    /// It isn't a duration.
    #[error("`{0}` is no duration: write a whole number and ms, s, m, h or d, such as \"30s\"")]
    Duration(String),
    /// It isn't a size.
    #[error("`{0}` is no size: write a whole number and B, KiB, MiB, GiB or TiB, such as \"64MiB\"")]
    Size(String),
}

fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit))
}

/// Reads a duration. At most 10 years.
///
/// # Errors
/// When it isn't a whole number followed by a unit.
pub fn duration(text: &str) -> Result<Duration, InvalidUnit> {
    let read = || {
        let (number, unit) = split(text)?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        number.checked_mul(millis).filter(|millis| *millis <= 3_650 * 86_400_000)
    };
    read().map(Duration::from_millis).ok_or_else(|| InvalidUnit::Duration(text.chars().take(40).collect()))
}

/// Reads a size, in bytes. At most 1,024 TiB.
///
/// # Errors
/// When it isn't a whole number followed by a unit.
pub fn size(text: &str) -> Result<u64, InvalidUnit> {
    let read = || {
        let (number, unit) = split(text)?;
        let shift = match unit {
            "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            "TiB" => 40,
            _ => return None,
        };
        number.checked_mul(1 << shift).filter(|bytes| *bytes <= 1 << 50)
    };
    read().ok_or_else(|| InvalidUnit::Size(text.chars().take(40).collect()))
}

/// Writes a duration as a manifest would, in the largest unit that loses nothing.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    units.into_iter().find(|(unit, _)| millis > 0 && millis.is_multiple_of(*unit)).map_or_else(
        || if millis == 0 { "0s".to_owned() } else { format!("{millis}ms") },
        |(unit, name)| format!("{}{name}", millis / unit),
    )
}

/// Writes a size as a manifest would, in the largest unit that loses nothing.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    units
        .into_iter()
        .find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1 << shift))
        .map_or_else(|| format!("{bytes}B"), |(shift, name)| format!("{}{name}", bytes >> shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_alike() {
        for (text, millis) in
            [("250ms", 250), ("30s", 30_000), ("5m", 300_000), ("2h", 7_200_000), ("180d", 15_552_000_000)]
        {
            let read = duration(text).unwrap();
            assert_eq!(read.as_millis(), millis, "{text}");
            assert_eq!(show_duration(read), text);
        }
        for bad in ["", "30", "s", "1.5s", "-1s", "30 s", "5min", "9999999999999999999s", "99999d"] {
            assert_eq!(duration(bad), Err(InvalidUnit::Duration(bad.to_owned())));
        }
    }

    #[test]
    fn sizes_are_read_and_written_alike() {
        for (text, bytes) in [("0B", 0), ("64MiB", 67_108_864), ("10GiB", 10_737_418_240), ("1023B", 1_023)] {
            let read = size(text).unwrap();
            assert_eq!(read, bytes, "{text}");
            assert_eq!(show_size(read), text);
        }
        for bad in ["", "64", "64MB", "64mib", "-1B", "99999999999TiB"] {
            assert_eq!(size(bad), Err(InvalidUnit::Size(bad.to_owned())));
        }
    }
}
