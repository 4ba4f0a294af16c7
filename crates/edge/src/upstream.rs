//! Connections to instances, kept per edge thread and instance: the edge's own client of HTTP/1.1, and in
//! `http2` hyper's of HTTP/2.

pub(crate) mod connection;
pub(crate) mod door;
pub(crate) mod exchange;
pub(crate) mod framing;
pub(crate) mod head;
pub(crate) mod http2;
pub(crate) mod io;
pub(crate) mod pool;
pub(crate) mod session;
pub(crate) mod tls;
pub(crate) mod upload;
pub(crate) mod wire;
