//! `minato delete`: an app goes, with its services; what its instances have begun is finished.

use clap::Args;
use http::Method;
use minato_model::ids::AppName;

use crate::{client::Client, failure::Failure, show};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The app
    app: AppName,
}

pub(super) async fn run(arguments: Arguments, json: bool) -> Result<(), Failure> {
    let client = Client::find()?;
    let path = format!("/api/v1/apps/{}", arguments.app);
    let answer: serde_json::Value = client.call(Method::DELETE, &path, None).await?;
    if json {
        super::json_line(&answer);
    } else {
        show::line(&format!("{} is taken away; its instances finish what they have", arguments.app));
    }
    Ok(())
}
