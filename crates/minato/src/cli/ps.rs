//! `minato ps`: the instances.

use std::net::Ipv4Addr;

use clap::Args;
use minato_model::{
    ids::{AppName, InstanceId, ReleaseNumber, ServiceName},
    inventory::InstanceState,
    time::Moment,
};
use serde::Deserialize;

use super::words;
use crate::{client::Client, failure::Failure, show};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only of this APP or APP/SERVICE
    #[arg(value_parser = of)]
    of: Option<Of>,
    /// Those that ended lately, too: since the server started, or just before
    #[arg(short, long)]
    all: bool,
}

/// Whose instances.
#[derive(Debug, Clone)]
struct Of {
    app: AppName,
    service: Option<ServiceName>,
}

fn of(text: &str) -> Result<Of, String> {
    let (app, service) = match text.split_once('/') {
        Some((app, service)) => (app, Some(service.parse())),
        None => (text, None),
    };
    let wrong = |_| format!("`{text}` is neither an app nor app/service");
    Ok(Of { app: app.parse().map_err(wrong)?, service: service.transpose().map_err(wrong)? })
}

#[derive(Debug, Deserialize)]
struct Answer {
    instances: Vec<Instance>,
}

/// An instance as it is listed; without an id: its image is being prepared.
#[derive(Debug, Deserialize)]
struct Instance {
    id: Option<InstanceId>,
    app: AppName,
    service: ServiceName,
    release: ReleaseNumber,
    state: InstanceState,
    reason: String,
    address: Option<Ipv4Addr>,
    started_at: Moment,
    requests: u64,
    in_flight: u32,
}

pub(super) async fn run(arguments: Arguments, json: bool) -> Result<(), Failure> {
    let client = Client::find()?;
    let mut path = format!("/api/v1/instances?all={}", arguments.all);
    if let Some(of) = &arguments.of {
        path.push_str(&format!("&app={}", of.app));
        if let Some(service) = &of.service {
            path.push_str(&format!("&service={service}"));
        }
    }
    let answer: serde_json::Value = client.get(&path).await?;
    if json {
        super::json_line(&answer);
        return Ok(());
    }
    let list = Answer::deserialize(&answer).map_err(|error| Failure::Failed(error.into()))?.instances;
    let rows: Vec<_> = list.iter().map(row).collect();
    show::table(
        &["INSTANCE", "SERVICE", "RELEASE", "STATE", "ADDRESS", "REQUESTS", "IN FLIGHT", "STARTED", "REASON"],
        &rows,
    );
    Ok(())
}

fn row(instance: &Instance) -> Vec<String> {
    vec![
        instance.id.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
        format!("{}/{}", instance.app, instance.service),
        instance.release.to_string(),
        words::state(instance.state),
        instance.address.map(|address| address.to_string()).unwrap_or_default(),
        instance.requests.to_string(),
        instance.in_flight.to_string(),
        instance.started_at.to_string(),
        instance.reason.clone(),
    ]
}
