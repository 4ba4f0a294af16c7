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
        if show::closed() {
            break;
        }
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
    // What is about the node itself is about none of these.
    if !about.is_empty() {
        about.push_str(": ");
    }
    format!("{} {:20} {about}{}", event.at, event.kind, event.reason)
}

#[cfg(test)]
mod tests {
    use super::{Event, sentence};

    #[test]
    fn an_event_says_whom_it_is_about() {
        let event = |text: &str| serde_json::from_str::<Event>(text).unwrap();
        let about_all = event(
            r#"{"at":"2026-01-02T03:04:05.006Z","kind":"instance_ready","app":"shop","service":"web","release":2,
            "instance":"g12ft9xxwx","reason":"it listens","data":null}"#,
        );
        assert_eq!(
            sentence(&about_all),
            "2026-01-02T03:04:05.006Z instance_ready       shop/web@2 g12ft9xxwx: it listens"
        );
        let about_the_node = event(
            r#"{"at":"2026-01-02T03:04:05.006Z","kind":"server_started","app":null,"service":null,"release":null,
            "instance":null,"reason":"ready","data":null}"#,
        );
        assert_eq!(sentence(&about_the_node), "2026-01-02T03:04:05.006Z server_started       ready");
    }
}
