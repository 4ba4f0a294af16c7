//! Into an instance's network namespace and out again.
//!
//! A socket belongs for life to the namespace that its thread was in when it was made (`network_namespaces(7)`), so
//! a thread has to be there for that one call only.

use std::{cell::OnceCell, fs::File, io, os::fd::AsFd};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

thread_local! {
    /// Where this thread belongs.
    static HOME: OnceCell<File> = const { OnceCell::new() };
}

/// Does something inside a network namespace.
pub(crate) fn within<T>(namespace: impl AsFd, what: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    HOME.with(|home| {
        let home = match home.get() {
            Some(home) => home,
            None => {
                let opened = File::open("/proc/thread-self/ns/net")?;
                home.get_or_init(|| opened)
            }
        };
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        let done = what();
        if let Err(error) = move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Network)) {
            tracing::error!(%error, "an edge thread can't leave an instance's network");
            // What it did next would be done as the instance: better that the process is started anew.
            std::process::abort();
        }
        done
    })
}
