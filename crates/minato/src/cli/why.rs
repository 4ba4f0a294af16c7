//! `minato why`: the story behind an app, a service, a release or an instance.

use clap::Args;
use serde::Deserialize;

use crate::{
    client::{self, Client},
    failure::Failure,
    show,
};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// APP, APP/SERVICE, APP/SERVICE@RELEASE, or an instance's id
    thing: String,
}

#[derive(Debug, Deserialize)]
struct Story {
    lines: Vec<String>,
}

pub(super) async fn run(arguments: Arguments, json: bool) -> Result<(), Failure> {
    let client = Client::find()?;
    let path = format!("/api/v1/why?thing={}", client::query(&arguments.thing));
    let answer: serde_json::Value = client.get(&path).await?;
    if json {
        super::json_line(&answer);
        return Ok(());
    }
    let story = Story::deserialize(&answer).map_err(|error| Failure::Failed(error.into()))?;
    story.lines.iter().for_each(|line| show::line(line));
    Ok(())
}
