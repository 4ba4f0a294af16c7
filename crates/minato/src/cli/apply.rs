//! `minato apply`: a manifest becomes the declared state.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use http::Method;
use minato_model::{
    code::{Code, Problem},
    ids::{AppName, ReleaseNumber, ServiceName},
    plan::Plan,
};
use serde::Deserialize;

use super::{manifests, plan};
use crate::{client::Client, failure::Failure, show};

/// How often `--wait` asks.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Manifests, or folders of them
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Apply only if the plan is still this one
    #[arg(long, value_name = "ID")]
    plan: Option<String>,
    /// Return when every release is stable or taken back
    #[arg(long)]
    wait: bool,
    /// Take away apps that no given manifest describes
    #[arg(long)]
    prune: bool,
    /// Try a release again that was taken back
    #[arg(long)]
    retry: bool,
    /// Take over from a release under way
    #[arg(long)]
    supersede: bool,
}

#[derive(Debug, Deserialize)]
struct Answer {
    plans: Vec<Plan>,
    apps: Vec<App>,
}

#[derive(Debug, Deserialize)]
struct App {
    app: AppName,
    services: Vec<Service>,
}

#[derive(Debug, Deserialize)]
struct Service {
    service: ServiceName,
    release: ReleaseNumber,
}

/// Where a release stands.
#[derive(Debug, Deserialize)]
struct Rollout {
    state: String,
    release: ReleaseNumber,
    #[serde(default)]
    reason: Option<String>,
}

pub(super) async fn run(arguments: Arguments, json: bool) -> Result<(), Failure> {
    if arguments.supersede {
        return Err(Failure::NotSupported("minato apply --supersede".to_owned()));
    }
    let files = manifests::read(&arguments.files)?;
    let client = Client::find()?;
    let mut body = files.body();
    if let Some(fields) = body.as_object_mut() {
        fields.insert("prune".to_owned(), arguments.prune.into());
        fields.insert("retry".to_owned(), arguments.retry.into());
        if let Some(plan) = arguments.plan {
            fields.insert("plan".to_owned(), plan.into());
        }
    }
    let answer: serde_json::Value = client
        .call(Method::POST, "/api/v1/apply", Some(body))
        .await
        .map_err(|failure| failure.about(files.texts))?;
    let applied = Answer::deserialize(&answer).map_err(|error| Failure::Failed(error.into()))?;
    if !json {
        applied.plans.iter().for_each(plan::print);
    }
    if arguments.wait {
        for app in &applied.apps {
            for service in &app.services {
                wait(&client, &app.app, service, json).await?;
            }
        }
    }
    if json {
        super::json_line(&answer);
    }
    Ok(())
}

/// Follows a release until it is stable, saying each step once.
async fn wait(client: &Client, app: &AppName, service: &Service, json: bool) -> Result<(), Failure> {
    let name = format!("{app}/{}", service.service);
    let mut said = None;
    loop {
        let rollout: Rollout = client.get(&format!("/api/v1/rollouts/{name}")).await?;
        // What is stable already when it is first looked at has nothing to tell.
        let news = said.is_some() || rollout.state != "stable";
        if news && said.as_ref() != rollout.reason.as_ref() && !json {
            if let Some(reason) = &rollout.reason {
                show::progress(&format!("  {name}: {reason}"));
            }
            said.clone_from(&rollout.reason);
        }
        match rollout.state.as_str() {
            "stable" => {
                if !json {
                    show::line(&format!("{name}: release {} is stable", rollout.release));
                }
                return Ok(());
            }
            "failed" => {
                let why = rollout.reason.unwrap_or_else(|| "no reason was given".to_owned());
                let message = format!("release {} of {name} was taken back: {why}", service.release);
                let problem = Problem::new(Code::ReleaseRefused, message)
                    .with_hint(format!("`minato why {name}` tells more; the release before it serves on"));
                return Err(Failure::Refused(Box::new(problem)));
            }
            _ => tokio::time::sleep(LOOK).await,
        }
    }
}
