//! The planner: pure functions from what is declared and what is reported to what is to be done.
//!
//! Nothing here reads a clock, a file or a random number: time that has passed is an argument, and
//! every map is ordered, so that the same inputs give the same answer on every node and every day.
//!
//! ```text
//! manifest + images ──plan──▶ changes, releases ──▶ rollout ──step──▶ rollout ──slices──▶ nodes
//!                                                      ▲                                    │
//!                                                      └───────────────reports──────────────┘
//! ```

pub mod plan;
pub mod record;
pub mod release;
pub mod rollout;
pub mod slices;

mod hash;
mod keys;
