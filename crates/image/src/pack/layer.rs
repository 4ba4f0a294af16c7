//! A layer's bytes: a tar archive, compressed with gzip, streamed to a temporary file.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use flate2::{Compression, GzBuilder, write::GzEncoder};
use minato_model::digest::{Algorithm, Digest};
use tar::{EntryType, Header};

use super::{Blob, Content, Item, PackError, What, unreadable};
use crate::digest::Hasher;

const BLOCK: usize = 512;
/// Zlib's own default: higher levels cost far more time than they save bytes.
const LEVEL: u32 = 6;

/// Passes bytes on, and makes their digest.
struct Hashed<W> {
    inner: W,
    hasher: Hasher,
    count: u64,
}

impl<W> Hashed<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: Hasher::new(Algorithm::Sha256), count: 0 }
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Where large temporary files belong: on a disk, where /tmp is often memory.
fn scratch() -> PathBuf {
    let disk = || Some(PathBuf::from("/var/tmp")).filter(|path| path.is_dir());
    std::env::var_os("TMPDIR").map(PathBuf::from).or_else(disk).unwrap_or_else(std::env::temp_dir)
}

/// The layer, and the digest of its content uncompressed.
pub(super) fn write(mut items: Vec<Item>) -> Result<(Blob, Digest), PackError> {
    // Component by component, so that a directory comes before what it holds.
    items.sort_by(|one, other| one.path.cmp(&other.path));
    let path = scratch();
    let failed = |source| PackError::Scratch { path: path.clone(), source };
    let file = tempfile::tempfile_in(&path).map_err(failed)?;
    let compressed = Hashed::new(io::BufWriter::with_capacity(1 << 18, file));
    // No name, no time, and an operating system that says nothing.
    let gzip = GzBuilder::new().mtime(0).operating_system(255).write(compressed, Compression::new(LEVEL));
    let mut archive = Archive { out: Hashed::new(gzip), names: BTreeMap::new(), buffer: vec![0; 1 << 18] };
    for item in &items {
        archive.item(item, &failed)?;
    }
    archive.out.write_all(&[0; 2 * BLOCK]).map_err(failed)?;
    let diff_id = archive.out.hasher.finish();
    let compressed = archive.out.inner.finish().map_err(failed)?;
    let file = compressed.inner.into_inner().map_err(|error| failed(error.into_error()))?;
    let blob =
        Blob { digest: compressed.hasher.finish(), size: compressed.count, content: Content::File(file) };
    Ok((blob, diff_id))
}

struct Archive {
    out: Hashed<GzEncoder<Hashed<io::BufWriter<File>>>>,
    /// The first name of each file that has several.
    names: BTreeMap<(u64, u64), PathBuf>,
    buffer: Vec<u8>,
}

impl Archive {
    fn item(&mut self, item: &Item, failed: &dyn Fn(io::Error) -> PackError) -> Result<(), PackError> {
        let path = item.path.as_path();
        match &item.what {
            What::Directory { mode } => {
                self.header(EntryType::Directory, path, *mode, 0, None).map_err(failed)
            }
            What::Link { target } => {
                self.header(EntryType::Symlink, path, 0o777, 0, Some(target)).map_err(failed)
            }
            What::Text { text } => {
                let size = text.len() as u64;
                self.header(EntryType::Regular, path, 0o644, size, None)
                    .and_then(|()| self.out.write_all(text.as_bytes()))
                    .and_then(|()| self.fill(size))
                    .map_err(failed)
            }
            What::File { source, mode, shared } => {
                if let Some(shared) = shared {
                    if let Some(first) = self.names.get(shared).cloned() {
                        return self.header(EntryType::Link, path, *mode, 0, Some(&first)).map_err(failed);
                    }
                    self.names.insert(*shared, path.to_owned());
                }
                self.file(path, source, *mode, failed)
            }
        }
    }

    fn file(
        &mut self,
        path: &Path,
        source: &Path,
        mode: u32,
        failed: &dyn Fn(io::Error) -> PackError,
    ) -> Result<(), PackError> {
        let mut file = File::open(source).map_err(|error| unreadable(source, error))?;
        let size = file.metadata().map_err(|error| unreadable(source, error))?.len();
        self.header(EntryType::Regular, path, mode, size, None).map_err(failed)?;
        let mut left = size;
        loop {
            let count = file.read(&mut self.buffer).map_err(|error| unreadable(source, error))?;
            let changed = || PackError::Changed(source.to_owned());
            if count == 0 {
                return if left == 0 { self.fill(size).map_err(failed) } else { Err(changed()) };
            }
            left = left.checked_sub(count as u64).ok_or_else(changed)?;
            self.out.write_all(&self.buffer[..count]).map_err(failed)?;
        }
    }

    fn fill(&mut self, size: u64) -> io::Result<()> {
        let rest = size % BLOCK as u64;
        if rest == 0 {
            return Ok(());
        }
        let zeros = io::repeat(0).take(BLOCK as u64 - rest);
        io::copy(&mut { zeros }, &mut self.out).map(drop)
    }

    fn header(
        &mut self,
        kind: EntryType,
        path: &Path,
        mode: u32,
        size: u64,
        link: Option<&Path>,
    ) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        let mut name = path.as_os_str().as_bytes().to_vec();
        if kind.is_dir() {
            name.push(b'/');
        }
        // The names are written as they are: no function of a library that tidies them.
        let fields = header.as_old_mut();
        let long_link = link.is_some_and(|link| !put(&mut fields.linkname, link.as_os_str().as_bytes()));
        let long_name = !put(&mut fields.name, &name);
        if let Some(link) = link.filter(|_| long_link) {
            self.long(EntryType::GNULongLink, link.as_os_str().as_bytes())?;
        }
        if long_name {
            self.long(EntryType::GNULongName, &name)?;
        }
        header.set_cksum();
        self.out.write_all(header.as_bytes())
    }

    /// GNU tar's entry before an entry whose name is too long for a header.
    fn long(&mut self, kind: EntryType, name: &[u8]) -> io::Result<()> {
        let mut header = Header::new_gnu();
        put(&mut header.as_old_mut().name, b"././@LongLink");
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        let size = name.len() as u64 + 1;
        header.set_size(size);
        header.set_cksum();
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(name)?;
        self.out.write_all(&[0])?;
        self.fill(size)
    }
}

/// Writes a name into a header's field, as much as goes; whether all did.
fn put(field: &mut [u8; 100], name: &[u8]) -> bool {
    let count = name.len().min(field.len());
    field[..count].copy_from_slice(&name[..count]);
    name.len() <= field.len()
}
