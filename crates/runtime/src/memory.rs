//! What the process holds of the memory that it freed.

use crate::sys;

/// Has what is freed given back to the system at once, where the process allocates with mimalloc.
///
/// By itself it waits a second, in which a burst takes fresh pages while the freed ones still count as held.
/// To be called first thing: it does nothing once there are other threads. `MIMALLOC_PURGE_DELAY` goes
/// before it.
pub fn give_back_at_once() {
    sys::hold_freed_memory(0);
}
