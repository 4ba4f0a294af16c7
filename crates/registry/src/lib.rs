//! The library of images: a content store, the repositories that name what is in it, and the OCI
//! distribution API (`/v2/`, specification 1.1) by which clients push and pull.
//!
//! ```text
//! push   uploads ──▶ content (blobs by digest) ──▶ manifests ──▶ tags
//! pull   tags ──▶ manifests ──▶ content
//! plan   Images::resolve: tag ──▶ digest, and what the image says of itself
//! ```
//! Invariants: what is under a digest's name has that digest, after a crash at any byte too; a manifest
//! is there only if all that it needs is there; a tag means a manifest that is there. Memory doesn't
//! grow with what is pushed.

mod content;
mod files;
mod images;
mod library;
mod limits;
mod manifests;
mod names;
mod repositories;
mod uploads;

mod api;

pub use api::{Access, router};
pub use library::{Library, OpenError};
pub use limits::Limits;
