//! Who is who: the cluster's certificate authority, the certificate of each instance and node, and the
//! tokens of those who may use the API and the registry.

pub mod files;
pub mod inspect;
