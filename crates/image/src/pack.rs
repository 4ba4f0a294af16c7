//! A folder or a program as an image: one layer, a configuration, a manifest.
//!
//! The same input gives the same bytes on any day, so an image's digest says whether anything changed:
//! entries are sorted, times are 1970, owners are root, and nothing of the machine or the day is
//! written. Only another version of the compressor may give other bytes.

mod elf;
mod folder;
mod layer;
mod library;
mod program;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use minato_model::digest::Digest;
use serde::Serialize;

use crate::{
    digest,
    manifest::{Descriptor, ImageManifest, Platform, media},
};

/// The day on which all packed images were made.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// What to pack, and what its image says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackRequest {
    /// A folder, which becomes the image's root, or a program (ELF).
    pub source: PathBuf,
    /// What is run; empty: the program, or nothing for a folder.
    pub entrypoint: Vec<String>,
    /// Its arguments, or what is run where there is no entrypoint.
    pub cmd: Vec<String>,
    /// Environment variables, in this order.
    pub env: Vec<(String, String)>,
    /// The port that it listens on.
    pub port: Option<u16>,
    /// Whom it runs as; empty: root.
    pub user: String,
    /// Where it starts; empty: `/`.
    pub workdir: String,
    /// Remarks.
    pub labels: BTreeMap<String, String>,
}

/// A packed image. Its layer is an unnamed temporary file, gone with this value.
#[derive(Debug)]
pub struct Packed {
    /// What names the image: the digest of `manifest`.
    pub digest: Digest,
    /// Its manifest, to be pushed as [`media::OCI_MANIFEST`].
    pub manifest: Vec<u8>,
    /// Its layers, the lowest first.
    pub layers: Vec<Blob>,
    /// Its configuration.
    pub config: Blob,
    /// The digests of the layers' content uncompressed.
    pub diff_ids: Vec<Digest>,
}

impl Packed {
    /// All that is to be pushed before the manifest.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        self.layers.iter().chain([&self.config])
    }
}

/// Content to be pushed.
#[derive(Debug)]
pub struct Blob {
    /// What names it.
    pub digest: Digest,
    /// How many bytes it has.
    pub size: u64,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Bytes(Vec<u8>),
    File(File),
}

impl Blob {
    /// Its bytes from the first; each reader has a position of its own.
    ///
    /// # Errors
    /// When the temporary file can't be opened anew.
    pub fn open(&self) -> io::Result<Box<dyn Read + Send + '_>> {
        Ok(match &self.content {
            Content::Bytes(bytes) => Box::new(bytes.as_slice()),
            Content::File(file) => Box::new(File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?),
        })
    }
}

/// Why nothing was packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file of the source can't be read.
    #[error("{} can't be read", path.display())]
    Source {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Neither file nor folder nor link.
    #[error("{} is a {kind}, which an image can't hold: remove it from the folder", path.display())]
    Special {
        /// Which.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// It was written to meanwhile.
    #[error("{} was changed while it was packed: pack again when nothing writes to it", .0.display())]
    Changed(PathBuf),
    /// A script as program.
    #[error(
        "{} is a script for `{interpreter}`: a program is packed alone; put the script into a folder with its interpreter, and pack that with --entrypoint",
        path.display()
    )]
    Script {
        /// Which.
        path: PathBuf,
        /// What would run it.
        interpreter: String,
    },
    /// Neither folder nor program.
    #[error("{} is neither a folder nor a program for Linux (64-bit ELF)", .0.display())]
    NotAProgram(PathBuf),
    /// A shared library as program.
    #[error("{} is a shared library or an object file, not a program", .0.display())]
    NotExecutable(PathBuf),
    /// For another processor.
    #[error(
        "{} is built for {found}, and this machine is {here}: build it for {here}, or pack it there",
        path.display()
    )]
    Architecture {
        /// Which.
        path: PathBuf,
        /// What it is built for.
        found: String,
        /// What this is.
        here: String,
    },
    /// A program or library that isn't whole.
    #[error("{} is damaged: {why}", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// A library that nobody has.
    #[error(
        "{} needs the library {name}, which isn't in {}: install it, or link the program statically",
        needed_by.display(),
        listed(searched)
    )]
    MissingLibrary {
        /// Its name.
        name: String,
        /// Who needs it.
        needed_by: PathBuf,
        /// Where it was looked for.
        searched: Vec<PathBuf>,
    },
    /// No loader.
    #[error(
        "{} is started by {}, which isn't on this machine: install its C library, or link it statically",
        program.display(),
        loader.display()
    )]
    MissingLoader {
        /// The program.
        program: PathBuf,
        /// Its loader.
        loader: PathBuf,
    },
    /// A user that the image doesn't have.
    #[error("the image of a program has the users root and nobody, not `{0}`: write one of them or a number")]
    User(String),
    /// The temporary file can't be written.
    #[error("the packed image can't be written in {}", path.display())]
    Scratch {
        /// The folder of temporary files.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn listed(paths: &[PathBuf]) -> String {
    let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    if names.is_empty() { "any directory of libraries".to_owned() } else { names.join(", ") }
}

