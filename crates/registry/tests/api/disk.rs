//! A disk that is full.

use std::{path::PathBuf, process::Command};

use axum::body::Body;
use minato_image::digest;
use minato_registry::Limits;

use crate::server::{Server, files};

/// A file system of 8 MiB, for as long as this lives.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(&at).status();
        assert!(mounted.unwrap().success(), "this test needs root");
        Self(at)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(&self.0).status());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_and_harms_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(folder.path().join("registry"));
    let server = Server::in_folder(folder, Limits::default(), false).await;
    let small = server.push_blob("a", b"small").await;
    let large = vec![1; 12 << 20];
    let single = format!("/v2/a/blobs/uploads/?digest={}", digest::of(&large));
    let refused = server.send("POST", &single, &[("expect", "100-continue")], large.clone()).await;
    assert!(refused.refused(507, "UNKNOWN").json().to_string().contains("full"));
    // Nothing of it is left, and there is room again for what fits.
    assert_eq!(files(&server.root().join("uploads")), [""; 0]);

    let at = server.begin("a").await;
    server.send("PATCH", &at, &[], large).await.refused(507, "UNKNOWN");
    // What fitted is kept: with room, the client could go on.
    let status = server.send("GET", &at, &[], Body::empty()).await;
    let last: u64 = status.check(204).header("range").strip_prefix("0-").unwrap().parse().unwrap();
    assert!((1 << 20..8 << 20).contains(&last), "{last}");
    server.send("DELETE", &at, &[], Body::empty()).await.check(204);
    server.push_blob("a", &vec![2; 4 << 20]).await;
    let kept = server.send("GET", &format!("/v2/a/blobs/{small}"), &[], Body::empty()).await;
    assert_eq!(kept.check(200).bytes, "small");
    drop(disk);
}
