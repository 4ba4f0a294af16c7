//! Control with the real cluster state, and a node that is played.

mod applying;
mod doors;
mod http;
mod rig;
mod rolling;
