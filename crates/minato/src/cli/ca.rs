//! `minato ca export`: the cluster's roots, for clients that are to trust its certificates.

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::Value;

use crate::{client::Client, failure::Failure, show};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the cluster's roots as PEM, as curl --cacert takes them
    Export,
}

#[derive(Debug, Deserialize)]
struct Answer {
    pem: String,
}

pub(super) async fn run(arguments: Arguments, json: bool) -> Result<(), Failure> {
    let Command::Export = arguments.command;
    let answer: Value = Client::find()?.get("/api/v1/ca").await?;
    if json {
        super::json_line(&answer);
        return Ok(());
    }
    let Answer { pem } = Answer::deserialize(&answer).map_err(anyhow::Error::from)?;
    show::data(pem.as_bytes());
    Ok(())
}
