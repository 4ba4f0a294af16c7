//! The server's own settings: defaults, over them the file, over it the environment, over it flags.
//!
//! A key of the design that has no effect yet is refused by name, as in a manifest.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use minato_edge::Prefix;
use serde::Deserialize;

mod access_log;
mod acme;
mod tls;

pub(crate) use access_log::{AccessLog, Lines};
pub(crate) use tls::Tls;

/// Sandboxes that are made ahead at most: each is a process with its namespaces and half a megabyte.
const POOL_MAX: u32 = 64;

/// Why the settings were refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file can't be read.
    #[error("can't read the configuration {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file says something that isn't understood.
    #[error("the configuration {path} is wrong: {message}")]
    Wrong {
        /// Which file.
        path: PathBuf,
        /// What is wrong, with its line.
        message: String,
    },
    /// A value can't be used.
    #[error("`{key}` {why}")]
    Value {
        /// Which key.
        key: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

/// What a stopping server does with its instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stop {
    /// Drain and stop them, and give everything back to the kernel.
    #[default]
    End,
    /// Leave them running for the next server.
    Keep,
}

/// The settings of a server, checked.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// The data directory.
    pub(crate) data: PathBuf,
    /// Where the API and the registry listen.
    pub(crate) api: SocketAddr,
    /// Where the edge listens for HTTP.
    pub(crate) http: SocketAddr,
    /// Where the edge listens for TLS.
    pub(crate) https: SocketAddr,
    /// The instances' network, a /16; `None`: a free one of 10/8.
    pub(crate) network: Option<Ipv4Addr>,
    /// What stopping does with instances.
    pub(crate) stop: Stop,
    /// Peers whose `X-Forwarded-*` headers are believed.
    pub(crate) trusted_proxies: Vec<Prefix>,
    /// What is logged, as `tracing`'s filter reads it.
    pub(crate) log: String,
    /// Which requests are logged, and where.
    pub(crate) access_log: Option<AccessLog>,
    /// Whether a caller on loopback may push without a token.
    pub(crate) anonymous_push: bool,
    /// How many sandboxes are made ahead at most.
    pub(crate) pool: u32,
    /// The failure domain that the node is in.
    pub(crate) zone: Option<String>,
    /// What concerns certificates.
    pub(crate) tls: Tls,
}

/// What flags and variables say; each wins over the file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overrides {
    /// `--data`
    pub(crate) data: Option<PathBuf>,
    /// `--api`
    pub(crate) api: Option<SocketAddr>,
    /// `--http`
    pub(crate) http: Option<SocketAddr>,
    /// `--https`
    pub(crate) https: Option<SocketAddr>,
    /// `--network`
    pub(crate) network: Option<Ipv4Addr>,
    /// `--anonymous-push`
    pub(crate) anonymous_push: bool,
    /// `--pool`
    pub(crate) pool: Option<u32>,
    /// `--access-log`
    pub(crate) access_log: Option<Lines>,
}

/// The file as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    data: Option<PathBuf>,
    api: Option<SocketAddr>,
    http: Option<SocketAddr>,
    https: Option<SocketAddr>,
    network: Option<String>,
    stop: Option<Stop>,
    trusted_proxies: Option<Vec<String>>,
    log: Option<String>,
    pool: Option<u32>,
    access_log: Option<access_log::Table>,
    registry: Option<Registry>,
    admission: Option<toml::Value>,
    tls: Option<tls::Table>,
    node: Option<NodeTable>,
}

/// `[node]`: where the node is.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeTable {
    zone: Option<String>,
    region: Option<toml::Value>,
    provider: Option<toml::Value>,
    price: Option<toml::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Registry {
    anonymous_push: Option<bool>,
    quota: Option<toml::Value>,
    mirrors: Option<toml::Value>,
}

