//! What root inside an instance may do: six things that a stock server needs, and no more.

use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities};

/// They act on what the instance's own user namespace owns.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::NET_BIND_SERVICE);

/// Takes every other capability away for ever, from what is executed later too. A user other than
/// root loses the six as well, by the kernel's own rule, when the ids are changed.
pub(crate) fn restrict() -> io::Result<()> {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if KEPT.contains(capability) {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            // Past the last one that this kernel knows.
            Err(rustix::io::Errno::INVAL) => break,
            result => result?,
        }
    }
    reduce()
}

/// Takes every other capability away from this process, which executes nothing any more.
pub(crate) fn reduce() -> io::Result<()> {
    let sets = CapabilitySets { effective: KEPT, permitted: KEPT, inheritable: CapabilitySet::empty() };
    Ok(set_capabilities(None, sets)?)
}
