//! `minato server`: settings, then the roles.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use clap::Args;

use crate::{
    config::{Config, Lines, Overrides},
    failure::Failure,
    roles,
};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The data directory; root's, 0700 [default: /var/lib/minato]
    #[arg(long, env = "MINATO_SERVER_DATA")]
    data: Option<PathBuf>,
    /// Settings, as TOML; flags and variables win over them
    #[arg(long, env = "MINATO_SERVER_CONFIG")]
    config: Option<PathBuf>,
    /// Where the API and the registry listen [default: 127.0.0.1:7070]
    #[arg(long, env = "MINATO_SERVER_API")]
    api: Option<SocketAddr>,
    /// Where the edge listens for HTTP [default: 127.0.0.1:8080]
    #[arg(long, env = "MINATO_SERVER_HTTP")]
    http: Option<SocketAddr>,
    /// Where the edge listens for TLS [default: 127.0.0.1:8443]
    #[arg(long, env = "MINATO_SERVER_HTTPS")]
    https: Option<SocketAddr>,
    /// The instances' network: the base of a private /16 [default: a free one of 10/8]
    #[arg(long, env = "MINATO_SERVER_NETWORK")]
    network: Option<Ipv4Addr>,
    /// Let callers on loopback push images without a token
    #[arg(long, env = "MINATO_SERVER_ANONYMOUS_PUSH")]
    anonymous_push: bool,
    /// How many sandboxes are made ahead at most; 0: none [default: 64]
    #[arg(long, env = "MINATO_SERVER_POOL")]
    pool: Option<u32>,
    /// How requests are logged [default: json]
    #[arg(long, env = "MINATO_SERVER_ACCESS_LOG", value_name = "FORMAT")]
    access_log: Option<Lines>,
    /// Take away all that this data directory left in the kernel, and end
    #[arg(long)]
    clean: bool,
    /// Take over from the server that runs on the data directory: instances run on, no request fails
    #[arg(long, conflicts_with = "clean")]
    upgrade: bool,
    /// Return once the server is ready; it goes on in the background
    #[arg(long, conflicts_with = "clean")]
    background: bool,
    /// Join a cluster; not supported yet
    #[arg(long, hide = true)]
    join: Option<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    if arguments.join.is_some() {
        return Err(Failure::NotSupported("minato server --join".to_owned()));
    }
    let overrides = Overrides {
        data: arguments.data.clone(),
        api: arguments.api,
        http: arguments.http,
        https: arguments.https,
        network: arguments.network,
        anonymous_push: arguments.anonymous_push,
        pool: arguments.pool,
        access_log: arguments.access_log,
    };
    let config = Config::load(arguments.config.as_deref(), overrides).map_err(|error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        Failure::Usage(format!("{error}{cause}"))
    })?;
    if arguments.clean {
        roles::clean(&config)
    } else if arguments.background {
        roles::background::run()
    } else {
        roles::run(config, arguments.upgrade)
    }
}
