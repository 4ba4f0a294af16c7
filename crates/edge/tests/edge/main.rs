//! An edge in this process, instances that speak raw TCP, and clients that send raw bytes.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod balance;
mod bodies;
mod breaker;
mod cold;
mod exhaustion;
mod flood;
mod handover;
mod heads;
mod http2;
mod life;
mod limits;
mod log;
mod mutual;
mod names;
mod observe;
mod paths;
mod rate;
mod routes;
mod scale;
mod smuggling;
mod streams;
mod support;
mod tcp;
mod tls;
