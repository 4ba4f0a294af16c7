//! Who asks: wrk for HTTP/1.1, h2load for HTTP/2 and for a rate that is held.

use std::{net::SocketAddr, process::Command, time::Duration};

use anyhow::{Context as _, Result};

use super::Place;
use crate::{
    figures::quantile,
    patience::{Patience, now},
    processes::run,
};

/// How it is asked, and for which path.
#[derive(Debug, Clone, Copy)]
pub(super) enum Client {
    Http1(&'static str),
    /// With a body of 10 KiB.
    Post(&'static str),
    /// At a rate that is given.
    Paced(&'static str),
    Http2(&'static str),
    /// Every request over a connection of its own, whose handshake is a full one.
    Handshakes(&'static str),
}

/// What the client saw.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    pub(super) requests: f64,
    /// A second.
    pub(super) rate: f64,
    /// Milliseconds.
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) failed: f64,
}

impl Client {
    pub(super) fn is_paced(self) -> bool {
        matches!(self, Self::Paced(_))
    }

    pub(super) fn run(
        self,
        patience: &Patience,
        place: Place<'_>,
        connections: u32,
        time: Duration,
        rate: Option<f64>,
    ) -> Result<Seen> {
        match self {
            Self::Http1(path) => wrk(patience, place, connections, time, path, None),
            Self::Post(path) => {
                let script = tempfile::Builder::new().suffix(".lua").tempfile()?;
                std::fs::write(
                    script.path(),
                    "wrk.method = \"POST\"\nwrk.body = string.rep(\"x\", 10240)\n",
                )?;
                wrk(patience, place, connections, time, path, Some(script.path()))
            }
            Self::Paced(path) => {
                let each = rate.unwrap_or(100.0) / f64::from(connections);
                h2load(patience, place, (connections, 1), time, path, Some(each))
            }
            Self::Http2(path) => h2load(patience, place, (connections, 16), time, path, None),
            Self::Handshakes(path) => handshakes(patience, place, connections, path),
        }
    }
}

fn wrk(
    patience: &Patience,
    place: Place<'_>,
    connections: u32,
    time: Duration,
    path: &str,
    script: Option<&std::path::Path>,
) -> Result<Seen> {
    let mut command = Command::new("wrk");
    let (connections, seconds) = (connections.to_string(), time.as_secs().to_string());
    command.args(["-t1", "--latency", "--timeout", "10s", "-c", &connections, "-d", &seconds]);
    if !place.tls {
        command.arg("-H").arg(format!("Host: {}", place.host));
    }
    if let Some(script) = script {
        command.arg("-s").arg(script);
    }
    // By TLS the name is said in the handshake, as a client takes it from the address.
    let url = match place.tls {
        true => format!("https://{}:{}{path}", place.host, place.address.port()),
        false => format!("http://{}{path}", place.address),
    };
    let said = run(patience, command.arg(url))?;
    told_by_wrk(&said).with_context(|| format!("wrk said something else:\n{said}"))
}

fn told_by_wrk(said: &str) -> Option<Seen> {
    let after = |name: &str| said.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim);
    let errors = after("Socket errors:").unwrap_or_default();
    let refused = after("Non-2xx or 3xx responses:").unwrap_or("0");
    let numbers = errors.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse::<f64>().ok());
    let requests = said.lines().find_map(|line| line.trim().split_once(" requests in "))?.0;
    Some(Seen {
        requests: requests.parse().ok()?,
        rate: after("Requests/sec:")?.parse().ok()?,
        p50: milliseconds(after("50% ")?)?,
        p99: milliseconds(after("99% ")?)?,
        failed: numbers.sum::<f64>() + refused.parse::<f64>().ok()?,
    })
}

/// As wrk writes times: `812.00us`, `1.20ms`, `1.02s`.
fn milliseconds(text: &str) -> Option<f64> {
    let units = [("us", 0.001), ("ms", 1.0), ("s", 1000.0)];
    let (number, unit) = units.into_iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
    Some(number.parse::<f64>().ok()? * unit)
}

fn h2load(
    patience: &Patience,
    place: Place<'_>,
    (connections, streams): (u32, u32),
    time: Duration,
    path: &str,
    each: Option<f64>,
) -> Result<Seen> {
    let log = tempfile::NamedTempFile::new()?;
    let mut command = Command::new("h2load");
    command.args(["-t1", "-c", &connections.to_string(), "-m", &streams.to_string()]);
    command.args(["-D", &time.as_secs().to_string()]).arg("--log-file").arg(log.path());
    let mut to = place.http2;
    if let Some(each) = each {
        command.arg("--h1").args(["--rps", &format!("{each:.1}")]);
        to = place.address;
    }
    command.arg(format!("--connect-to={to}")).arg(url(place, to, path));
    let said = run(patience, &mut command)?;
    let lines = std::fs::read_to_string(log.path())?;
    told_by_h2load(&said, &lines, time).with_context(|| format!("h2load said something else:\n{said}"))
}

fn url(place: Place<'_>, to: SocketAddr, path: &str) -> String {
    let scheme = if place.tls { "https" } else { "http" };
    format!("{scheme}://{}:{}{path}", place.host, to.port())
}

/// As many connections as requests: h2load knows no session to take up again.
fn handshakes(patience: &Patience, place: Place<'_>, connections: u32, path: &str) -> Result<Seen> {
    let log = tempfile::NamedTempFile::new()?;
    let mut command = Command::new("h2load");
    let connections = connections.to_string();
    command.args(["-t1", "--h1", "-c", &connections, "-n", &connections]).arg("--log-file").arg(log.path());
    command.arg(format!("--connect-to={}", place.address)).arg(url(place, place.address, path));
    let begun = now();
    let said = run(patience, &mut command)?;
    let lines = std::fs::read_to_string(log.path())?;
    told_by_h2load(&said, &lines, begun.elapsed())
        .with_context(|| format!("h2load said something else:\n{said}"))
}

/// `log` has a line a request: when it began, its status, how long it took in microseconds.
fn told_by_h2load(said: &str, log: &str, time: Duration) -> Option<Seen> {
    let requests = said.lines().find(|line| line.starts_with("requests:"))?;
    let counted = |name: &str| {
        let part = requests.split(',').find_map(|part| part.trim().strip_suffix(name))?;
        part.trim().rsplit(' ').next()?.parse::<f64>().ok()
    };
    let times: Vec<f64> = log
        .lines()
        .filter_map(|line| line.split('\t').nth(2)?.parse::<f64>().ok())
        .map(|us| us / 1000.0)
        .collect();
    let done = counted(" succeeded")?;
    Some(Seen {
        requests: done,
        rate: done / time.as_secs_f64(),
        p50: quantile(&times, 0.5),
        p99: quantile(&times, 0.99),
        failed: counted(" failed")? + counted(" errored")?,
    })
}
