//! Who is who: the cluster's certificate authority, the certificate of each instance and node, and the
//! tokens of those who may use the API and the registry.

pub mod authority;
pub mod bundle;
pub mod certificate;
pub mod client;
mod der;
pub mod files;
pub mod inspect;
pub mod lifetimes;
mod rotation;
pub mod spiffe;
mod store;
pub mod token;
pub mod verify;

pub use authority::{Authority, Clock, IssueError, Made, OpenError, RotateError, Rotation};
pub use bundle::{Bundle, Trust};
pub use certificate::{Holder, Issued, Key};
pub use lifetimes::{InvalidScale, Lifetimes};
pub use spiffe::SpiffeId;
pub use token::Tokens;
