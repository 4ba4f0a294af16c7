//! Version 1: one hierarchy for each controller.

use std::path::Path;

use super::{Setting, counter};
use crate::spec::Limits;

/// The period of a ceiling, in microseconds.
const PERIOD: u64 = 100_000;

/// What `controller` is given.
pub(super) fn settings(controller: &str, limits: &Limits) -> Vec<Setting> {
    match controller {
        "memory" => vec![
            Setting::written("memory.limit_in_bytes", limits.memory),
            // Absent where the kernel doesn't account swap: then there is nothing to limit.
            Setting::if_there("memory.memsw.limit_in_bytes", limits.memory),
        ],
        "pids" => vec![Setting::written("pids.max", limits.pids)],
        _ => {
            let shares = (u64::from(limits.cpu_millis) * 1024 / 1000).clamp(2, 262_144);
            let mut settings = vec![Setting::written("cpu.shares", shares)];
            if limits.cpu_max_millis > 0 {
                // The kernel allows no quota below a millisecond.
                let quota = (u64::from(limits.cpu_max_millis) * PERIOD / 1000).max(1000);
                settings.push(Setting::written("cpu.cfs_period_us", PERIOD));
                settings.push(Setting::written("cpu.cfs_quota_us", quota));
            } else {
                settings.push(Setting::untouched("cpu.cfs_quota_us", "-1"));
            }
            settings
        }
    }
}

/// How many processes were killed for want of memory.
pub(super) fn out_of_memory_kills(group: &Path) -> u64 {
    counter(&group.join("memory.oom_control"), "oom_kill")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(controller: &str, limits: &Limits, expected: &[(&str, &str, bool)]) {
        let settings = settings(controller, limits);
        let found: Vec<_> = settings.iter().map(|s| (s.file, s.value.as_str(), s.written)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn limits_are_written_as_the_kernel_reads_them() {
        let limits = Limits { memory: 64 << 20, pids: 32, cpu_millis: 500, cpu_max_millis: 1500 };
        let bytes = "67108864";
        let memory = [("memory.limit_in_bytes", bytes, true), ("memory.memsw.limit_in_bytes", bytes, true)];
        check("memory", &limits, &memory);
        check("pids", &limits, &[("pids.max", "32", true)]);
        let ceiling = [("cpu.cfs_period_us", "100000", true), ("cpu.cfs_quota_us", "150000", true)];
        check("cpu", &limits, &[&[("cpu.shares", "512", true)], &ceiling[..]].concat());
        // Without a ceiling the kernel's own stays; the smallest weight is 2.
        let tiny = Limits { cpu_millis: 1, cpu_max_millis: 0, ..limits };
        check("cpu", &tiny, &[("cpu.shares", "2", true), ("cpu.cfs_quota_us", "-1", false)]);
    }
}
