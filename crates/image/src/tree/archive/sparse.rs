//! Sparse files: GNU tar's old form (more headers), and its three forms by extended headers.
//! They are described in GNU tar's manual under "Storing Sparse Files".

use std::io::BufRead;

use tar::{GnuExtSparseHeader, Header};

use super::{Archive, BLOCK, EXTENSION_MAX, Fault, bounded, malformed, number};

/// More parts than this are no file of an image.
const PARTS_MAX: usize = 100_000;

/// What extended headers said.
#[derive(Default)]
pub(super) struct Written {
    major: u32,
    name: Option<Vec<u8>>,
    size: Option<u64>,
    offsets: Vec<u64>,
    lengths: Vec<u64>,
}

impl Written {
    pub(super) fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"major" => self.major = number(value)?,
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = Some(number(value)?),
            b"offset" => self.offsets.push(number(value)?),
            b"numbytes" => self.lengths.push(number(value)?),
            b"map" => {
                for (at, text) in value.split(|&byte| byte == b',').enumerate() {
                    let list = if at % 2 == 0 { &mut self.offsets } else { &mut self.lengths };
                    list.push(number(text)?);
                }
            }
            // `minor` and `numblocks` say nothing that isn't known otherwise.
            _ => {}
        }
        Some(())
    }
}

type Layout = (Option<Vec<u8>>, u64, Option<Vec<(u64, u64)>>);

impl<R: BufRead> Archive<R> {
    /// The file's real name (where it is written elsewhere), its length, and where its data go.
    pub(super) fn sparse(&mut self, header: &Header, written: Written) -> Result<Layout, Fault> {
        let (size, parts) = if header.entry_type().is_gnu_sparse() {
            // The map comes before the data, and isn't counted in their size.
            let (data, filling) = (self.data, self.filling);
            (self.data, self.filling) = (0, 0);
            let found = self.map_of_headers(header)?;
            (self.data, self.filling) = (data, filling);
            found
        } else if written.major == 1 {
            (written.size.ok_or_else(wrong)?, self.map_of_data()?)
        } else if let Some(size) = written.size {
            (size, written.offsets.into_iter().zip(written.lengths).collect())
        } else {
            return Ok((None, self.data, None));
        };
        check(&parts, bounded(size)?, self.data)?;
        Ok((written.name, size, Some(parts)))
    }

    fn map_of_headers(&mut self, header: &Header) -> Result<(u64, Vec<(u64, u64)>), Fault> {
        let gnu = header.as_gnu().ok_or_else(wrong)?;
        let size = gnu.real_size().map_err(|_| wrong())?;
        let mut parts = Vec::new();
        let mut add = |list: &[tar::GnuSparseHeader]| {
            for part in list.iter().filter(|part| !part.is_empty()) {
                parts.push((part.offset().map_err(|_| wrong())?, part.length().map_err(|_| wrong())?));
            }
            if parts.len() > PARTS_MAX { Err(wrong()) } else { Ok(()) }
        };
        add(&gnu.sparse)?;
        let mut more = gnu.is_extended();
        while more {
            let mut next = GnuExtSparseHeader::new();
            next.as_mut_bytes().copy_from_slice(&self.block()?.ok_or_else(wrong)?);
            add(next.sparse())?;
            more = next.is_extended();
        }
        Ok((size, parts))
    }

    /// Version 1.0: lines of numbers before the data (a count, then offset and length of each part),
    /// filled up to a block.
    fn map_of_data(&mut self) -> Result<Vec<(u64, u64)>, Fault> {
        let mut left = EXTENSION_MAX;
        let count: usize = self.line(&mut left)?;
        if count > PARTS_MAX {
            return Err(wrong());
        }
        let mut parts = Vec::new();
        for _ in 0..count {
            parts.push((self.line(&mut left)?, self.line(&mut left)?));
        }
        let used = EXTENSION_MAX - left;
        for _ in used..used.next_multiple_of(BLOCK as u64) {
            self.byte()?;
        }
        Ok(parts)
    }

    fn line<T: std::str::FromStr>(&mut self, left: &mut u64) -> Result<T, Fault> {
        let mut text = Vec::new();
        loop {
            let byte = self.byte()?;
            *left = left.checked_sub(1).ok_or_else(wrong)?;
            match byte {
                b'\n' => return number(&text).ok_or_else(wrong),
                byte if text.len() < 20 => text.push(byte),
                _ => return Err(wrong()),
            }
        }
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        let byte = *self.data()?.first().ok_or_else(wrong)?;
        self.consume(1);
        Ok(byte)
    }
}

/// Parts follow each other within the file, and have the data that there are.
fn check(parts: &[(u64, u64)], size: u64, data: u64) -> Result<(), Fault> {
    let (mut end, mut sum) = (0u64, 0u64);
    for &(offset, length) in parts {
        if offset < end {
            return Err(wrong());
        }
        end = offset.checked_add(length).filter(|&end| end <= size).ok_or_else(wrong)?;
        sum += length;
    }
    if sum == data { Ok(()) } else { Err(wrong()) }
}

fn wrong() -> Fault {
    malformed("the map of a sparse file is wrong")
}
