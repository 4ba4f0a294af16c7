//! What keeps an instance in, part by part, so that a test can leave a part out and show that it is this
//! one that stops an attempt to get out.
//!
//! Only a build with debug assertions can leave anything out. In a release `Without` has no content:
//! the compiler takes every question about it away, and a keeper that is told of one doesn't read it.

use serde::{Deserialize, Serialize};

/// One of the things that keep an instance in. What belongs to the network (rules, routes, checks of
/// addresses) isn't among them: a test takes that away in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protection {
    /// The filter of system calls.
    Seccomp,
    /// All capabilities but six are given up.
    Capabilities,
    /// No program gives more rights than its caller has.
    NoNewPrivileges,
    /// Root inside is nobody outside.
    UserNamespace,
    /// Only its own processes have numbers. Without it `/proc` is the host's, unmasked.
    PidNamespace,
    /// A network of its own.
    NetworkNamespace,
    /// Shared memory, semaphores and message queues of its own.
    IpcNamespace,
    /// Its control group is the top of the tree.
    CgroupNamespace,
    /// The host's tree is left. Without this it is at `/host`, which the image must have.
    OwnTree,
    /// The root file system is read-only.
    ReadOnlyRoot,
    /// No set-user-id bits and file capabilities in the root file system.
    NoSetuid,
    /// No device nodes in the root file system and `/tmp`.
    NoDevices,
    /// What of `/proc` acts on the host is read-only or hidden.
    MaskedProc,
    /// A session keyring of its own.
    SessionKeyring,
    /// No core dumps.
    NoCoreDumps,
    /// The keeper's descriptors are closed. Without this they stay open in the program too.
    ClosedDescriptors,
    /// The memory and the descriptors of the first process can't be looked into.
    HiddenInit,
}

/// What is left out of a sandbox: nothing, but in tests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Without {
    #[cfg(debug_assertions)]
    list: std::collections::BTreeSet<Protection>,
}

#[cfg(not(debug_assertions))]
const _: () = assert!(size_of::<Without>() == 0, "nothing may be left out in a release");

impl Without {
    /// These are left out.
    #[cfg(debug_assertions)]
    pub(crate) fn these(list: &[Protection]) -> Self {
        Self { list: list.iter().copied().collect() }
    }

    /// Whether this one is left out.
    #[inline]
    pub(crate) fn leaves_out(&self, protection: Protection) -> bool {
        #[cfg(debug_assertions)]
        return self.list.contains(&protection);
        #[cfg(not(debug_assertions))]
        {
            let _ = protection;
            false
        }
    }

    /// Whether everything is in force.
    pub(crate) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_out_unless_it_is_named() {
        let without = Without::these(&[Protection::Seccomp]);
        assert!(without.leaves_out(Protection::Seccomp) && !without.leaves_out(Protection::Capabilities));
        assert!(!without.is_nothing() && Without::default().is_nothing());
        let told: Without = serde_json::from_str("{\"list\":[\"Seccomp\"]}").unwrap();
        assert_eq!(told, without);
    }

    /// With the assertion above, which every release compiles: no profile of a release has debug
    /// assertions, and the type can hold nothing there.
    #[test]
    fn no_profile_turns_debug_assertions_on() {
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml");
        let manifest = std::fs::read_to_string(manifest).unwrap();
        assert!(manifest.contains("[profile.release]") && !manifest.contains("debug-assertions"));
    }
}
