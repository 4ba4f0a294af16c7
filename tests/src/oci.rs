//! Images made by hand, byte by byte: what no builder would make.
#![expect(clippy::unwrap_used, reason = "a test without its image fails here")]

use minato_image::digest;
use minato_model::digest::Digest;
use serde_json::{Value, json};
use tar::{EntryType, Header};

use crate::{Server, http::Answer, wire};

/// A layer that grows entry by entry; names and links are taken as they are.
#[derive(Debug, Default)]
pub struct Layer(Vec<u8>);

impl Layer {
    /// Adds what a header alone describes, or with data behind it.
    #[must_use]
    pub fn entry(mut self, kind: EntryType, path: &str, target: &str, data: &[u8]) -> Self {
        let header = Self::header(kind, path, target, data.len() as u64);
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// Adds a file.
    #[must_use]
    pub fn file(self, path: &str, data: &[u8]) -> Self {
        self.entry(EntryType::Regular, path, "", data)
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, path, target, b"")
    }

    /// Adds a file that says it has so many zeros, and has them.
    #[must_use]
    pub fn zeros(mut self, path: &str, size: usize) -> Self {
        self.0.extend_from_slice(Self::header(EntryType::Regular, path, "", size as u64).as_bytes());
        self.0.resize(self.0.len() + size.next_multiple_of(512), 0);
        self
    }

    /// Adds the head of a file that says it is so long, and a little of it.
    #[must_use]
    pub fn huge(mut self, path: &str, size: u64) -> Self {
        self.0.extend_from_slice(Self::header(EntryType::Regular, path, "", size).as_bytes());
        self.0.resize(self.0.len() + 4096, 0);
        self
    }

    /// The whole layer.
    #[must_use]
    pub fn bytes(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }

    fn header(kind: EntryType, path: &str, target: &str, size: u64) -> Header {
        let mut header = Header::new_gnu();
        // Past the library's own checks of names.
        let fields = header.as_gnu_mut().unwrap();
        fields.name.get_mut(..path.len()).unwrap().copy_from_slice(path.as_bytes());
        fields.linkname.get_mut(..target.len()).unwrap().copy_from_slice(target.as_bytes());
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        header.set_cksum();
        header
    }
}

/// An image of this machine's platform, with these layers of plain tar.
#[must_use]
pub fn config(layers: &[Vec<u8>]) -> Value {
    let diff_ids: Vec<_> = layers.iter().map(|layer| digest::of(layer).to_string()).collect();
    let platform = minato_image::manifest::Platform::of_this_machine();
    json!({
        "os": platform.os,
        "architecture": platform.architecture,
        "config": { "Entrypoint": ["/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/www"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
}

/// Pushes layers of plain tar, and a configuration and a manifest for them.
///
/// # Panics
/// When the registry doesn't take it.
#[track_caller]
pub fn push(server: &Server, repository: &str, tag: &str, layers: &[Vec<u8>]) -> Digest {
    push_with(server, repository, tag, layers, &config(layers), "application/vnd.oci.image.layer.v1.tar")
}

/// Pushes blobs that are said to be layers of a media type.
///
/// # Panics
/// When the registry doesn't take it.
#[track_caller]
pub fn push_with(
    server: &Server,
    repository: &str,
    tag: &str,
    blobs: &[Vec<u8>],
    config: &Value,
    media_type: &str,
) -> Digest {
    let token = wire::pusher(server, repository);
    let config = config.to_string().into_bytes();
    let layers: Vec<_> = blobs
        .iter()
        .map(|blob| json!({ "mediaType": media_type, "size": blob.len(), "digest": digest::of(blob) }))
        .collect();
    for blob in blobs.iter().chain([&config]) {
        let answer = push_blob(server, &token, repository, blob, &digest::of(blob));
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "size": config.len(),
            "digest": digest::of(&config),
        },
        "layers": layers,
    });
    let manifest = manifest.to_string();
    let answer = put_manifest(server, &token, repository, tag, &manifest);
    assert_eq!(answer.status, 201, "{}", answer.text());
    digest::of(manifest.as_bytes())
}

/// Pushes a blob in one request, under a digest that may be wrong.
///
/// # Panics
/// When there is no answer.
#[must_use]
#[track_caller]
pub fn push_blob(server: &Server, token: &str, repository: &str, bytes: &[u8], digest: &Digest) -> Answer {
    let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
    let headers = [("Authorization", token), ("Content-Type", "application/octet-stream")];
    wire::call(server, "POST", &path, &headers, bytes)
}

/// Puts a manifest.
///
/// # Panics
/// When there is no answer.
#[must_use]
#[track_caller]
pub fn put_manifest(server: &Server, token: &str, repository: &str, name: &str, manifest: &str) -> Answer {
    let headers = [("Authorization", token), ("Content-Type", "application/vnd.oci.image.manifest.v1+json")];
    let path = format!("/v2/{repository}/manifests/{name}");
    wire::call(server, "PUT", &path, &headers, manifest.as_bytes())
}
