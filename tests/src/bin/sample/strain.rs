//! What brings an instance to its limits, and says how far it came.

use std::{
    fs::File,
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use rustix::time::{ClockId, clock_gettime};

/// Computes on four threads for so many milliseconds; how much time of a processor they had, in
/// milliseconds.
pub(super) fn burn(ms: u64) -> String {
    let used = || {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        time.tv_sec * 1_000 + time.tv_nsec / 1_000_000
    };
    let (before, over) = (used(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        super::pause(ms);
        over.store(true, Relaxed);
    });
    format!("{}\n", used() - before)
}

/// Opens so many files at once; how many it could, and what stopped it.
pub(super) fn files(number: u64) -> String {
    let mut open = Vec::new();
    for _ in 0..number {
        match File::open("/dev/null") {
            Ok(file) => open.push(file),
            Err(error) => return format!("{} {:?}\n", open.len(), error.raw_os_error()),
        }
    }
    format!("{}\n", open.len())
}

/// Starts so many threads at once; how many it could, and what stopped it.
pub(super) fn threads(number: u64) -> String {
    let over = Arc::new(AtomicBool::new(false));
    let mut running = Vec::new();
    let mut stopped = None;
    for _ in 0..number {
        let over = Arc::clone(&over);
        let wait = move || {
            while !over.load(Relaxed) {
                super::pause(10);
            }
        };
        match std::thread::Builder::new().stack_size(64 << 10).spawn(wait) {
            Ok(thread) => running.push(thread),
            Err(error) => {
                stopped = error.raw_os_error();
                break;
            }
        }
    }
    over.store(true, Relaxed);
    let count = running.len();
    running.into_iter().for_each(|thread| drop(thread.join()));
    format!("{count} {stopped:?}\n")
}

/// Writes so many MiB to `/tmp`; how many it could, and what stopped it.
pub(super) fn fill(mib: u64) -> String {
    let block = vec![7_u8; 1 << 20];
    let said = match File::create("/tmp/fill") {
        Ok(mut file) => (0..mib)
            .find_map(|done| Some(format!("{done} {:?}", file.write_all(&block).err()?.raw_os_error())))
            .unwrap_or_else(|| format!("{mib}")),
        Err(error) => error.to_string(),
    };
    drop(std::fs::remove_file("/tmp/fill"));
    said + "\n"
}
