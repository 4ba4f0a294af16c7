//! An image's configuration: what it runs, as whom, and what its layers hold.

use std::collections::BTreeMap;

use minato_model::digest::Digest;
use serde::Deserialize;

use super::{LAYERS_MAX, ManifestError, Platform, bounded, json};

/// What an image says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfig {
    /// What it is built for.
    pub platform: Platform,
    /// Whom it runs as, as it is written; empty: root.
    pub user: String,
    /// The TCP ports that it exposes, ascending.
    pub ports: Vec<u16>,
    /// Its environment, in its order.
    pub env: Vec<(String, String)>,
    /// What is run.
    pub entrypoint: Vec<String>,
    /// What is run where there is no entrypoint, else its arguments.
    pub cmd: Vec<String>,
    /// Where it is run; empty: `/`.
    pub working_dir: String,
    /// Paths that it writes to, sorted.
    pub volumes: Vec<String>,
    /// The signal that ends it; `None`: SIGTERM.
    pub stop_signal: Option<String>,
    /// Remarks.
    pub labels: BTreeMap<String, String>,
    /// The digests of the layers' content uncompressed, the lowest first.
    pub diff_ids: Vec<Digest>,
}

// As it is written. Docker writes `null` where nothing is, hence the many options.
#[derive(Deserialize)]
struct Written {
    architecture: String,
    os: String,
    variant: Option<String>,
    config: Option<Run>,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Option<Vec<Digest>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct Run {
    user: Option<String>,
    exposed_ports: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    volumes: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}

impl ImageConfig {
    /// Reads a configuration.
    ///
    /// # Errors
    /// When it is none, or lists more layers than are taken.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let written: Written = json(bytes, "image configuration")?;
        let diff_ids = written.rootfs.diff_ids.unwrap_or_default();
        bounded("layers", diff_ids.len(), LAYERS_MAX)?;
        let run = written.config.unwrap_or_default();
        let mut ports: Vec<u16> =
            run.exposed_ports.unwrap_or_default().keys().filter_map(|text| tcp_port(text)).collect();
        ports.sort_unstable();
        ports.dedup();
        let env = run.env.unwrap_or_default().into_iter().map(|text| match text.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => (text, String::new()),
        });
        Ok(Self {
            platform: Platform {
                os: written.os,
                architecture: written.architecture,
                variant: written.variant.filter(|text| !text.is_empty()),
            },
            user: run.user.unwrap_or_default(),
            ports,
            env: env.collect(),
            entrypoint: run.entrypoint.unwrap_or_default(),
            cmd: run.cmd.unwrap_or_default(),
            working_dir: run.working_dir.unwrap_or_default(),
            volumes: run.volumes.unwrap_or_default().into_keys().collect(),
            stop_signal: run.stop_signal.filter(|text| !text.is_empty()),
            labels: run.labels.unwrap_or_default(),
            diff_ids,
        })
    }

    /// Whether it has an entrypoint or a command of its own.
    #[must_use]
    pub fn has_command(&self) -> bool {
        !self.entrypoint.is_empty() || !self.cmd.is_empty()
    }
}

/// `8080/tcp` and `8080`. Other protocols and what is no port aren't for Minato to serve.
fn tcp_port(text: &str) -> Option<u16> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    number.parse().ok().filter(|&port| port != 0 && protocol.eq_ignore_ascii_case("tcp"))
}