impl Config {
    /// Puts the settings together.
    ///
    /// # Errors
    /// A file that can't be read or understood, or a value that can't be used.
    pub(crate) fn load(file: Option<&Path>, overrides: Overrides) -> Result<Self, ConfigError> {
        let written = file.map_or_else(|| Ok(File::default()), read)?;
        let registry = written.registry.unwrap_or_default();
        let network = match (overrides.network, written.network) {
            (Some(network), _) => Some(network),
            (None, Some(text)) => Some(range(&text)?),
            (None, None) => None,
        };
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let data = overrides.data.or(written.data).unwrap_or_else(|| PathBuf::from("/var/lib/minato"));
        let config = Self {
            access_log: written.access_log.unwrap_or_default().read(overrides.access_log, &data)?,
            data,
            api: overrides.api.or(written.api).unwrap_or_else(|| loopback(7070)),
            http: overrides.http.or(written.http).unwrap_or_else(|| loopback(8080)),
            https: overrides.https.or(written.https).unwrap_or_else(|| loopback(8443)),
            network: network.map(checked_network).transpose()?,
            stop: written.stop.unwrap_or_default(),
            trusted_proxies: prefixes(&written.trusted_proxies.unwrap_or_default())?,
            log: written.log.unwrap_or_else(|| "info".to_owned()),
            anonymous_push: overrides.anonymous_push || registry.anonymous_push.unwrap_or(false),
            pool: overrides.pool.or(written.pool).unwrap_or(POOL_MAX).min(POOL_MAX),
            tls: written.tls.unwrap_or_default().read()?,
            zone: written.node.and_then(|node| node.zone).map(zone).transpose()?,
        };
        if config.api.ip().is_unspecified() && config.tls.api_names.is_empty() {
            let why = format!(
                "is {}: at all addresses it is called by names, so write `api_names` under [tls]",
                config.api
            );
            return Err(ConfigError::Value { key: "api", why });
        }
        Ok(config)
    }
}

fn read(path: &Path) -> Result<File, ConfigError> {
    let wrong = |message| ConfigError::Wrong { path: path.to_owned(), message };
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let file: File = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let (registry, node) = (file.registry.as_ref(), file.node.as_ref());
    let unsupported = [
        ("admission", file.admission.is_some()),
        ("node.region", node.is_some_and(|node| node.region.is_some())),
        ("node.provider", node.is_some_and(|node| node.provider.is_some())),
        ("node.price", node.is_some_and(|node| node.price.is_some())),
        ("registry.quota", registry.is_some_and(|registry| registry.quota.is_some())),
        ("registry.mirrors", registry.is_some_and(|registry| registry.mirrors.is_some())),
    ];
    match unsupported.iter().find(|(_, written)| *written) {
        Some((key, _)) => Err(wrong(format!("`{key}` is not supported yet; take it out"))),
        None => Ok(file),
    }
}

/// A zone is compared and shown, nothing else.
fn zone(text: String) -> Result<String, ConfigError> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._".contains(&byte);
    if (1..=63).contains(&text.len()) && text.bytes().all(plain) {
        return Ok(text);
    }
    let why = "must be 1 to 63 of a-z, 0-9, `-`, `.` and `_`".to_owned();
    Err(ConfigError::Value { key: "node.zone", why })
}

fn prefixes(texts: &[String]) -> Result<Vec<Prefix>, ConfigError> {
    let read = |text: &String| {
        text.parse().map_err(|error: minato_edge::config::InvalidPrefix| ConfigError::Value {
            key: "trusted_proxies",
            why: format!("holds what it can't: {error}"),
        })
    };
    texts.iter().map(read).collect()
}

/// Reads `10.77.0.0/16`.
fn range(text: &str) -> Result<Ipv4Addr, ConfigError> {
    let wrong = || ConfigError::Value {
        key: "network",
        why: format!("is `{text}`; write a /16 such as \"10.77.0.0/16\""),
    };
    let (base, length) = text.split_once('/').ok_or_else(wrong)?;
    if length != "16" {
        return Err(wrong());
    }
    base.parse().map_err(|_| wrong())
}

