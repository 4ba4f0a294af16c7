//! `[tls]`: what concerns certificates as a whole.

use minato_identity::Lifetimes;
use serde::Deserialize;

use super::{
    ConfigError,
    acme::{self, Acme},
};

/// The settings, checked.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Tls {
    /// How long the cluster's roots and certificates live.
    pub(crate) lifetimes: Lifetimes,
    /// The public authority, if one is asked.
    pub(crate) acme: Option<Acme>,
    /// Names by which the API is called beyond loopback.
    pub(crate) api_names: Vec<String>,
}

/// The table as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    lifetime_scale: Option<f64>,
    acme: Option<acme::Table>,
    api_names: Option<Vec<String>>,
}

/// Names of the API at most.
const NAMES_MAX: usize = 16;

impl Table {
    /// Checks it.
    pub(super) fn read(self) -> Result<Tls, ConfigError> {
        let scale = self.lifetime_scale.unwrap_or(1.0);
        let lifetimes = Lifetimes::scaled(scale).map_err(|_| ConfigError::Value {
            key: "tls.lifetime_scale",
            why: format!("is {scale}; write a number from {} to 1.0", Lifetimes::SCALE_MIN),
        })?;
        let api_names = self.api_names.unwrap_or_default();
        let wrong = |why| ConfigError::Value { key: "tls.api_names", why };
        if api_names.len() > NAMES_MAX {
            return Err(wrong(format!("has {} names; {NAMES_MAX} are the most", api_names.len())));
        }
        if let Some(name) = api_names.iter().find(|name| !is_name(name)) {
            let name: String = name.chars().take(80).collect();
            return Err(wrong(format!("has `{name}`; write host names in lower case, without port")));
        }
        Ok(Tls { lifetimes, acme: self.acme.map(acme::Table::read).transpose()?, api_names })
    }
}

/// A host name that a certificate may have.
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    name.bytes().all(plain) && rustls_pki_types::DnsName::try_from(name).is_ok() && !name.ends_with('.')
}
