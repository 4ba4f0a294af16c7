//! `minato events`: what happened, oldest first.

use clap::Args;
use minato_model::{event::Event, ids::AppName};

use crate::{client::Client, failure::Failure, show};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Go on with what happens from now on
    #[arg(short, long)]
    follow: bool,
    /// How many of the last events
    #[arg(short = 'n', long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    lines: u32,
    /// Only of this app
    #[arg(long)]
    app: Option<AppName>,
}

pub(super) async fn run(arguments: Arguments, json: bool) -> Result<(), Failure> {
    let client = Client::find()?;
    let mut path = format!("/api/v1/events?limit={}&follow={}", arguments.lines, arguments.follow);
    if let Some(app) = &arguments.app {
        path.push_str(&format!("&app={app}"));
    }
    let mut lines = client.lines(&path).await?;
    while let Some(text) = lines.next().await? {
        if json {
            show::line(&text);
        } else {
            let event: Event = serde_json::from_str(&text).map_err(|error| Failure::Failed(error.into()))?;
            show::line(&sentence(&event));
        }
    }
    Ok(())
}

fn sentence(event: &Event) -> String {
    let mut about = String::new();
    if let Some(app) = &event.app {
        about.push_str(app.as_str());
    }
    if let Some(service) = &event.service {
        about.push_str(&format!("/{service}"));
    }
    if let Some(release) = event.release {
        about.push_str(&format!("@{release}"));
    }
    if let Some(instance) = &event.instance {
        about.push_str(&format!(" {instance}"));
    }
    format!("{} {:20} {about}: {}", event.at, event.kind, event.reason)
}
