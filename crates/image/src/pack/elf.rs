//! The few fields of an ELF file that say how it is loaded: 64-bit, little-endian (gABI chapters 4
//! and 5). Read by hand because a packer needs nothing else of the format; every size is bounded.

use std::{
    fs::File,
    io::Read,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::{PackError, unreadable};

const SEGMENTS_MAX: usize = 512;
const DYNAMIC_BYTES_MAX: u64 = 1 << 20;
const STRING_BYTES_MAX: usize = 4096;
/// No program needs more libraries by name itself.
const NEEDED_MAX: usize = 4096;

/// How a program or library is loaded.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Elf {
    /// What it is built for, as ELF numbers processors.
    pub(super) machine: u16,
    /// Whether it can be started.
    pub(super) executable: bool,
    /// What loads it.
    pub(super) interpreter: Option<PathBuf>,
    /// The libraries that it needs, by name.
    pub(super) needed: Vec<String>,
    /// Where they are looked for first, for its libraries' libraries too.
    pub(super) rpath: Vec<String>,
    /// Where they are looked for; goes instead of `rpath`.
    pub(super) runpath: Vec<String>,
}

struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    size: u64,
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from(half(bytes, at)) | u32::from(half(bytes, at + 2)) << 16
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32
}

/// Reads `path`.
///
/// # Errors
/// When it is no such file, or isn't whole.
pub(super) fn read(path: &Path) -> Result<Elf, PackError> {
    let mut file = File::open(path).map_err(|error| unreadable(path, error))?;
    let mut header = Vec::new();
    (&mut file).take(256).read_to_end(&mut header).map_err(|error| unreadable(path, error))?;
    if let Some(line) = header.strip_prefix(b"#!") {
        let line = line.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let interpreter = String::from_utf8_lossy(line).trim().escape_debug().to_string();
        return Err(PackError::Script { path: path.to_owned(), interpreter });
    }
    // 64-bit, little-endian, version 1; the header has 64 bytes.
    if header.len() < 64 || !header.starts_with(b"\x7fELF\x02\x01\x01") {
        return Err(PackError::NotAProgram(path.to_owned()));
    }
    Reader { file, path }.elf(&header)
}

struct Reader<'a> {
    file: File,
    path: &'a Path,
}

