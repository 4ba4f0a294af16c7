//! The words of Minato as plain data, and the few small traits by which its parts meet.
//!
//! Nothing here does input or output, reads a clock or draws a random number. What comes from
//! outside is parsed into these types once, at the border, and is right from then on.
//!
//! ```text
//! manifest ── release ── plan ──▶ slice ──▶ inventory        (a manifest's way to a node and back)
//!                                   │
//!                                 route ──▶ routing          (a request's way to an instance)
//! ```

pub mod code;
pub mod digest;
pub mod event;
pub mod ids;
pub mod images;
pub mod inventory;
pub mod keys;
pub mod manifest;
pub mod network;
pub mod node;
pub mod plan;
pub mod reference;
pub mod release;
pub mod route;
pub mod routing;
pub mod slice;
pub mod time;
pub mod tls;
pub mod top;
pub mod traffic;
pub mod units;
pub mod verdict;

/// A boxed future: what a trait that is used as an object returns.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
