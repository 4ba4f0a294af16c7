//! `[access_log]`: which requests are logged, how and where.

use std::path::{Path, PathBuf};

use minato_edge::log::Format;
use minato_model::units;
use serde::Deserialize;

use super::ConfigError;

/// With the file before it the log has twice as much.
const MAX_BYTES: u64 = 64 << 20;
/// A file holds a few of the pieces in which it is written.
const MAX_BYTES_LEAST: u64 = 1 << 20;

/// How a request's line is written, if it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Lines {
    /// An object of JSON.
    #[default]
    Json,
    /// NCSA's combined format, with more at its end.
    Common,
    /// Nothing is logged.
    Off,
}

/// The settings, checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AccessLog {
    pub(crate) format: Format,
    pub(crate) path: PathBuf,
    pub(crate) sample: f64,
    pub(crate) max_bytes: u64,
}

/// The table as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    format: Option<Lines>,
    path: Option<PathBuf>,
    sample: Option<f64>,
    max_bytes: Option<String>,
}

impl Table {
    /// Checks it; `lines` wins over what it says.
    pub(super) fn read(self, lines: Option<Lines>, data: &Path) -> Result<Option<AccessLog>, ConfigError> {
        let path = match self.path {
            Some(path) => checked_path(path)?,
            None => data.join("logs").join("access.log"),
        };
        let sample = self.sample.unwrap_or(1.0);
        if !(0.0..=1.0).contains(&sample) {
            return Err(wrong("access_log.sample", format!("is {sample}; write a share from 0.0 to 1.0")));
        }
        let max_bytes = self.max_bytes.as_deref().map_or(Ok(MAX_BYTES), checked_size)?;
        let format = match lines.or(self.format).unwrap_or_default() {
            Lines::Json => Format::Json,
            Lines::Common => Format::Common,
            Lines::Off => return Ok(None),
        };
        Ok(Some(AccessLog { format, path, sample, max_bytes }))
    }
}

fn wrong(key: &'static str, why: String) -> ConfigError {
    ConfigError::Value { key, why }
}

fn checked_path(path: PathBuf) -> Result<PathBuf, ConfigError> {
    let wrong = |why| Err(wrong("access_log.path", why));
    if !path.is_absolute() {
        return wrong(format!("is `{}`; write the whole path, from `/` on", path.display()));
    }
    if path.is_dir() {
        return wrong(format!("is the directory {}; write a file's path", path.display()));
    }
    match path.parent() {
        Some(parent) if parent.is_dir() => Ok(path),
        _ => wrong(format!("is {}, but there is no such directory; make it first", path.display())),
    }
}

fn checked_size(text: &str) -> Result<u64, ConfigError> {
    let size =
        units::size(text).map_err(|error| wrong("access_log.max_bytes", format!("is wrong: {error}")))?;
    if size < MAX_BYTES_LEAST {
        return Err(wrong("access_log.max_bytes", format!("is {text}; it must be 1MiB or more")));
    }
    Ok(size)
}
