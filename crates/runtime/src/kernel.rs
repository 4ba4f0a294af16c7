//! Whether this machine can run instances, asked once when a server starts.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags, open},
    process::{WaitId, WaitIdOptions, geteuid, waitid},
};

use crate::{cgroup::Hierarchies, ids, mounts, sys};

/// What the machine lacks, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Missing {
    /// What is missing.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

fn missing(what: impl Into<String>, hint: impl Into<String>) -> Missing {
    Missing { what: what.into(), hint: hint.into() }
}

/// Tries what instances need: root, control groups, user namespaces, binds with mapped ids on the file
/// system of `data`, which must be there.
///
/// # Errors
/// The first thing that is missing.
pub fn check_kernel(data: &Path) -> Result<(), Missing> {
    if !geteuid().is_root() {
        let line = std::env::args().collect::<Vec<_>>().join(" ");
        return Err(missing("instances can only be started by root", format!("run it as root: sudo {line}")));
    }
    check_cgroups()?;
    let holder = Holder::new().map_err(|error| {
        missing(
            format!("user namespaces can't be made: {error}"),
            "use Linux 5.12 or newer with CONFIG_USER_NS, and set the sysctl user.max_user_namespaces above 0",
        )
    })?;
    mounts::prepare_root(data, holder.namespace.as_fd()).map(drop).map_err(|error| {
        missing(
            format!("the file system of {} can't map user ids: {error}", data.display()),
            "put the data directory on ext4, xfs or btrfs (with --data), and use Linux 5.15 or newer",
        )
    })
}

fn check_cgroups() -> Result<(), Missing> {
    let mount = "mount control groups version 2 at /sys/fs/cgroup, or version 1 with memory, cpu and pids";
    let hierarchies = Hierarchies::find()
        .map_err(|error| missing(format!("/proc/self/mountinfo can't be read: {error}"), "mount /proc"))?;
    if let Some(controller) = hierarchies.lacks() {
        return Err(missing(format!("there is no control group for `{controller}`"), mount));
    }
    hierarchies.try_root().map_err(|(path, error)| {
        missing(
            format!("control groups can't be made in {}: {error}", path.display()),
            "in a container: run it with --privileged and the host's control groups (--cgroupns=host)",
        )
    })
}

/// A user namespace to try things with.
struct Holder {
    pidfd: OwnedFd,
    namespace: OwnedFd,
}

impl Holder {
    fn new() -> io::Result<Self> {
        let (pid, pidfd) = sys::fork_holder()?;
        let prepared = (|| {
            // Any range will do: nothing is ever owned by it.
            let map = format!("0 {} {}\n", 0x7000_0000, ids::RANGE);
            fs::write(format!("/proc/{pid}/uid_map"), &map)?;
            fs::write(format!("/proc/{pid}/gid_map"), &map)?;
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            Ok::<_, io::Error>(open(format!("/proc/{pid}/ns/user"), flags, Mode::empty())?)
        })();
        match prepared {
            Ok(namespace) => Ok(Self { pidfd, namespace }),
            Err(error) => {
                end(&pidfd);
                Err(error)
            }
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        end(&self.pidfd);
    }
}

fn end(pidfd: &OwnedFd) {
    // Both can fail only if it is gone.
    sys::pidfd_signal(pidfd.as_fd(), libc::SIGKILL).ok();
    waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_run_instances() {
        let data = tempfile::tempdir().unwrap();
        assert_eq!(check_kernel(data.path()), Ok(()));
    }

    #[test]
    fn a_file_system_without_mapped_ids_is_named() {
        let missing = check_kernel(Path::new("/proc")).unwrap_err();
        assert!(missing.what.contains("/proc can't map user ids"), "{missing}");
    }
}
