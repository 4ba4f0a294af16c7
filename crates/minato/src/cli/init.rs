//! `minato init`: a manifest to begin with, which says what can be said.

use std::{io::Write as _, path::PathBuf};

use clap::Args;

use crate::{failure::Failure, show};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Where to write it
    #[arg(default_value = "minato.toml")]
    file: PathBuf,
    /// The app's name; without it the folder's
    #[arg(long)]
    app: Option<String>,
}

pub(super) fn run(arguments: &Arguments, json: bool) -> Result<(), Failure> {
    let app = arguments.app.clone().unwrap_or_else(folder_name);
    app.parse::<minato_model::ids::AppName>().map_err(|error| Failure::Usage(error.to_string()))?;
    let mut file = std::fs::File::create_new(&arguments.file).map_err(|error| {
        let path = arguments.file.display();
        if error.kind() == std::io::ErrorKind::AlreadyExists {
            Failure::Usage(format!("{path} is there already; nothing was written"))
        } else {
            Failure::Failed(anyhow::anyhow!("can't write {path}: {error}"))
        }
    })?;
    file.write_all(template(&app).as_bytes()).map_err(|error| Failure::Failed(error.into()))?;
    let path = arguments.file.display().to_string();
    if json {
        super::json_line(&serde_json::json!({ "file": path, "app": app }));
    } else {
        show::line(&format!(
            "wrote {path}; next: push the image that it names (`minato build`), then: minato plan {path}"
        ));
    }
    Ok(())
}

/// The folder's name as a name, else `app`.
fn folder_name() -> String {
    let folder = std::env::current_dir().ok();
    name(folder.as_deref().and_then(|path| path.file_name()?.to_str()).unwrap_or_default())
}

/// What a name can be of a text.
fn name(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
    let name: String = text.to_lowercase().chars().map(plain).collect();
    let name = name.trim_start_matches(|c: char| c == '-' || c.is_ascii_digit());
    let name = name.get(..40).unwrap_or(name).trim_end_matches('-');
    if name.is_empty() { "app".to_owned() } else { name.to_owned() }
}

fn template(app: &str) -> String {
    let image = format!("image = \"{app}/web:1\"");
    let hosts = format!("hosts = [\"{app}.localhost\"]");
    format!(
        r#"# What Minato is to run. Everything but `app` and a service's `image` has a default.
app = "{app}"

[services.web]
{image:<38} # minato build ./web -t {app}/web:1
port = 8080                            # found in the instance as $PORT
{hosts:<38} # none: reachable inside the cluster only, as web.{app}.internal
# env = {{ LOG = "info" }}
# command = ["/bin/web", "--verbose"]  # instead of the image's own
# writable = ["/var/cache"]            # memory file systems; /tmp always is one
# resources = {{ cpu = 0.5, memory = "128MiB", pids = 256 }}
# health = {{ path = "/healthz", every = "2s" }}

[services.web.scale]
min = 0                                # at rest nothing runs; a request starts it
max = 20
concurrency = 32                       # requests in flight that one instance is meant to hold
idle = "60s"
"#
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_template_is_a_manifest() {
        let text = super::template("shop");
        let source = minato_model::manifest::Source { name: "minato.toml", text: &text };
        assert_eq!(minato_model::manifest::parse(&[source]).unwrap().len(), 1);
    }

    #[test]
    fn any_folder_has_a_name() {
        for (folder, name) in [
            ("shop", "shop"),
            ("My Shop_2", "my-shop-2"),
            ("2nd", "nd"),
            ("1234", "app"),
            ("", "app"),
            ("\u{6e2f}", "app"),
            ("Caf\u{e9}", "caf"),
            ("-a-", "a"),
        ] {
            assert_eq!(super::name(folder), name, "{folder}");
            super::name(folder).parse::<minato_model::ids::AppName>().unwrap();
        }
        let long = super::name(&format!("{}-{}", "a".repeat(39), "b".repeat(20)));
        assert_eq!(long, "a".repeat(39));
    }
}
