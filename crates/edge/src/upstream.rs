//! The edge's own HTTP/1.1 client: connections to instances, kept per edge thread and instance.

pub(crate) mod connection;
pub(crate) mod door;
pub(crate) mod exchange;
pub(crate) mod framing;
pub(crate) mod head;
pub(crate) mod http2;
pub(crate) mod io;
pub(crate) mod pool;
pub(crate) mod upload;
