//! Where in the files of a request a key is written.

use minato_model::{code::Problem, ids::AppName, manifest};
use toml::de::DeTable;

use super::File;

/// The problem with file and line of its key, in the file that describes the app. A key that isn't
/// written is placed where the next outer one is.
pub(super) fn place(mut problem: Problem, files: &[File], app: &AppName) -> Problem {
    let Some(key) = problem.key.clone().filter(|_| problem.file.is_none()) else { return problem };
    if let Some(file) = files.iter().find(|file| describes(file, app)) {
        problem.file = Some(file.name.clone());
        problem.line = manifest::line_of(&file.text, &key);
    }
    problem
}

/// Whether the file is the app's.
pub(super) fn describes(file: &File, app: &AppName) -> bool {
    let Ok(table) = DeTable::parse(&file.text) else { return false };
    table.get_ref().get("app").and_then(|value| value.get_ref().as_str()) == Some(app.as_str())
}
