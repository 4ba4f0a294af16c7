//! Where in the files of a request a key is written.

use minato_model::{code::Problem, ids::AppName, manifest};
use toml::de::DeTable;

use super::File;

/// The problem with file and line of its key, in the file that describes the app. A key that isn't
/// written is placed where the next outer one is.
pub(super) fn place(mut problem: Problem, files: &[File], app: &AppName) -> Problem {
    let Some(key) = problem.key.clone().filter(|_| problem.file.is_none()) else { return problem };
    for file in files {
        let Ok(table) = DeTable::parse(&file.text) else { continue };
        let table = table.get_ref();
        if table.get("app").and_then(|value| value.get_ref().as_str()) != Some(app.as_str()) {
            continue;
        }
        problem.file = Some(file.name.clone());
        problem.line = manifest::line_of(&file.text, &key);
        return problem;
    }
    problem
}
