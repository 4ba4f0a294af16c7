//! A layer's blob as a stream of its content: inflated on a thread of its own, so that hashing and
//! writing files go on at the same time. Digest, size and diff id are checked while it passes.

use std::{
    fs::File,
    io::{self, BufRead, Read},
    os::unix::fs::FileExt,
    sync::mpsc::{Receiver, SyncSender},
};

use flate2::read::MultiGzDecoder;
use minato_model::digest::Digest;

use super::{Layer, UnpackError, error::failed};
use crate::digest::Hasher;

/// How much is handed over at once: large enough that a hand-over costs nothing beside it.
const CHUNK: usize = 256 << 10;
/// How many chunks wait for the writer: together 2 MiB.
pub(super) const CHUNKS_WAITING: usize = 8;

/// The stored bytes, from the first to the last that the manifest promises, hashed as they are read.
struct Stored<'a> {
    file: &'a File,
    read: u64,
    size: u64,
    hasher: Hasher,
    /// The disk's own failure, which the decoders would pass off as broken content.
    failure: Option<io::Error>,
}

impl Read for Stored<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.size - self.read).unwrap_or(usize::MAX).min(buffer.len());
        match self.file.read_at(&mut buffer[..room], self.read) {
            Ok(count) => {
                self.hasher.update(&buffer[..count]);
                self.read += count as u64;
                Ok(count)
            }
            Err(error) => {
                let kind = error.kind();
                self.failure = Some(error);
                Err(kind.into())
            }
        }
    }
}

impl Stored<'_> {
    /// Reads to the end and compares.
    fn verify(mut self, layer: &Layer, buffer: &mut [u8]) -> Result<(), UnpackError> {
        while self.failure.is_none() && !matches!(self.read(buffer), Ok(0)) {}
        let stored = |source| failed("reading a layer", std::path::Path::new(layer.digest.as_str()), source);
        if let Some(error) = self.failure {
            return Err(stored(error));
        }
        let found = layer.file.metadata().map_err(stored)?.len();
        let name = layer.digest.clone();
        if self.read != self.size || found != self.size {
            return Err(UnpackError::Size { layer: name, expected: self.size, found });
        }
        let found = self.hasher.finish();
        if found == name { Ok(()) } else { Err(UnpackError::Digest { layer: name, found }) }
    }
}

/// What came out of a layer.
pub(super) enum Outcome {
    /// All of it, verified; so many bytes.
    Whole(u64),
    /// The reader went away; what is stored is right.
    Left,
}

/// Inflates `layer` into `chunks`, at most `limit` bytes.
pub(super) fn inflate(
    layer: &Layer,
    limit: u64,
    chunks: SyncSender<Vec<u8>>,
) -> Result<Outcome, UnpackError> {
    let hasher = Hasher::new(layer.digest.algorithm());
    let mut stored = Stored { file: &layer.file, read: 0, size: layer.size, hasher, failure: None };
    let mut content =
        Content { hasher: Hasher::new(layer.diff_id.algorithm()), bytes: 0, limit, chunks: Some(chunks) };
    let inflated = content.pump(&mut stored);
    // The reader is to see the end now, not when the rest has been hashed.
    content.chunks = None;
    stored.verify(layer, &mut vec![0; CHUNK])?;
    let name = layer.digest.clone();
    match inflated {
        Ok(true) => {}
        Ok(false) if content.bytes > limit => {
            return Err(UnpackError::Limit { layer: name, what: "bytes", limit });
        }
        Ok(false) => return Ok(Outcome::Left),
        Err(error) => {
            let why = format!("it can't be decompressed ({error})");
            return Err(UnpackError::Malformed { layer: name, path: String::new(), why });
        }
    }
    let found: Digest = content.hasher.finish();
    if found == layer.diff_id {
        Ok(Outcome::Whole(content.bytes))
    } else {
        Err(UnpackError::DiffId { layer: name, expected: layer.diff_id.clone(), found })
    }
}

struct Content {
    hasher: Hasher,
    bytes: u64,
    limit: u64,
    chunks: Option<SyncSender<Vec<u8>>>,
}

impl Content {
    /// Whether all of the content came through: not when it is too large, or nobody reads it any more.
    fn pump(&mut self, stored: &mut Stored<'_>) -> io::Result<bool> {
        let mut first = [0; 4];
        let count = stored.file.read_at(&mut first, 0)?;
        // The compression is read from the content, whatever the media type says (see `media::is_layer`).
        match &first[..count] {
            [0x1f, 0x8b, ..] => self.copy(&mut MultiGzDecoder::new(stored)),
            [0x28, 0xb5, 0x2f, 0xfd] => self.copy(&mut zstd::Decoder::new(stored)?),
            _ => self.copy(stored),
        }
    }

    fn copy(&mut self, content: &mut impl Read) -> io::Result<bool> {
        loop {
            let mut chunk = Vec::with_capacity(CHUNK);
            content.by_ref().take(CHUNK as u64).read_to_end(&mut chunk)?;
            if chunk.is_empty() {
                return Ok(true);
            }
            self.bytes += chunk.len() as u64;
            self.hasher.update(&chunk);
            let taken = self.chunks.as_ref().is_some_and(|chunks| chunks.send(chunk).is_ok());
            if !taken || self.bytes > self.limit {
                return Ok(false);
            }
        }
    }
}

/// The other end: the content, chunk by chunk.
pub(super) struct Chunks {
    source: Receiver<Vec<u8>>,
    chunk: Vec<u8>,
    used: usize,
}

impl Chunks {
    pub(super) fn new(source: Receiver<Vec<u8>>) -> Self {
        Self { source, chunk: Vec::new(), used: 0 }
    }

    /// Waits for the end of what nobody needs any more: a layer is verified to its last byte.
    pub(super) fn drain(self) {
        while self.source.recv().is_ok() {}
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.used == self.chunk.len() {
            match self.source.recv() {
                Ok(chunk) => (self.chunk, self.used) = (chunk, 0),
                Err(_) => return Ok(&[]),
            }
        }
        Ok(&self.chunk[self.used..])
    }

    fn consume(&mut self, count: usize) {
        self.used += count;
    }
}
