//! A tar archive, entry by entry, as POSIX.1-2001 (pax) and GNU tar write it.
//!
//! The headers of long names and of attributes are read within bounds (a header may claim any size),
//! and sparse files keep their holes; this is why entries aren't taken from the `tar` crate, whose
//! header type does the reading of fields.

use std::io::{self, BufRead};

use tar::{EntryType, Header};

use super::error::{Fault, Refusal};

mod sparse;

const BLOCK: usize = 512;
/// The longest extended header: a path, a link and some attributes of 64 KiB.
const EXTENSION_MAX: u64 = 1 << 20;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    SymbolicLink,
    HardLink,
    Fifo,
    Device,
    Other(char),
}

/// One entry's head. Its data are read from the archive before the next one.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    /// Seconds and nanoseconds.
    pub(super) mtime: (i64, u32),
    /// Names and values, as `SCHILY.xattr.` records give them.
    pub(super) attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// How long the file is, holes included.
    pub(super) size: u64,
    /// Where the data go: offset and length; `None`: from the start, without holes.
    pub(super) parts: Option<Vec<(u64, u64)>>,
}

/// What extended headers say about the next entry.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: sparse::Written,
}

/// Reads entries from `input`.
pub(super) struct Archive<R> {
    input: R,
    /// Of the present entry: what is left of its data, and of the filling after them.
    data: u64,
    filling: u64,
}

fn malformed(why: &str) -> Fault {
    Fault::Malformed(why.to_owned())
}

impl<R: BufRead> Archive<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, data: 0, filling: 0 }
    }

    pub(super) fn into_inner(self) -> R {
        self.input
    }

    /// The next entry, or `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, Fault> {
        let mut extended = Extended::default();
        loop {
            let Some(header) = self.header()? else { return Ok(None) };
            let kind = header.entry_type();
            if kind.is_pax_local_extensions() {
                extended.read(&self.extension()?)?;
            } else if kind.is_pax_global_extensions() {
                // Nothing that it can say is about a file of the image.
                self.extension()?;
            } else if kind.is_gnu_longname() {
                extended.path = Some(until_zero(self.extension()?));
            } else if kind.is_gnu_longlink() {
                extended.link = Some(until_zero(self.extension()?));
            } else {
                return self.entry(&header, extended).map(Some);
            }
        }
    }

    /// The next piece of the entry's data, empty at their end.
    pub(super) fn data(&mut self) -> Result<&[u8], Fault> {
        if self.data == 0 {
            return Ok(&[]);
        }
        let left = usize::try_from(self.data).unwrap_or(usize::MAX);
        let piece = self.input.fill_buf().map_err(|error| malformed(&error.to_string()))?;
        if piece.is_empty() {
            return Err(malformed("it ends within a file"));
        }
        Ok(&piece[..piece.len().min(left)])
    }

    /// So much of the last piece is used.
    pub(super) fn consume(&mut self, count: usize) {
        self.input.consume(count);
        self.data -= count as u64;
    }

    fn skip_rest(&mut self) -> Result<(), Fault> {
        self.data += std::mem::take(&mut self.filling);
        loop {
            let count = self.data()?.len();
            if count == 0 {
                return Ok(());
            }
            self.consume(count);
        }
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Fault> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..]) {
                // Archives without an end mark are common enough.
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(malformed("it ends within a header")),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(malformed(&error.to_string())),
            }
        }
        Ok(Some(block))
    }

    fn header(&mut self) -> Result<Option<Header>, Fault> {
        self.skip_rest()?;
        let Some(block) = self.block()? else { return Ok(None) };
        if block.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        // The checksum counts its own eight bytes as spaces.
        let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
        let found = sum(&block[..148]) + 8 * u32::from(b' ') + sum(&block[156..]);
        if header.cksum().ok() != Some(found) {
            return Err(malformed("it is no tar archive there: a header's checksum is wrong"));
        }
        let size = header.entry_size().map_err(|_| malformed("a header's size is no number"))?;
        self.expect_data(size)?;
        Ok(Some(header))
    }

    fn expect_data(&mut self, size: u64) -> Result<(), Fault> {
        if size > i64::MAX as u64 {
            return Err(malformed("a header's size is more than any file has"));
        }
        self.data = size;
        self.filling = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    /// The whole data of a header that is about the next entry.
    fn extension(&mut self) -> Result<Vec<u8>, Fault> {
        if self.data > EXTENSION_MAX {
            return Err(malformed("an extended header is larger than 1 MiB"));
        }
        let mut bytes = Vec::new();
        loop {
            let piece = self.data()?;
            let count = piece.len();
            if count == 0 {
                return Ok(bytes);
            }
            bytes.extend_from_slice(piece);
            self.consume(count);
        }
    }

    fn entry(&mut self, header: &Header, extended: Extended) -> Result<Entry, Fault> {
        let number = |value: io::Result<u64>| value.map_err(|_| malformed("a header's field is no number"));
        let path = extended.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let kind = kind_of(header, &path);
        let stored = match extended.size {
            Some(size) => size,
            None => number(header.entry_size())?,
        };
        // A link has no data, whatever its size says (old archives give the linked file's).
        let has_data = matches!(kind, Kind::File | Kind::Other(_));
        self.expect_data(if has_data { stored } else { 0 })?;
        let (sparse_path, size, parts) =
            if kind == Kind::File { self.sparse(header, extended.sparse)? } else { (None, 0, None) };
        let link = extended.link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
        let mtime = match extended.mtime {
            Some(time) => time,
            None => (i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0), 0),
        };
        Ok(Entry {
            kind,
            path: sparse_path.unwrap_or(path),
            link: link.unwrap_or_default(),
            mode: header.mode().map_err(|_| malformed("a header's mode is no number"))?,
            uid: extended.uid.map_or_else(|| number(header.uid()), Ok)?,
            gid: extended.gid.map_or_else(|| number(header.gid()), Ok)?,
            mtime,
            attributes: extended.attributes,
            size,
            parts,
        })
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "whatever else there is, now or later, is no content")]
fn kind_of(header: &Header, path: &[u8]) -> Kind {
    match header.entry_type() {
        // Archives from before 1988 have no directories, only names that end so.
        EntryType::Regular if path.ends_with(b"/") => Kind::Directory,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => Kind::SymbolicLink,
        EntryType::Link => Kind::HardLink,
        EntryType::Fifo => Kind::Fifo,
        EntryType::Char | EntryType::Block => Kind::Device,
        other => Kind::Other(char::from(other.as_byte())),
    }
}

