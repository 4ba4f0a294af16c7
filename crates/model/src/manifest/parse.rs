//! From the text of manifests to checked data: syntax, then keys and types, then what only shows
//! between services.

use std::fmt;

use toml::de::DeTable;

use super::{
    Manifest, check,
    read::{Document, Table},
    service,
};
use crate::{
    code::{Code, Problem},
    ids::AppName,
};

/// The largest file that is read, in bytes.
pub const FILE_MAX: usize = 1 << 20;
/// The most services of one app.
pub const SERVICES_MAX: usize = 1_000;

/// A manifest's text and what it is called in errors.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The file's name.
    pub name: &'a str,
    /// Its text.
    pub text: &'a str,
}

/// Everything that is wrong with some manifests; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    /// In the order of files and lines; at most 50 a file.
    pub problems: Vec<Problem>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.problems.first().map_or("the manifest is invalid", |problem| &problem.message);
        f.write_str(first)
    }
}

impl std::error::Error for Problems {}

/// Reads manifests. All or nothing: what is wrong in any of them is returned, with its place.
///
/// # Errors
/// Every problem that was found.
pub fn parse(sources: &[Source<'_>]) -> Result<Vec<Manifest>, Problems> {
    let mut problems = Vec::new();
    let mut places = check::Places::default();
    let mut manifests = Vec::new();
    for source in sources {
        let document = Document::new(source.name, source.text);
        if let Some(manifest) = file(&document, source, &mut places) {
            manifests.push(manifest);
        }
        problems.extend(document.into_problems());
    }
    problems.extend(places.problems());
    problems.sort_by_key(|problem| {
        (sources.iter().position(|source| Some(source.name) == problem.file.as_deref()), problem.line)
    });
    if sources.is_empty() {
        problems.push(Problem::new(Code::InvalidRequest, "no manifest was given"));
    }
    if problems.is_empty() { Ok(manifests) } else { Err(Problems { problems }) }
}

fn file(document: &Document<'_>, source: &Source<'_>, places: &mut check::Places) -> Option<Manifest> {
    if source.text.len() > FILE_MAX {
        // Whoever reads files reads no further than this, so that how long it is isn't known.
        let message = format!("the manifest is larger than {} MiB", FILE_MAX >> 20);
        document.refuse(None, "", Code::InvalidValue, message, None);
        return None;
    }
    let table = match DeTable::parse(source.text) {
        Ok(table) => table,
        Err(error) => {
            let start = error.span().map(|span| span.start);
            let message = format!("this is not TOML: {}", error.message());
            document.refuse(start, "", Code::ManifestSyntax, message, None);
            return None;
        }
    };
    app(document, &Table::root(document, &table), source.name, places)
}

fn app(
    document: &Document<'_>,
    root: &Table<'_>,
    file: &str,
    places: &mut check::Places,
) -> Option<Manifest> {
    let app = root.get("app");
    if app.is_none() {
        let hint = Some("begin the file with `app = \"name\"`".to_owned());
        root.refuse(Code::MissingKey, "the manifest doesn't say whose it is: `app` is missing", hint);
    }
    let name = app.and_then(|value| {
        let name = value.text()?.parse::<AppName>();
        name.map_err(|error| value.refuse(Code::InvalidValue, error.to_string(), None)).ok()
    });
    root.not_supported(&["stores", "transactions"]);
    let services = root.get("services").and_then(|value| value.table().map(|table| (value, table)));
    root.finish();
    let (Some(name), Some(app)) = (name, app) else { return None };
    places.app(&name, file, app.line());
    let services = services.map(|(value, table)| {
        let services = service::all(&table, &name, file, places);
        if services.len() > SERVICES_MAX {
            value.refuse(Code::InvalidValue, format!("an app has at most {SERVICES_MAX} services"), None);
        }
        services
    });
    let services = services.unwrap_or_default();
    if services.is_empty() && document.is_clean() {
        let hint = Some("add `[services.NAME]` with an `image`".to_owned());
        root.refuse(Code::MissingKey, format!("app `{name}` has no services"), hint);
    }
    places.calls(&name, &services, file);
    Some(Manifest { app: name, services })
}
