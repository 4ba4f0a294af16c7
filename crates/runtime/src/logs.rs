//! The log files of instances: one record a line, `<number> <unix ms> <o|e> <text>`.
//!
//! Numbers count from 0 over an instance's life and times never go back, so that a place in a log
//! is found by halving. Written by the keeper alone; read by anyone at any time. What a full disk
//! cost is one record of its own, and a gap in the numbers before it.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use minato_model::{node::Stream, time::Moment};

/// The longest text of a record, in bytes; what is longer is cut, and ends in `…`.
pub const TEXT_MAX: usize = 16 * 1024;

/// The longest record: number, time and letter before the text, the end of the line after it.
const RECORD_MAX: u64 = TEXT_MAX as u64 + 64;

/// One line that an instance wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Which of the instance's lines.
    pub line: u64,
    /// When the keeper read it.
    pub at: Moment,
    /// Where it was written to.
    pub stream: Stream,
    /// Without its end; what is not UTF-8 is replaced.
    pub text: String,
}

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// So that the last record is the log's last.
    Tail,
    /// After the line with this number.
    AfterLine(u64),
    /// With the first line of this moment or later.
    Since(Moment),
}

impl Begin {
    /// Whether a record lies before the beginning.
    fn skips(self, record: &Record) -> bool {
        match self {
            Self::Tail => false,
            Self::AfterLine(line) => record.line <= line,
            Self::Since(moment) => record.at < moment,
        }
    }
}

/// At most `limit` records, oldest first. A log that isn't there is empty.
///
/// # Errors
/// The files can't be read.
pub fn read(path: &Path, begin: Begin, limit: usize) -> io::Result<Vec<Record>> {
    // The newer file first: if it is turned over meanwhile, a line may be seen in both, never in none.
    let newer = open(path)?;
    let mut former = path.to_owned().into_os_string();
    former.push(".1");
    let older = open(Path::new(&former))?;
    let files = [older, newer].into_iter().flatten();
    let mut records: Vec<Record> = Vec::new();
    if begin == Begin::Tail {
        let mut files: Vec<File> = files.collect();
        let mut parts: Vec<Vec<Record>> = Vec::new();
        let mut left = limit;
        while let Some(file) = files.pop() {
            let part = tail(file, left)?;
            left -= part.len();
            parts.push(part);
            if left == 0 {
                break;
            }
        }
        records.extend(parts.into_iter().rev().flatten());
        records.dedup_by_key(|record| record.line);
        return Ok(records);
    }
    for mut file in files {
        let start = halve(&mut file, begin)?;
        file.seek(SeekFrom::Start(start))?;
        let mut reader = BufReader::new(file);
        while records.len() < limit {
            match next(&mut reader)? {
                Next::End => break,
                Next::Record(record) => {
                    let new = records.last().is_none_or(|last| last.line < record.line);
                    if new && !begin.skips(&record) {
                        records.push(record);
                    }
                }
                Next::Other => {}
            }
        }
    }
    Ok(records)
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What stands next in a file.
enum Next {
    Record(Record),
    /// Something that is no record, or the rest of one.
    Other,
    End,
}

fn next(reader: &mut impl BufRead) -> io::Result<Next> {
    let mut line = Vec::new();
    reader.take(RECORD_MAX).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(Next::End);
    }
    // A line without an end is being written: it is read the next time.
    let Some((b'\n', line)) = line.split_last() else { return Ok(Next::Other) };
    Ok(parse(line).map_or(Next::Other, Next::Record))
}

fn parse(line: &[u8]) -> Option<Record> {
    let mut parts = line.splitn(4, |&byte| byte == b' ');
    let mut number = || str::from_utf8(parts.next()?).ok();
    let (line, at) = (number()?.parse().ok()?, number()?.parse().ok()?);
    let stream = match parts.next()? {
        b"o" => Stream::Stdout,
        b"e" => Stream::Stderr,
        _ => return None,
    };
    let text = String::from_utf8_lossy(parts.next()?).into_owned();
    Some(Record { line, at: Moment(at), stream, text })
}

/// The last records of a file, at most `limit`, read backwards by blocks.
fn tail(mut file: File, limit: usize) -> io::Result<Vec<Record>> {
    const BLOCK: u64 = 64 * 1024;
    let mut from = file.seek(SeekFrom::End(0))?;
    let mut bytes: Vec<u8> = Vec::new();
    // One more line's end than records: the first piece may be the rest of a record.
    while from > 0 && bytes.iter().filter(|&&byte| byte == b'\n').count() <= limit {
        let step = BLOCK.min(from);
        from -= step;
        file.seek(SeekFrom::Start(from))?;
        let mut block = Vec::new();
        (&mut file).take(step).read_to_end(&mut block)?;
        block.append(&mut bytes);
        bytes = block;
    }
    let ended = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let mut lines: Vec<&[u8]> = bytes[..ended].split(|&byte| byte == b'\n').collect();
    // After the last line's end comes nothing.
    lines.pop();
    if from > 0 && !lines.is_empty() {
        lines.remove(0);
    }
    let records: Vec<Record> = lines.into_iter().filter_map(parse).collect();
    let skip = records.len().saturating_sub(limit);
    Ok(records.into_iter().skip(skip).collect())
}

/// A place at or before the first record that isn't skipped, found by halving.
fn halve(file: &mut File, begin: Begin) -> io::Result<u64> {
    let (mut low, mut high) = (0, file.seek(SeekFrom::End(0))?);
    while high - low > RECORD_MAX {
        let middle = low + (high - low) / 2;
        match record_after(file, middle)? {
            Some(record) if begin.skips(&record) => low = middle,
            _ => high = middle,
        }
    }
    // `low` may lie within a record that is skipped: the rest of it is no record.
    Ok(low)
}

/// The first whole record that begins after this place.
fn record_after(file: &mut File, place: u64) -> io::Result<Option<Record>> {
    file.seek(SeekFrom::Start(place))?;
    let mut reader = BufReader::new(file);
    let mut rest = Vec::new();
    (&mut reader).take(RECORD_MAX).read_until(b'\n', &mut rest)?;
    match next(&mut reader)? {
        Next::Record(record) => Ok(Some(record)),
        Next::Other | Next::End => Ok(None),
    }
}

#[cfg(test)]
mod tests;
