//! Where in the files of a request a key is written.

use minato_model::{code::Problem, ids::AppName};
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
        problem.line = offset(table, &key).map(|offset| line(&file.text, offset));
        return problem;
    }
    problem
}

fn offset(table: &DeTable<'_>, path: &str) -> Option<usize> {
    let mut table = table;
    let mut found = None;
    for part in path.split('.') {
        let Some((key, value)) = table.get_key_value(part) else { break };
        found = Some(key.span().start);
        match value.get_ref().as_table() {
            Some(inner) => table = inner,
            None => break,
        }
    }
    found
}

fn line(text: &str, offset: usize) -> u32 {
    let before = text.as_bytes().get(..offset).unwrap_or_default();
    let breaks = before.iter().filter(|byte| **byte == b'\n').count();
    u32::try_from(breaks + 1).unwrap_or(u32::MAX)
}
