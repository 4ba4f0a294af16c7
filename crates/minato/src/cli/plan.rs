//! `minato plan`: what applying would change, and why.

use std::path::PathBuf;

use clap::Args;
use http::Method;
use minato_model::plan::{Action, Change, Plan};
use serde::Deserialize;

use super::manifests;
use crate::{
    client::Client,
    failure::Failure,
    show::{self, Tone},
};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Manifests, or folders of them
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// End with status 3 if there is something to change
    #[arg(long)]
    check: bool,
}

#[derive(Debug, Deserialize)]
struct Answer {
    plans: Vec<Plan>,
}

pub(super) async fn run(arguments: Arguments, json: bool) -> Result<(), Failure> {
    let files = manifests::read(&arguments.files)?;
    let client = Client::find()?;
    let answer: Result<serde_json::Value, _> =
        client.call(Method::POST, "/api/v1/plans", Some(files.body())).await;
    let answer = answer.map_err(|failure| failure.about(files.texts))?;
    let plans = Answer::deserialize(&answer).map_err(|error| Failure::Failed(error.into()))?.plans;
    if json {
        super::json_line(&answer);
    } else {
        plans.iter().for_each(print);
    }
    let changes = plans.iter().any(|plan| !plan.changes.is_empty());
    if arguments.check && changes { Err(Failure::Changes) } else { Ok(()) }
}

/// A plan for people.
pub(super) fn print(plan: &Plan) {
    if plan.changes.is_empty() {
        show::line(&format!("{}: nothing to change (plan {})", plan.app, short(&plan.id)));
        return;
    }
    let noun = if plan.changes.len() == 1 { "change" } else { "changes" };
    show::line(&format!("{}: {} {noun} (plan {})", plan.app, plan.changes.len(), plan.id));
    for change in &plan.changes {
        show::line(&format!("  {}", sentence(change)));
        show::line(&format!("      {}", change.reason));
    }
}

fn sentence(change: &Change) -> String {
    let (sign, tone) = match change.action {
        Action::Create => ("+ create ", Tone::Good),
        Action::Release => ("~ release", Tone::Warning),
        Action::Update => ("~ update ", Tone::Warning),
        Action::Delete => ("- delete ", Tone::Bad),
    };
    let moved = match (&change.from, &change.to) {
        (Some(from), Some(to)) => format!(": {from} -> {to}"),
        (None, Some(to)) => format!(": {to}"),
        (Some(from), None) => format!(": was {from}"),
        (None, None) => String::new(),
    };
    format!("{} {}{moved}", show::toned(sign, tone), change.what)
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}
