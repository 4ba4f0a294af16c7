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
