//! Container images: their digests and manifests, how they are packed, and how their layers become a
//! directory that a process can have as its root.
//!
//! Everything in an image comes from strangers. What is read is bounded, what is written stays below
//! the directory that it was meant for, and every byte is checked against the digest that names it.
//!
//! ```text
//! manifest ──▶ choose(platform) ──▶ config ──▶ tree::unpack ──▶ users, process     (an image is run)
//! a folder or a program ──▶ pack ──▶ layer, config, manifest                       (an image is made)
//! ```

pub mod digest;
pub mod manifest;
pub mod pack;
pub mod process;
pub mod tree;
pub mod users;
