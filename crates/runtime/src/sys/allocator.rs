//! The allocator's one setting that has no safe wrapper.

use std::{
    ffi::{c_int, c_long},
    fs,
};

// Links it.
use libmimalloc_sys as _;

/// `mi_option_purge_delay`: for how many milliseconds memory that was freed is held.
const PURGE_DELAY: c_int = 15;

unsafe extern "C" {
    /// Sets an option, unless the environment did.
    fn mi_option_set_default(option: c_int, value: c_long);
}

/// Memory that was freed goes back to the system after so many milliseconds, unless the environment says
/// otherwise. Without effect once there are other threads, which read the setting without a lock.
pub(crate) fn hold_freed_memory(milliseconds: u16) {
    let alone = fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1);
    if alone {
        // SAFETY: the option exists, nothing is passed by pointer, and no other thread reads meanwhile.
        unsafe { mi_option_set_default(PURGE_DELAY, milliseconds.into()) }
    }
}
