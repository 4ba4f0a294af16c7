//! `minato logs`: what the instances of a service wrote.

use clap::Args;
use minato_model::{
    ids::{InstanceId, ReleaseNumber, ServiceKey},
    node::{LogLine, Stream},
};

use super::words;
use crate::{
    client::Client,
    failure::Failure,
    show::{self, Tone},
};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// APP/SERVICE
    #[arg(value_parser = words::service)]
    service: ServiceKey,
    /// Go on with what is written from now on
    #[arg(short, long)]
    follow: bool,
    /// How many of the last lines
    #[arg(short = 'n', long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    lines: u32,
    /// Only of this release
    #[arg(long)]
    release: Option<ReleaseNumber>,
    /// Only of this instance
    #[arg(long)]
    instance: Option<InstanceId>,
}

pub(super) async fn run(arguments: Arguments, json: bool) -> Result<(), Failure> {
    let client = Client::find()?;
    let mut path = format!(
        "/api/v1/logs?service={}&limit={}&follow={}",
        arguments.service, arguments.lines, arguments.follow
    );
    if let Some(release) = arguments.release {
        path.push_str(&format!("&release={release}"));
    }
    if let Some(instance) = &arguments.instance {
        path.push_str(&format!("&instance={instance}"));
    }
    let mut lines = client.lines(&path).await?;
    while let Some(text) = lines.next().await? {
        if show::closed() {
            break;
        }
        if json {
            show::line(&text);
            continue;
        }
        let line: LogLine = serde_json::from_str(&text).map_err(|error| Failure::Failed(error.into()))?;
        let tone = if line.stream == Stream::Stderr { Tone::Warning } else { Tone::Plain };
        let head = format!("{} {}@{}", line.position.at, line.position.instance, line.release);
        show::line(&format!("{head} {}", show::toned(&line.text, tone)));
    }
    Ok(())
}
