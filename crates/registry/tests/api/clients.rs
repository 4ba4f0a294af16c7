//! skopeo, podman and buildah push and pull.

use std::{path::Path, process::Stdio};

use minato_model::images::Images as _;
use minato_registry::Limits;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::server::{Server, TOKEN};

/// An OCI layout with one image of two layers, made here byte by byte.
fn layout(folder: &Path) -> Value {
    let put = |bytes: &[u8], media_type: &str| {
        let digest = minato_image::digest::of(bytes);
        let path = folder.join("blobs/sha256").join(digest.hex());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    };
    let tar = |name: &str, content: &[u8]| {
        let mut header = [0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..107].copy_from_slice(b"0000644");
        header[108..115].copy_from_slice(b"0000000");
        header[116..123].copy_from_slice(b"0000000");
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[136..147].copy_from_slice(b"00000000000");
        header[148..156].fill(b' ');
        header[156] = b'0';
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = header.iter().copied().map(u32::from).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        let mut bytes = header.to_vec();
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512) + 1024, 0);
        bytes
    };
    let layers = [tar("hello", b"hello\n"), tar("data", &vec![7; 3 << 20])];
    let diff_ids: Vec<_> = layers.iter().map(|layer| minato_image::digest::of(layer)).collect();
    let config = json!({
        "architecture": minato_image::manifest::Platform::of_this_machine().architecture,
        "os": "linux",
        "config": { "Cmd": ["/hello"], "User": "1000", "ExposedPorts": { "8080/tcp": {} } },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put(config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json"),
        "layers": layers.map(|layer| put(&layer, "application/vnd.oci.image.layer.v1.tar")),
    });
    let mut entry = put(manifest.to_string().as_bytes(), "application/vnd.oci.image.manifest.v1+json");
    let platform = json!({ "os": "linux", "architecture": config["architecture"] });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{ "mediaType": entry["mediaType"], "digest": entry["digest"], "size": entry["size"],
                        "platform": platform }],
    });
    let mut several = put(index.to_string().as_bytes(), "application/vnd.oci.image.index.v1+json");
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": "v1" });
    several["annotations"] = json!({ "org.opencontainers.image.ref.name": "several" });
    std::fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let index = json!({ "schemaVersion": 2, "manifests": [entry, several] });
    std::fs::write(folder.join("index.json"), index.to_string()).unwrap();
    manifest
}

/// Where clients keep what they keep.
struct Home {
    folder: TempDir,
}

impl Home {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let policy = folder.path().join(".config/containers/policy.json");
        std::fs::create_dir_all(policy.parent().unwrap()).unwrap();
        std::fs::write(policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
        std::fs::write(folder.path().join("auth.json"), "{}").unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Runs a client to its end; gives whether it succeeded, and what it said.
    async fn run(&self, command: &str) -> (bool, String) {
        let mut words = command.split_whitespace();
        let mut command = Command::new(words.next().unwrap());
        command.args(words).env("HOME", self.folder.path()).env("XDG_RUNTIME_DIR", self.folder.path());
        command.env("REGISTRY_AUTH_FILE", self.path("auth.json")).stdin(Stdio::null());
        let output = command.kill_on_drop(true).output().await.unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    async fn succeed(&self, command: &str) -> String {
        let (succeeded, said) = self.run(command).await;
        assert!(succeeded, "{command}: {said}");
        said
    }

    /// podman or buildah with storage of its own, which needs no overlay.
    fn storage(&self, program: &str) -> String {
        format!(
            "{program} --storage-driver vfs --root {} --runroot {}",
            self.path(&format!("{program}-root")),
            self.path(&format!("{program}-run"))
        )
    }
}

const COPY: &str = "skopeo copy -q --dest-tls-verify=false --src-tls-verify=false";

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_pushes_and_pulls() {
    let server = Server::start().await;
    let home = Home::new();
    let manifest = layout(&home.folder.path().join("layout"));
    let to = format!("docker://{}/shop/web", server.address);
    let from = format!("oci:{}:v1", home.path("layout"));
    let credentials = format!("--dest-creds any:{TOKEN}");

    let (pushed, said) = home.run(&format!("{COPY} {from} {to}:v1")).await;
    assert!(!pushed && said.contains("log in with a token"), "{said}");
    let (pushed, said) = home.run(&format!("{COPY} --dest-creds any:wrong {from} {to}:v1")).await;
    assert!(!pushed, "{said}");

    home.succeed(&format!("{COPY} --preserve-digests {credentials} {from} {to}:v1")).await;
    // As `docker save` writes it, pushed as version 2, schema 2.
    let saved = format!("docker-archive:{}", home.path("saved.tar"));
    home.succeed(&format!("{COPY} {from} {saved}:web:v2")).await;
    home.succeed(&format!("{COPY} {credentials} --format v2s2 {saved} {to}:v2")).await;

    // An image for several platforms, and back.
    let several = format!("oci:{}:several", home.path("layout"));
    home.succeed(&format!("{COPY} --all --preserve-digests {credentials} {several} {to}:several")).await;
    home.succeed(&format!("{COPY} --all {to}:several dir:{}", home.path("pulled-several"))).await;
    let resolved = server.library.resolve(&"shop/web:several".parse().unwrap()).await.unwrap();
    assert_eq!((resolved.ports, resolved.user.as_str()), (vec![8080], "1000"));

    // Anybody on loopback may pull.
    let pulled = home.path("pulled");
    home.succeed(&format!("{COPY} --preserve-digests {to}:v1 oci:{pulled}:x")).await;
    let index = std::fs::read(Path::new(&pulled).join("index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    let digest = minato_image::digest::of(manifest.to_string().as_bytes());
    assert_eq!(index["manifests"][0]["digest"], digest.as_str());
    home.succeed(&format!("{COPY} {to}:v2 dir:{}", home.path("pulled-v2"))).await;
    home.succeed(&format!("{COPY} {to}@{digest} dir:{}", home.path("pulled-by-digest"))).await;

    let tags = home.succeed(&format!("skopeo list-tags --tls-verify=false {to}")).await;
    assert!(tags.contains("\"v1\"") && tags.contains("\"v2\""), "{tags}");
    home.succeed(&format!("skopeo delete --tls-verify=false --creds any:{TOKEN} {to}:v2")).await;
    assert_eq!(server.library.tags("shop/web").unwrap(), ["several", "v1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_and_buildah_push_and_pull() {
    let server = Server::with(Limits::default(), true).await;
    let home = Home::new();
    layout(&home.folder.path().join("layout"));
    let address = server.address;
    let from = format!("oci:{}:v1", home.path("layout"));
    let saved = format!("docker-archive:{}", home.path("saved.tar"));
    home.succeed(&format!("{COPY} {from} {saved}:web:v1")).await;
    for program in ["podman", "buildah"] {
        let with_storage = home.storage(program);
        let image = format!("docker://{address}/{program}/web:v1");
        let pulled = home.succeed(&format!("{with_storage} pull -q {saved}")).await;
        let id = pulled.trim();
        home.succeed(&format!("{with_storage} push -q --tls-verify=false {id} {image}")).await;
        home.succeed(&format!("{with_storage} rmi -f {id}")).await;
        let again = home.succeed(&format!("{with_storage} pull -q --tls-verify=false {image}")).await;
        assert_eq!(again.trim(), id, "{program}");
    }
    // Without credentials, because this registry takes anonymous pushes.
    home.succeed(&format!("{COPY} --all {from} docker://{address}/shop/web:v1")).await;
    assert_eq!(server.library.repositories().unwrap(), ["buildah/web", "podman/web", "shop/web"]);
}