fn unreadable(path: &Path, source: io::Error) -> PackError {
    PackError::Source { path: path.to_owned(), source }
}

/// What goes into a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    /// From the image's root, without a first `/`.
    path: PathBuf,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Directory {
        mode: u32,
    },
    /// A file with its mode and, where it has several names, what they share (device and inode).
    File {
        source: PathBuf,
        mode: u32,
        shared: Option<(u64, u64)>,
    },
    Text {
        text: &'static str,
    },
    Link {
        target: PathBuf,
    },
}

/// Packs a folder or a program. Blocking; memory stays flat however large the source is.
///
/// # Errors
/// When the source isn't readable, is neither folder nor program, or lacks a library.
pub fn pack(request: &PackRequest) -> Result<Packed, PackError> {
    let source = &request.source;
    let metadata = std::fs::metadata(source).map_err(|error| unreadable(source, error))?;
    let (items, program) = if metadata.is_dir() {
        (folder::items(source)?, None)
    } else {
        let (items, program) = program::items(source, &request.user)?;
        (items, Some(program))
    };
    let (layer, diff_id) = layer::write(items)?;
    let config = serialised(&config(request, program, &diff_id));
    let config =
        Blob { digest: digest::of(&config), size: config.len() as u64, content: Content::Bytes(config) };
    let manifest = serialised(&ImageManifest {
        schema_version: 2,
        media_type: Some(media::OCI_MANIFEST.to_owned()),
        artifact_type: None,
        config: Descriptor::new(media::OCI_CONFIG, config.digest.clone(), config.size),
        layers: vec![Descriptor::new(media::OCI_LAYER_GZIP, layer.digest.clone(), layer.size)],
        subject: None,
        annotations: None,
    });
    Ok(Packed {
        digest: digest::of(&manifest),
        manifest,
        layers: vec![layer],
        config,
        diff_ids: vec![diff_id],
    })
}

#[expect(clippy::expect_used, reason = "only strings, numbers, lists and maps with string keys")]
fn serialised(document: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(document).expect("a document of an image is plain data")
}

/// An image's configuration, as the OCI image specification writes it.
#[derive(Serialize)]
struct Config {
    created: &'static str,
    #[serde(flatten)]
    platform: Platform,
    config: Run,
    rootfs: RootFs,
    history: [History; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Run {
    #[serde(skip_serializing_if = "String::is_empty")]
    user: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    exposed_ports: BTreeMap<String, BTreeMap<(), ()>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    env: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    entrypoint: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cmd: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    working_dir: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct RootFs {
    #[serde(rename = "type")]
    kind: &'static str,
    diff_ids: [Digest; 1],
}

#[derive(Serialize)]
struct History {
    created: &'static str,
    created_by: &'static str,
}

fn config(request: &PackRequest, program: Option<String>, diff_id: &Digest) -> Config {
    let mut entrypoint = request.entrypoint.clone();
    if entrypoint.is_empty() {
        entrypoint.extend(program);
    }
    let here = Platform::of_this_machine();
    Config {
        created: CREATED,
        // Which generation of its processor a program needs isn't known; the oldest is meant.
        platform: Platform { variant: None, ..here },
        config: Run {
            user: request.user.clone(),
            exposed_ports: request.port.iter().map(|port| (format!("{port}/tcp"), BTreeMap::new())).collect(),
            env: request.env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
            entrypoint,
            cmd: request.cmd.clone(),
            working_dir: request.workdir.clone(),
            labels: request.labels.clone(),
        },
        rootfs: RootFs { kind: "layers", diff_ids: [diff_id.clone()] },
        history: [History { created: CREATED, created_by: "minato build" }],
    }
}

#[cfg(test)]
mod tests;