impl Reader<'_> {
    fn damaged(&self, why: &'static str) -> PackError {
        PackError::Damaged { path: self.path.to_owned(), why }
    }

    fn bytes(&self, offset: u64, size: usize) -> Result<Vec<u8>, PackError> {
        let mut bytes = vec![0; size];
        let read = self.file.read_exact_at(&mut bytes, offset);
        read.map_err(|_| self.damaged("it ends before what its header promises"))?;
        Ok(bytes)
    }

    fn elf(&self, header: &[u8]) -> Result<Elf, PackError> {
        const EXECUTABLE: u16 = 2;
        const SHARED: u16 = 3;
        let segments = self.segments(header)?;
        let kind = half(header, 16);
        let mut elf = Elf { machine: half(header, 18), ..Elf::default() };
        if let Some(segment) = segments.iter().find(|segment| segment.kind == 3) {
            let size = usize::try_from(segment.size).ok().filter(|&size| size <= STRING_BYTES_MAX);
            let bytes = self
                .bytes(segment.offset, size.ok_or_else(|| self.damaged("its loader's name is too long"))?)?;
            elf.interpreter = Some(PathBuf::from(self.text(&bytes)?));
        }
        elf.executable = kind == EXECUTABLE || (kind == SHARED && elf.interpreter.is_some());
        if let Some(segment) = segments.iter().find(|segment| segment.kind == 2) {
            self.dynamic(segment, &segments, &mut elf)?;
        }
        Ok(elf)
    }

    fn segments(&self, header: &[u8]) -> Result<Vec<Segment>, PackError> {
        let (offset, size, count) =
            (long(header, 32), usize::from(half(header, 54)), usize::from(half(header, 56)));
        if count == 0 {
            return Ok(Vec::new());
        }
        if size != 56 || count > SEGMENTS_MAX {
            return Err(self.damaged("its table of segments is wrong"));
        }
        let table = self.bytes(offset, size * count)?;
        let segment = |bytes: &[u8]| Segment {
            kind: word(bytes, 0),
            offset: long(bytes, 8),
            address: long(bytes, 16),
            size: long(bytes, 32),
        };
        Ok(table.chunks_exact(size).map(segment).collect())
    }

    fn dynamic(&self, segment: &Segment, segments: &[Segment], elf: &mut Elf) -> Result<(), PackError> {
        const NEEDED: u64 = 1;
        const STRINGS: u64 = 5;
        const RPATH: u64 = 15;
        const RUNPATH: u64 = 29;
        const FLAGS: u64 = 0x6fff_fffb;
        const PIE: u64 = 0x0800_0000;
        if segment.size > DYNAMIC_BYTES_MAX {
            return Err(self.damaged("its dynamic section is too large"));
        }
        let table = self.bytes(segment.offset, usize::try_from(segment.size).unwrap_or(0))?;
        let entries: Vec<(u64, u64)> = table
            .chunks_exact(16)
            .map(|entry| (long(entry, 0), long(entry, 8)))
            .take_while(|(tag, _)| *tag != 0)
            .collect();
        let strings = entries.iter().find(|(tag, _)| *tag == STRINGS).map(|(_, address)| *address);
        // Static programs at no fixed address have no loader, and say so here.
        elf.executable |= entries.iter().any(|(tag, value)| *tag == FLAGS && value & PIE != 0);
        for (tag, value) in entries {
            if !matches!(tag, NEEDED | RPATH | RUNPATH) {
                continue;
            }
            // Addresses in memory, which the loaded segments give a place in the file.
            let address = strings.and_then(|strings| strings.checked_add(value));
            let text = address
                .and_then(|address| place(segments, address))
                .map(|offset| self.string(offset))
                .ok_or_else(|| self.damaged("a name of its dynamic section is nowhere in it"))??;
            let directories = || text.split(':').filter(|text| !text.is_empty()).map(str::to_owned).collect();
            match tag {
                NEEDED if elf.needed.len() == NEEDED_MAX => {
                    return Err(self.damaged("it needs too many libraries"));
                }
                NEEDED => elf.needed.push(text),
                RPATH => elf.rpath = directories(),
                _ => elf.runpath = directories(),
            }
        }
        Ok(())
    }

    fn string(&self, offset: u64) -> Result<String, PackError> {
        let mut bytes = vec![0; STRING_BYTES_MAX];
        let read = self.file.read_at(&mut bytes, offset).map_err(|error| unreadable(self.path, error))?;
        self.text(&bytes[..read])
    }

    /// Up to the zero byte.
    fn text(&self, bytes: &[u8]) -> Result<String, PackError> {
        let end = bytes.iter().position(|&byte| byte == 0);
        let text = end.and_then(|end| std::str::from_utf8(&bytes[..end]).ok());
        text.map(str::to_owned).ok_or_else(|| self.damaged("one of its names isn't text"))
    }
}

fn place(segments: &[Segment], address: u64) -> Option<u64> {
    let loaded = segments.iter().filter(|segment| segment.kind == 1);
    let mut offsets = loaded.filter_map(|segment| {
        let within = address.checked_sub(segment.address).filter(|within| *within < segment.size)?;
        segment.offset.checked_add(within)
    });
    offsets.next()
}

/// A processor's name, as Go names it.
pub(super) fn architecture(machine: u16) -> Option<&'static str> {
    Some(match machine {
        3 => "386",
        21 => "ppc64le",
        22 => "s390x",
        40 => "arm",
        62 => "amd64",
        183 => "arm64",
        243 => "riscv64",
        258 => "loong64",
        _ => return None,
    })
}
