//! Taking ports, before anything else is touched.

use std::net::{SocketAddr, TcpListener};

use anyhow::Context as _;

/// Takes a port, or says who can't have it and what to do. `flag` is what chooses another.
pub(super) fn take(address: SocketAddr, what: &str, flag: &str) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).with_context(|| not_listening(address, what, flag))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Says so, and what to do.
pub(super) fn not_listening(address: SocketAddr, what: &str, flag: &str) -> String {
    format!(
        "can't listen on {address} for {what}; stop what has it (`ss -ltnp`), or choose another with {flag}"
    )
}
