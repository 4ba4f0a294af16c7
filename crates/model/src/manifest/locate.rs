//! Where in a manifest a key is written, for problems that show only later.

use toml::de::DeTable;

/// The line of a key with its path (`services.web.port`), from 1. A key that isn't written is where the
/// next outer one is; `None`: not even that is there, or the text is no TOML.
#[must_use]
pub fn line_of(text: &str, key: &str) -> Option<u32> {
    let table = DeTable::parse(text).ok()?;
    let mut table = table.get_ref();
    let mut found = None;
    for part in key.split('.') {
        let Some((key, value)) = table.get_key_value(part) else { break };
        found = Some(key.span().start);
        match value.get_ref().as_table() {
            Some(inner) => table = inner,
            None => break,
        }
    }
    let before = text.as_bytes().get(..found?).unwrap_or_default();
    let breaks = before.iter().filter(|byte| **byte == b'\n').count();
    Some(u32::try_from(breaks + 1).unwrap_or(u32::MAX))
}
