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
}

/// The table as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    lifetime_scale: Option<f64>,
    acme: Option<acme::Table>,
}

impl Table {
    /// Checks it.
    pub(super) fn read(self) -> Result<Tls, ConfigError> {
        let scale = self.lifetime_scale.unwrap_or(1.0);
        let lifetimes = Lifetimes::scaled(scale).map_err(|_| ConfigError::Value {
            key: "tls.lifetime_scale",
            why: format!("is {scale}; write a number from {} to 1.0", Lifetimes::SCALE_MIN),
        })?;
        Ok(Tls { lifetimes, acme: self.acme.map(acme::Table::read).transpose()? })
    }
}