fn checked_network(base: Ipv4Addr) -> Result<Ipv4Addr, ConfigError> {
    let [_, _, c, d] = base.octets();
    if !base.is_private() || (c, d) != (0, 0) {
        let why = format!("is {base}/16; it must be the beginning of a private /16, such as 10.77.0.0/16");
        return Err(ConfigError::Value { key: "network", why });
    }
    Ok(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::load(Some(file.path()), Overrides::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let config =
            load("http = \"127.0.0.1:9090\"\nstop = \"keep\"\n[registry]\nanonymous_push = true").unwrap();
        assert_eq!(config.http.port(), 9090);
        assert_eq!((config.api.port(), config.https.port()), (7070, 8443));
        assert_eq!(config.stop, Stop::Keep);
        assert!(config.anonymous_push);
        let overrides = Overrides { data: Some("/tmp/x".into()), ..Overrides::default() };
        assert_eq!(Config::load(None, overrides).unwrap().data, Path::new("/tmp/x"));
    }

    #[test]
    fn the_access_log_is_on_unless_it_is_turned_off() {
        let log = load("data = \"/d\"").unwrap().access_log.unwrap();
        assert_eq!((log.path, log.sample, log.max_bytes), ("/d/logs/access.log".into(), 1.0, 64 << 20));
        let text =
            "[access_log]\nformat = \"common\"\npath = \"/tmp/a.log\"\nsample = 0.1\nmax_bytes = \"2MiB\"";
        let log = load(text).unwrap().access_log.unwrap();
        assert_eq!(log.format, minato_edge::log::Format::Common);
        assert_eq!((log.path, log.sample, log.max_bytes), ("/tmp/a.log".into(), 0.1, 2 << 20));
        assert_eq!(load("[access_log]\nformat = \"off\"").unwrap().access_log, None);
        let overrides = Overrides { access_log: Some(Lines::Off), ..Overrides::default() };
        assert_eq!(Config::load(None, overrides).unwrap().access_log, None);
    }

    #[test]
    fn lifetimes_are_scaled() {
        let days = |text| load(text).unwrap().tls.lifetimes.period().as_secs_f64() / 86_400.0;
        assert!((days("") - 30.0).abs() < 1e-9);
        assert!((days("[tls]\nlifetime_scale = 0.5") - 15.0).abs() < 1e-9);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (text, says) in [
            ("htp = 1", "unknown field `htp`"),
            ("https = \"localhost\"", "invalid socket address"),
            ("[tls]\nlifetime_scale = 0", "`tls.lifetime_scale` is 0"),
            ("[tls]\nlifetime_scale = 2.0", "`tls.lifetime_scale` is 2"),
            ("[tls]\nlifetime_scale = nan", "`tls.lifetime_scale` is NaN"),
            ("[tls]\nlife = 1", "unknown field `life`"),
            ("[tls]\nacme = {}", "missing field `directory`"),
            ("[tls]\nacme = { directory = \"http://a\", terms_agreed = true }", "write the https:// address"),
            ("[tls]\nacme = { directory = \"https://a/d\" }", "`tls.acme.terms_agreed` is missing"),
            (
                "[tls]\nacme = { directory = \"https://a/d\", terms_agreed = true, contact = [\"me@a\"] }",
                "holds `me@a`; write it as mailto:",
            ),
            (
                "[tls]\nacme = { directory = \"https://a/d\", terms_agreed = true, hosts = [\"*.a.b\"] }",
                "wildcards need a proof by DNS",
            ),
            (
                "[tls]\nacme = { directory = \"https://a/d\", terms_agreed = true, proof = \"dns-01\" }",
                "it takes \"http-01\" or \"tls-alpn-01\"",
            ),
            (
                "[tls]\nacme = { directory = \"https://a/d\", terms_agreed = true, ca = \"/nowhere\" }",
                "`tls.acme.ca` can't be read",
            ),
            ("[node]\nprice = 1", "`node.price` is not supported yet"),
            ("[node]\nzone = \"A b\"", "`node.zone` must be 1 to 63 of a-z"),
            ("[registry]\nquota = \"1GiB\"", "`registry.quota` is not supported yet"),
            ("network = \"10.1.0.0/24\"", "write a /16"),
            ("network = \"8.8.0.0/16\"", "private /16"),
            ("api = \"0.0.0.0:7070\"", "write `api_names` under [tls]"),
            ("[tls]\napi_names = [\"a b\"]", "`tls.api_names` has `a b`"),
            ("[access_log]\nformat = \"xml\"", "unknown variant `xml`"),
            ("[access_log]\nlevel = 1", "unknown field `level`"),
            ("[access_log]\nsample = 1.5", "`access_log.sample` is 1.5"),
            ("[access_log]\nsample = nan", "`access_log.sample` is NaN"),
            ("[access_log]\npath = \"access.log\"", "write the whole path"),
            ("[access_log]\npath = \"/nowhere/access.log\"", "no such directory"),
            ("[access_log]\npath = \"/tmp\"", "is the directory"),
            ("[access_log]\nmax_bytes = \"1KiB\"", "1MiB or more"),
            ("[access_log]\nmax_bytes = \"much\"", "`access_log.max_bytes` is wrong"),
        ] {
            let error = load(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
