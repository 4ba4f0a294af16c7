//! What `/proc` says of the machine, of Minato's own processes and of parked sandboxes.

use std::{collections::BTreeSet, fs, path::PathBuf};

use minato_model::top::{KernelObjects, Machine, Pool, Process};

/// Parked sandboxes that are measured one by one; what more there are is reckoned from these.
const MEASURED_MAX: usize = 16;
/// The unit in which the kernel tells processor time to every program (`USER_HZ`): a hundredth of a
/// second.
const TICK_MICROS: u64 = 10_000;

/// A process and what it has used since it began.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub(super) process: Process,
    pub(super) cpu_micros: u64,
}

/// The machine.
pub(super) fn machine() -> Machine {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut load = load.split(' ').map(|mean| mean.parse().unwrap_or(0.0));
    let mut next = || load.next().unwrap_or(0.0);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    Machine {
        cores: std::thread::available_parallelism().map_or(1, |cores| count(cores.get())),
        load: [next(), next(), next()],
        memory: kilobytes(&memory, "MemTotal:"),
        memory_available: kilobytes(&memory, "MemAvailable:"),
    }
}

/// A process; `None`: it is gone.
pub(super) fn counted(pid: u32) -> Option<Counted> {
    let stat = fs::read_to_string(of(pid, "stat")).ok()?;
    let process = Process { pid, pss: pss(pid)?, cpu: None, descriptors: entries(pid, "fd") };
    Some(Counted { process, cpu_micros: ticks(&stat)?.saturating_mul(TICK_MICROS) })
}

/// What parked sandboxes hold, whose control groups lie below one with this in its path.
pub(super) fn parked(pids: &[u32], group: &str) -> Pool {
    let own = namespaces(std::process::id());
    let (mut memory, mut kernel, mut measured) = (0, KernelObjects::default(), 0);
    // One that was taken just now isn't parked any more, but weighs nearly the same.
    for pid in pids.iter().take(MEASURED_MAX) {
        let Some(first) = pss(*pid) else { continue };
        // The process that becomes the program.
        let ahead = children(*pid);
        memory += first + ahead.iter().copied().filter_map(pss).sum::<u64>();
        measured += 1;
        let mut one = objects(*pid, &own, group);
        one.processes += count(ahead.len());
        one.descriptors += ahead.iter().map(|pid| entries(*pid, "fd")).sum::<u32>();
        add(&mut kernel, &one);
    }
    let Some(each) = u64::checked_div(memory, measured) else { return Pool::default() };
    let all = pids.len() as u64;
    let scaled =
        |number: u32| count(usize::try_from(u64::from(number) * all / measured).unwrap_or(usize::MAX));
    let kernel = KernelObjects {
        processes: scaled(kernel.processes),
        namespaces: scaled(kernel.namespaces),
        links: scaled(kernel.links),
        cgroup_directories: scaled(kernel.cgroup_directories),
        mounts: scaled(kernel.mounts),
        descriptors: scaled(kernel.descriptors),
    };
    Pool { memory: each * all, memory_each: each, kernel, ..Pool::default() }
}

fn add(sum: &mut KernelObjects, one: &KernelObjects) {
    sum.processes += one.processes;
    sum.namespaces += one.namespaces;
    sum.links += one.links;
    sum.cgroup_directories += one.cgroup_directories;
    sum.mounts += one.mounts;
    sum.descriptors += one.descriptors;
}

/// What one sandbox has in the kernel.
fn objects(pid: u32, own: &BTreeSet<PathBuf>, group: &str) -> KernelObjects {
    let lines = |name: &str| fs::read_to_string(of(pid, name)).unwrap_or_default().lines().count();
    // Two lines of heading; and the host's end of the pair that leads inside.
    let inside = lines("net/dev").saturating_sub(2);
    let groups = fs::read_to_string(of(pid, "cgroup")).unwrap_or_default();
    KernelObjects {
        processes: 1,
        namespaces: count(namespaces(pid).difference(own).count()),
        links: count(if inside > 1 { inside + 1 } else { inside }),
        cgroup_directories: count(groups.lines().filter(|line| line.contains(group)).count()),
        mounts: count(lines("mountinfo")),
        descriptors: entries(pid, "fd"),
    }
}

fn of(pid: u32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{name}"))
}

fn entries(pid: u32, folder: &str) -> u32 {
    fs::read_dir(of(pid, folder)).map_or(0, |entries| count(entries.count()))
}

fn namespaces(pid: u32) -> BTreeSet<PathBuf> {
    let Ok(entries) = fs::read_dir(of(pid, "ns")) else { return BTreeSet::new() };
    entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()).collect()
}

/// The processes that the first thread of one has made; none where the kernel doesn't tell.
fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(of(pid, &format!("task/{pid}/children"))).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Its memory in bytes, shared pages in parts; `None`: it is gone.
fn pss(pid: u32) -> Option<u64> {
    Some(kilobytes(&fs::read_to_string(of(pid, "smaps_rollup")).ok()?, "Pss:"))
}

/// The bytes behind a name in a file of `name number kB` lines; 0 if it isn't there.
fn kilobytes(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    number.unwrap_or(0).saturating_mul(1_024)
}

/// The ticks that a process spent, in itself and in the kernel (proc(5): fields 14 and 15).
fn ticks(stat: &str) -> Option<u64> {
    // The name in parentheses may hold anything; field 3 follows the last one.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11).map(str::parse::<u64>);
    let (user, system) = (fields.next()?.ok()?, fields.next()?.ok()?);
    Some(user.saturating_add(system))
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "7 (a) b (c) ) S 1 7 7 0 -1 4194304 100 0 0 0 12 30 0 0 20 0 1 0 5 6";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("7 (a) S"), None);
    }

    #[test]
    fn this_process_is_measured() {
        let own = counted(std::process::id()).unwrap();
        assert!(own.process.pss > 100 << 10 && own.process.descriptors >= 3, "{own:?}");
        let machine = machine();
        assert!(machine.cores >= 1 && machine.memory > machine.memory_available, "{machine:?}");
        assert!(counted(u32::MAX).is_none());
    }

    #[test]
    fn what_is_parked_is_reckoned_from_some_of_it() {
        let pid = std::process::id();
        let pool = parked(&[pid; 40], "no such group");
        assert_eq!(pool.kernel.processes, 40);
        assert_eq!((pool.kernel.namespaces, pool.kernel.cgroup_directories), (0, 0));
        assert_eq!(pool.memory, pool.memory_each * 40);
        assert_eq!(parked(&[], "none"), Pool::default());
        assert_eq!(parked(&[u32::MAX], "none"), Pool::default());
    }
}
