//! Version 1: one hierarchy for each controller.

use std::{io, path::Path};

use super::{counter, write};
use crate::spec::Limits;

/// The period of a ceiling, in microseconds.
const PERIOD: u64 = 100_000;

/// Sets what `controller` limits.
pub(super) fn limit(controller: &str, group: &Path, limits: &Limits) -> io::Result<()> {
    match controller {
        "memory" => {
            write(&group.join("memory.limit_in_bytes"), &limits.memory.to_string())?;
            // Absent where the kernel doesn't account swap: then there is nothing to limit.
            let swap = group.join("memory.memsw.limit_in_bytes");
            if swap.exists() { write(&swap, &limits.memory.to_string()) } else { Ok(()) }
        }
        "pids" => write(&group.join("pids.max"), &limits.pids.to_string()),
        _ => {
            let shares = (u64::from(limits.cpu_millis) * 1024 / 1000).clamp(2, 262_144);
            write(&group.join("cpu.shares"), &shares.to_string())?;
            if limits.cpu_max_millis > 0 {
                // The kernel allows no quota below a millisecond.
                let quota = (u64::from(limits.cpu_max_millis) * PERIOD / 1000).max(1000);
                write(&group.join("cpu.cfs_period_us"), &PERIOD.to_string())?;
                write(&group.join("cpu.cfs_quota_us"), &quota.to_string())?;
            }
            Ok(())
        }
    }
}

/// How many processes were killed for want of memory.
pub(super) fn out_of_memory_kills(group: &Path) -> u64 {
    counter(&group.join("memory.oom_control"), "oom_kill")
}
