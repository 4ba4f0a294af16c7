//! Manifests and the files that they name, read to be sent: a server opens nothing of its clients.

mod named;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use minato_model::{
    ids::ServiceName,
    manifest::{FILE_MAX, Source, parse},
    tls::Files,
};

use crate::failure::Failure;

/// The most files of one call.
const FILES: usize = 1_000;

/// Manifests with all that goes with them.
#[derive(Debug)]
pub(super) struct Manifests {
    /// Each file's name and text.
    pub(super) texts: Vec<(String, String)>,
    /// What services of each file name for their doors.
    tls: Vec<BTreeMap<ServiceName, Files>>,
}

impl Manifests {
    /// As the API takes them.
    pub(super) fn body(&self) -> serde_json::Value {
        let file = |((name, text), tls): (&(String, String), &BTreeMap<ServiceName, Files>)| {
            if tls.is_empty() {
                serde_json::json!({ "name": name, "text": text })
            } else {
                serde_json::json!({ "name": name, "text": text, "tls": tls })
            }
        };
        let files: Vec<_> = self.texts.iter().zip(&self.tls).map(file).collect();
        serde_json::json!({ "files": files })
    }
}

/// Reads manifests: each path a file, or a folder that stands for its `.toml` files by name. They are
/// checked here already, so that what is wrong is never sent.
pub(super) fn read(paths: &[PathBuf]) -> Result<Manifests, Failure> {
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
    let texts = files.iter().map(|path| text(path)).collect::<Result<Vec<_>, _>>()?;
    let sources: Vec<_> = texts.iter().map(|(name, text)| Source { name, text }).collect();
    let parsed = match parse(&sources) {
        Ok(parsed) => parsed,
        Err(problems) => return Err(Failure::Manifest(problems.problems, texts)),
    };
    let mut problems = Vec::new();
    let mut tls = Vec::new();
    for (manifest, (path, (name, text))) in parsed.iter().zip(files.iter().zip(&texts)) {
        let folder = path.parent().unwrap_or_else(|| Path::new(""));
        tls.push(named::read(manifest, folder, Source { name, text }, &mut problems));
    }
    if problems.is_empty() { Ok(Manifests { texts, tls }) } else { Err(Failure::Manifest(problems, texts)) }
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

fn text(path: &Path) -> Result<(String, String), Failure> {
    use std::io::Read as _;
    let name = path.display().to_string();
    let unreadable = |error| Failure::Usage(format!("can't read the manifest {name}: {error}"));
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut text = String::new();
    let limit = u64::try_from(FILE_MAX).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_string(&mut text).map_err(unreadable)?;
    Ok((name, text))
}
