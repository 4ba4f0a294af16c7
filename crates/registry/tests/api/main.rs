//! The registry over the wire: real clients, plain requests, and what must be refused.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod access;
mod clients;
mod disk;
mod images;
mod manifests;
mod server;
mod uploads;
