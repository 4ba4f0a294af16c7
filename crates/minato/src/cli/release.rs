//! `minato release list`: the versions of a service.

use clap::{Args, Subcommand};
use minato_model::ids::{ReleaseNumber, ServiceKey};
use serde::Deserialize;

use super::words;
use crate::{client::Client, failure::Failure, show};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the releases of a service
    List {
        /// APP/SERVICE
        #[arg(value_parser = words::service)]
        service: ServiceKey,
    },
    #[command(external_subcommand)]
    Other(Vec<String>),
}

/// Words of the design that come later: refused by name.
const LATER: [&str; 6] = ["promote", "abort", "pause", "resume", "rollback", "preview"];

fn other(word: &str) -> Failure {
    if LATER.contains(&word) {
        return Failure::NotSupported(format!("minato release {word}"));
    }
    Failure::Usage(format!(
        "`minato release {word}` is no command; there is `minato release list APP/SERVICE`"
    ))
}

#[derive(Debug, Deserialize)]
struct Answer {
    releases: Vec<Release>,
}

#[derive(Debug, Deserialize)]
struct Release {
    number: ReleaseNumber,
    image: String,
    digest: String,
    state: String,
    created_at: String,
    #[serde(default)]
    reason: Option<String>,
}

pub(super) async fn run(arguments: Arguments, json: bool) -> Result<(), Failure> {
    let service = match arguments.command {
        Command::List { service } => service,
        Command::Other(words) => {
            let word = words.first().map(String::as_str).unwrap_or_default();
            return Err(other(word));
        }
    };
    let answer: serde_json::Value =
        Client::find()?.get(&format!("/api/v1/releases?service={service}")).await?;
    if json {
        super::json_line(&answer);
        return Ok(());
    }
    let releases = Answer::deserialize(&answer).map_err(|error| Failure::Failed(error.into()))?.releases;
    let rows: Vec<_> = releases
        .iter()
        .map(|release| {
            let digest = release.digest.get(..19).unwrap_or(&release.digest);
            vec![
                release.number.to_string(),
                release.state.replace('_', " "),
                release.image.clone(),
                digest.to_owned(),
                release.created_at.clone(),
                release.reason.clone().unwrap_or_default(),
            ]
        })
        .collect();
    show::table(&["RELEASE", "STATE", "IMAGE", "DIGEST", "MADE", "REASON"], &rows);
    Ok(())
}
