//! The path prefixes of one host.

use std::sync::Arc;

use super::Service;

/// Prefixes without a slash at their end, in order.
#[derive(Debug)]
pub(super) struct Paths {
    sorted: Box<[(Box<str>, Arc<Service>)]>,
    longest: usize,
}

impl Paths {
    /// From what is in order already.
    pub(super) fn sorted<'a>(paths: impl Iterator<Item = (&'a str, Arc<Service>)>) -> Self {
        let sorted: Box<[_]> = paths.map(|(path, service)| (Box::from(path), service)).collect();
        let longest = sorted.iter().map(|(path, _): &(Box<str>, _)| path.len()).max().unwrap_or(0);
        Self { sorted, longest }
    }

    /// The longest prefix of whole segments.
    pub(super) fn find(&self, path: &str) -> Option<&Arc<Service>> {
        // Nothing beyond the longest prefix can match, so the effort has a bound.
        let mut end = if path.len() <= self.longest {
            path.len()
        } else if path.as_bytes().get(self.longest) == Some(&b'/') {
            self.longest
        } else {
            path.as_bytes().get(..self.longest)?.iter().rposition(|byte| *byte == b'/').unwrap_or(0)
        };
        loop {
            let prefix = path.get(..end)?;
            if let Ok(index) = self.sorted.binary_search_by(|(other, _)| (**other).cmp(prefix)) {
                return self.sorted.get(index).map(|(_, service)| service);
            }
            end = if end == 0 { return None } else { prefix.rfind('/').unwrap_or(0) };
        }
    }
}
