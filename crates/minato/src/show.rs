//! What people see: tables, colours only on a terminal and without `NO_COLOR`, durations, times.

use std::{
    io::{IsTerminal as _, Write as _},
    sync::atomic::{AtomicBool, Ordering},
};

/// Whether stdout's reader went away.
static CLOSED: AtomicBool = AtomicBool::new(false);

/// A line of data on stdout.
pub(crate) fn line(text: &str) {
    data(format!("{text}\n").as_bytes());
}

/// Data on stdout. A reader that went away ends the output, not with a panic.
pub(crate) fn data(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    if out.write_all(bytes).and_then(|()| out.flush()).is_err() {
        // A closed pipe is the reader's way to say that it has enough.
        CLOSED.store(true, Ordering::Relaxed);
    }
}

/// Whether nobody reads stdout any more: what follows a stream can end.
pub(crate) fn closed() -> bool {
    CLOSED.load(Ordering::Relaxed)
}

/// A line of progress on stderr. Where that is a terminal that was closed, nobody misses it.
pub(crate) fn progress(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}

/// An error on stderr, red where there is colour.
pub(crate) fn error(text: &str) {
    if coloured(&std::io::stderr()) {
        progress(&text.replacen("error:", "\x1b[1;31merror:\x1b[0m", 1));
    } else {
        progress(text);
    }
}

fn coloured(stream: &impl std::io::IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// How a word is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Warning,
    Bad,
}

/// A word in its tone's colour, where there is colour on stdout.
pub(crate) fn toned(text: &str, tone: Tone) -> String {
    let code = match tone {
        Tone::Plain => return text.to_owned(),
        Tone::Good => "32",
        Tone::Warning => "33",
        Tone::Bad => "31",
    };
    if coloured(&std::io::stdout()) { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// Whether progress bars make sense.
pub(crate) fn is_interactive() -> bool {
    std::io::stderr().is_terminal()
}

/// A table: a head and rows, columns two spaces apart, the last one as long as it is.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) {
    laid_out(head, rows).iter().for_each(|text| line(text));
}

/// The lines of a table.
pub(crate) fn laid_out(head: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| visible(cell));
        cells.chain(head.get(column).map(|cell| cell.len())).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..head.len()).map(width).collect();
    let row = |cells: Vec<&str>| {
        let mut text = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            let padding = width.saturating_sub(visible(cell)) + 2;
            text.push_str(&format!("{cell}{:padding$}", ""));
        }
        text.trim_end().to_owned()
    };
    let rows = rows.iter().map(|cells| row(cells.iter().map(String::as_str).collect()));
    std::iter::once(row(head.to_vec())).chain(rows).collect()
}

/// As much of a line as this many columns take.
pub(crate) fn cut(line: &str, columns: usize) -> String {
    if visible(line) <= columns {
        return line.to_owned();
    }
    let (mut escaped, mut seen, mut kept) = (false, 0, String::new());
    for c in line.chars() {
        let hidden = escaped || c == '\x1b';
        escaped = hidden && c != 'm';
        // Of what is cut off the colours still count: one of them ends the last word's.
        seen += usize::from(!hidden);
        if hidden || seen <= columns {
            kept.push(c);
        }
    }
    kept
}

/// How many characters are seen: colours take none.
fn visible(cell: &str) -> usize {
    let mut escaped = false;
    cell.chars()
        .filter(|c| {
            let hidden = escaped || *c == '\x1b';
            escaped = hidden && *c != 'm';
            !hidden
        })
        .count()
}

#[cfg(test)]
mod tests {
    #[test]
    fn colours_take_no_room() {
        assert_eq!(super::visible("\x1b[1;31mready\x1b[0m"), 5);
        assert_eq!(super::visible("ready"), 5);
        assert_eq!(super::visible("\x1b[32mgrün\x1b[0m"), 4);
        assert_eq!(super::cut("\x1b[32mgrün\x1b[0m und blau", 3), "\x1b[32mgrü\x1b[0m");
        assert_eq!(super::cut("blau", 4), "blau");
    }

    #[test]
    fn columns_are_as_wide_as_what_is_seen() {
        let rows = [
            vec!["shop/web".to_owned(), "\x1b[32mgood\x1b[0m".to_owned(), "because".to_owned()],
            vec!["a/b".to_owned(), "down".to_owned(), String::new()],
        ];
        let seen = super::laid_out(&["SERVICE", "VERDICT", "WHY"], &rows);
        assert_eq!(
            seen,
            ["SERVICE   VERDICT  WHY", "shop/web  \x1b[32mgood\x1b[0m     because", "a/b       down"]
        );
        assert_eq!(super::laid_out(&["ONE"], &[]), ["ONE"]);
    }
}
