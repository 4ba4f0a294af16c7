//! `minato token new|list|revoke`: who may do what through the API and the registry.

use clap::{Args, Subcommand};
use http::Method;
use serde::Deserialize;
use serde_json::json;

use crate::{client::Client, failure::Failure, show};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a token, and print it: it is shown this once
    #[command(after_help = "Examples:
  minato token new --push 'shop/*' --deploy shop --expires 90d --name ci
  minato token new --read --name dashboard
  docker login --username ci --password-stdin HOST:PORT    # the token is the password, any user name will do")]
    New(New),
    /// List tokens, without their secrets
    List,
    /// Revoke a token: it counts no longer, from now on
    Revoke {
        /// Its id, as `minato token list` shows it
        id: String,
    },
}

#[derive(Debug, Args)]
#[group(id = "scopes", required = true, multiple = true, args = ["read", "deploy", "push", "admin"])]
struct New {
    /// To read everything but tokens, and to pull every image
    #[arg(long)]
    read: bool,
    /// To plan, apply and delete this app; may be repeated
    #[arg(long, value_name = "APP")]
    deploy: Vec<String>,
    /// To push and pull here: `shop/web`, or `shop/*` for all below `shop/`; may be repeated
    #[arg(long, value_name = "REPOSITORY")]
    push: Vec<String>,
    /// Everything, tokens too
    #[arg(long)]
    admin: bool,
    /// For how long it counts, such as 30d; else until it is revoked
    #[arg(long, value_name = "DURATION")]
    expires: Option<String>,
    /// What it is for
    #[arg(long, value_name = "TEXT", default_value = "")]
    name: String,
}

impl New {
    fn scopes(&self) -> Vec<String> {
        let word = |said: bool, word: &str| said.then(|| word.to_owned());
        let deploy = self.deploy.iter().map(|app| format!("deploy:{app}"));
        let push = self.push.iter().map(|repository| format!("push:{repository}"));
        word(self.read, "read")
            .into_iter()
            .chain(word(self.admin, "admin"))
            .chain(deploy)
            .chain(push)
            .collect()
    }
}

#[derive(Debug, Deserialize)]
struct Listed {
    tokens: Vec<Token>,
}

#[derive(Debug, Deserialize)]
struct Token {
    id: String,
    name: String,
    scopes: Vec<String>,
    created_at: String,
    created_by: String,
    expires_at: Option<String>,
    revoked_at: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Made {
    id: String,
    text: String,
}

pub(super) async fn run(arguments: Arguments, json: bool) -> Result<(), Failure> {
    let client = Client::find()?;
    let answer: serde_json::Value = match &arguments.command {
        Command::New(new) => {
            let mut body = json!({ "name": new.name, "scopes": new.scopes() });
            if let (Some(expires), Some(body)) = (&new.expires, body.as_object_mut()) {
                body.insert("expires_in".to_owned(), json!(expires));
            }
            client.call(Method::POST, "/api/v1/tokens", Some(body)).await?
        }
        Command::List => client.get("/api/v1/tokens").await?,
        Command::Revoke { id } => {
            let plain = |c: char| c.is_ascii_alphanumeric();
            if id.is_empty() || !id.chars().all(plain) {
                return Err(Failure::Usage(
                    "a token's id has only a-z and 0-9; `minato token list`".to_owned(),
                ));
            }
            client.call(Method::DELETE, &format!("/api/v1/tokens/{id}"), None).await?
        }
    };
    if json {
        super::json_line(&answer);
        return Ok(());
    }
    let wrong = |error: serde_json::Error| Failure::Failed(error.into());
    match arguments.command {
        Command::New(_) => {
            let Made { id, text } = Made::deserialize(&answer).map_err(wrong)?;
            show::progress(&format!("the token {id}; it is shown this once"));
            show::line(&text);
        }
        Command::List => list(&Listed::deserialize(&answer).map_err(wrong)?.tokens),
        Command::Revoke { id } => show::progress(&format!("{id} counts no longer")),
    }
    Ok(())
}

fn list(tokens: &[Token]) {
    let rows: Vec<_> = tokens
        .iter()
        .map(|token| {
            let until = match (&token.revoked_at, &token.expires_at) {
                (Some(at), _) => format!("revoked {at}"),
                (None, Some(at)) => format!("until {at}"),
                (None, None) => "until revoked".to_owned(),
            };
            let made = format!("{} by {}", token.created_at, token.created_by);
            vec![token.id.clone(), token.name.clone(), token.scopes.join(" "), until, made]
        })
        .collect();
    show::table(&["TOKEN", "NAME", "MAY", "COUNTS", "MADE"], &rows);
}