fn until_zero(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len()));
    bytes
}

impl Extended {
    /// Records of `length key=value\n`, where the length counts the whole record.
    fn read(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        let wrong = || malformed("an extended header is wrong");
        while !bytes.is_empty() && bytes[0] != 0 {
            let space = bytes.iter().take(20).position(|&byte| byte == b' ').ok_or_else(wrong)?;
            let length: usize = number(&bytes[..space]).ok_or_else(wrong)?;
            let record = bytes.get(space + 1..length).ok_or_else(wrong)?;
            let record = record.strip_suffix(b"\n").ok_or_else(wrong)?;
            let equals = record.iter().position(|&byte| byte == b'=').ok_or_else(wrong)?;
            self.set(&record[..equals], &record[equals + 1..]).ok_or_else(wrong)?;
            bytes = &bytes[length..];
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number(value)?),
            b"uid" => self.uid = Some(number(value)?),
            b"gid" => self.gid = Some(number(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.attributes.push((name.to_vec(), value.to_vec()));
                } else if let Some(name) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.set(name, value)?;
                }
            }
        }
        Some(())
    }
}

fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `-12.5` as seconds and nanoseconds after them.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    if text.starts_with('-') && nanoseconds > 0 {
        Some((seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds))
    } else {
        Some((seconds, nanoseconds))
    }
}

/// Longer files are refused, even where most of them are holes.
fn bounded(size: u64) -> Result<u64, Fault> {
    const SPARSE_MAX: u64 = 1 << 40;
    if size > SPARSE_MAX { Err(Refusal::Sparse(size).into()) } else { Ok(size) }
}
