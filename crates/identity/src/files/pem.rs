//! The sections of a PEM file (RFC 7468), as texts: which there are, without reading what they hold.

/// From `-----BEGIN label-----` to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Section<'a> {
    pub(super) label: &'a str,
    /// The whole section, its first and last line with it.
    pub(super) text: &'a str,
}

impl Section<'_> {
    pub(super) fn is_key(&self) -> bool {
        self.label.ends_with("PRIVATE KEY")
    }

    /// By PKCS#8, or the older way with headers (RFC 1421).
    pub(super) fn is_encrypted(&self) -> bool {
        self.label.starts_with("ENCRYPTED")
            || self.text.lines().any(|line| line.starts_with("Proc-Type:") && line.contains("ENCRYPTED"))
    }
}

/// Every section, up to one that has no end.
pub(super) fn sections(text: &str) -> impl Iterator<Item = Section<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (start, label) = begin(rest)?;
        let from = rest.get(start..)?;
        let end = format!("-----END {label}-----");
        let length = from.find(&end)? + end.len();
        let newline = from.get(length..)?.chars().take_while(|c| matches!(c, '\r' | '\n')).count();
        let (text, left) = from.split_at(length + newline);
        rest = left;
        Some(Section { label, text })
    })
}

/// Where the next section begins, and its label.
fn begin(text: &str) -> Option<(usize, &str)> {
    let start = text.find("-----BEGIN ")?;
    let label = text.get(start + "-----BEGIN ".len()..)?;
    let end = label.find("-----")?;
    Some((start, label.get(..end)?))
}
