//! What several commands take: files of manifests, names of services, times for people.

use std::path::{Path, PathBuf};

use minato_model::{
    ids::ServiceKey,
    inventory::InstanceState,
    manifest::{FILE_MAX, Source, parse},
};

use crate::{
    failure::Failure,
    show::{self, Tone},
};

/// The most files of one call.
const FILES: usize = 1_000;

/// Reads manifests: each path a file, or a folder that stands for its `.toml` files by name. They are
/// checked here already, so that what is wrong is never sent.
pub(super) fn manifests(paths: &[PathBuf]) -> Result<Vec<(String, String)>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let found = folder(path)?;
            if found.is_empty() {
                return Err(Failure::Usage(format!("the folder {} holds no .toml file", path.display())));
            }
            files.extend(found);
        } else {
            files.push(path.clone());
        }
    }
    if files.len() > FILES {
        return Err(Failure::Usage(format!(
            "{} files are too many for one call; {FILES} is the limit",
            files.len()
        )));
    }
    let texts = files.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
    let sources: Vec<_> = texts.iter().map(|(name, text)| Source { name, text }).collect();
    match parse(&sources) {
        Ok(_) => Ok(texts),
        Err(problems) => Err(Failure::Manifest(problems.problems, texts)),
    }
}

fn folder(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let unreadable = |error| Failure::Usage(format!("can't read the folder {}: {error}", path.display()));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        if file.extension().is_some_and(|extension| extension == "toml") && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<(String, String), Failure> {
    use std::io::Read as _;
    let name = path.display().to_string();
    let unreadable = |error| Failure::Usage(format!("can't read the manifest {name}: {error}"));
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut text = String::new();
    let limit = u64::try_from(FILE_MAX).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_string(&mut text).map_err(unreadable)?;
    Ok((name, text))
}

/// The files as the API takes them.
pub(super) fn body(files: &[(String, String)]) -> serde_json::Value {
    let files: Vec<_> =
        files.iter().map(|(name, text)| serde_json::json!({ "name": name, "text": text })).collect();
    serde_json::json!({ "files": files })
}

/// An instance's state, in its tone.
pub(super) fn state(state: InstanceState) -> String {
    let (word, tone) = match state {
        InstanceState::Preparing => ("preparing", Tone::Plain),
        InstanceState::Starting => ("starting", Tone::Plain),
        InstanceState::Ready => ("ready", Tone::Good),
        InstanceState::Draining => ("draining", Tone::Warning),
        InstanceState::Stopped => ("stopped", Tone::Plain),
        InstanceState::Failed => ("failed", Tone::Bad),
        InstanceState::BackingOff => ("backing off", Tone::Bad),
    };
    show::toned(word, tone)
}

/// Reads `app/service`.
pub(super) fn service(text: &str) -> Result<ServiceKey, String> {
    text.parse().map_err(|_| format!("`{text}` is no service; write it as app/service"))
}
