//! `minato build`: a directory or a program becomes a reproducible image in the cluster's registry.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use minato_image::pack::{PackRequest, pack};
use minato_model::reference::ImageReference;

use crate::{client::Client, failure::Failure, push, show};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A directory, which becomes the image's root, or a program, which comes with what it needs
    path: PathBuf,
    /// What to call the image: NAME:TAG
    #[arg(short, long)]
    tag: ImageReference,
    /// What runs: a JSON array, or one word
    #[arg(long, value_parser = command_line)]
    entrypoint: Option<CommandLine>,
    /// Its default arguments: a JSON array, or one word
    #[arg(long, value_parser = command_line)]
    cmd: Option<CommandLine>,
    /// A variable of its environment; may be given again
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// The port that it listens on
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// The user that it runs as: a name or number, with a group after a colon if wanted
    #[arg(long)]
    user: Option<String>,
    /// Where it runs
    #[arg(long)]
    workdir: Option<String>,
    /// A label; may be given again
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
}

/// Words of a command.
#[derive(Debug, Clone)]
struct CommandLine(Vec<String>);

fn command_line(text: &str) -> Result<CommandLine, String> {
    if !text.trim_start().starts_with('[') {
        return Ok(CommandLine(vec![text.to_owned()]));
    }
    let words: Vec<String> = serde_json::from_str(text)
        .map_err(|error| format!("it begins like a JSON array of strings, but is none: {error}"))?;
    if words.is_empty() { Err("an empty array runs nothing".to_owned()) } else { Ok(CommandLine(words)) }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it as NAME=VALUE".to_owned()),
    }
}

pub(super) async fn run(arguments: Arguments, json: bool) -> Result<(), Failure> {
    let reference = arguments.tag;
    if reference.registry.is_some() || reference.digest.is_some() {
        let message =
            format!("`{reference}` names another registry or a digest; -t takes NAME:TAG of this cluster");
        return Err(Failure::Usage(message));
    }
    if arguments.path.join("Dockerfile").is_file() && arguments.entrypoint.is_none() {
        let message = format!("{} holds a Dockerfile", arguments.path.display());
        return Err(Failure::Usage(format!(
            "{message}, and building one is not supported yet; build it with docker, podman or buildah and push \
             it, or give --entrypoint to pack the directory as it is"
        )));
    }
    let silent = arguments.path.is_dir() && arguments.entrypoint.is_none() && arguments.cmd.is_none();
    let client = Client::find()?;
    let request = PackRequest {
        source: arguments.path,
        entrypoint: arguments.entrypoint.map(|words| words.0).unwrap_or_default(),
        cmd: arguments.cmd.map(|words| words.0).unwrap_or_default(),
        env: arguments.env,
        port: arguments.port,
        user: arguments.user.unwrap_or_default(),
        workdir: arguments.workdir.unwrap_or_default(),
        labels: arguments.label.into_iter().collect(),
    };
    let packed = tokio::task::spawn_blocking(move || pack(&request))
        .await
        .map_err(|error| Failure::Failed(error.into()))?
        .map_err(|error| Failure::Failed(anyhow::Error::new(error)))?;
    let packed = Arc::new(packed);
    let pushed = push::image(&client, &reference, &packed).await?;
    if silent && !json {
        show::progress("note: nothing says what runs; give --entrypoint, or `command` in the manifest");
    }
    if json {
        super::json_line(&serde_json::json!({
            "image": reference.to_string(),
            "digest": packed.digest,
            "bytes": pushed.bytes,
            "bytes_sent": pushed.sent,
        }));
    } else {
        show::line(&format!("{reference}@{}", packed.digest));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_one_word_or_an_array() {
        let words = |text| command_line(text).map(|line| line.0);
        assert_eq!(words("/bin/web"), Ok(vec!["/bin/web".to_owned()]));
        assert_eq!(words("/bin/my web"), Ok(vec!["/bin/my web".to_owned()]));
        assert_eq!(words(r#" ["/bin/web", "-v"]"#), Ok(vec!["/bin/web".to_owned(), "-v".to_owned()]));
        assert!(words("[]").unwrap_err().contains("empty"));
        assert!(words("[web]").unwrap_err().contains("none"));
        assert!(words("[1]").unwrap_err().contains("none"));
    }

    #[test]
    fn a_pair_has_a_name() {
        assert_eq!(pair("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert_eq!(pair("A="), Ok(("A".to_owned(), String::new())));
        assert!(pair("=b").is_err() && pair("A").is_err());
    }
}
