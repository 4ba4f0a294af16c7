//! `minato status`: the services, what each is, and where it answers.

use clap::Args;
use minato_model::{ids::AppName, ids::ReleaseNumber, ids::ServiceName};
use serde::Deserialize;

use crate::{
    client::Client,
    failure::Failure,
    show::{self, Tone},
};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only this app
    app: Option<AppName>,
}

#[derive(Debug, Deserialize)]
struct Answer {
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
    release: Option<ReleaseNumber>,
    verdict: String,
    #[serde(default)]
    why: Option<String>,
    instances: u32,
    ready: u32,
    #[serde(default)]
    url: Option<String>,
}

pub(super) async fn run(arguments: Arguments, json: bool) -> Result<(), Failure> {
    let client = Client::find()?;
    let path = arguments.app.map_or_else(|| "/api/v1/apps".to_owned(), |app| format!("/api/v1/apps/{app}"));
    let answer: serde_json::Value = client.get(&path).await?;
    if json {
        super::json_line(&answer);
        return Ok(());
    }
    let apps = Answer::deserialize(&answer).map_err(|error| Failure::Failed(error.into()))?.apps;
    if apps.is_empty() {
        show::line("no apps; `minato init` writes a manifest to begin with");
        return Ok(());
    }
    let mut rows = Vec::new();
    for app in &apps {
        rows.extend(app.services.iter().map(|service| row(app, service)));
    }
    show::table(&["SERVICE", "RELEASE", "VERDICT", "READY", "ADDRESS", "WHY"], &rows);
    Ok(())
}

fn row(app: &App, service: &Service) -> Vec<String> {
    let tone = match service.verdict.as_str() {
        "good" => Tone::Good,
        "degraded" => Tone::Warning,
        "down" => Tone::Bad,
        _ => Tone::Plain,
    };
    vec![
        format!("{}/{}", app.app, service.service),
        service.release.map(|number| number.to_string()).unwrap_or_default(),
        show::toned(&service.verdict.replace('_', " "), tone),
        format!("{}/{}", service.ready, service.instances),
        service.url.clone().unwrap_or_default(),
        service.why.clone().unwrap_or_default(),
    ]
}
