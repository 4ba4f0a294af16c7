//! What planning is told of images.

use minato_image::manifest::Platform;
use minato_model::{
    code::{Code, Problem},
    digest::Digest,
    images::{Images as _, ResolvedImage},
};
use serde_json::{Value, json};

use crate::server::{OCI_INDEX, OCI_MANIFEST, Server, files};

fn config(architecture: &str, port: &str) -> Value {
    json!({
        "architecture": architecture,
        "os": "linux",
        "config": {
            "User": "web",
            "Cmd": ["/bin/web"],
            "ExposedPorts": { port: {} },
            "Volumes": { "/var/cache": {} },
        },
        "rootfs": { "type": "layers", "diff_ids": [] },
    })
}

fn here() -> String {
    Platform::of_this_machine().architecture
}

async fn resolve(server: &Server, reference: &str) -> Result<ResolvedImage, Problem> {
    server.library.resolve(&reference.parse().unwrap()).await
}

async fn check_refused(server: &Server, reference: &str, code: Code, says: &str) {
    let problem = resolve(server, reference).await.unwrap_err();
    assert_eq!(problem.code, code, "{problem:?}");
    let said = format!("{} {}", problem.message, problem.hint.unwrap_or_default());
    assert!(said.contains(says), "{said}");
}

#[tokio::test]
async fn an_image_by_tag_and_by_digest() {
    let server = Server::start().await;
    let manifest = server.push_image("shop/web", "latest", &config(&here(), "8080/tcp")).await;
    let digest = minato_image::digest::of(manifest.to_string().as_bytes());
    let wanted = ResolvedImage {
        digest: digest.clone(),
        user: "web".to_owned(),
        ports: vec![8080],
        volumes: vec!["/var/cache".to_owned()],
        has_command: true,
    };
    assert_eq!(resolve(&server, "shop/web").await.unwrap(), wanted);
    assert_eq!(resolve(&server, &format!("shop/web@{digest}")).await.unwrap(), wanted);
}

async fn push_index(server: &Server, tag: &str, entries: &[(&Value, &str)]) -> Digest {
    let entries: Vec<_> = entries
        .iter()
        .map(|(manifest, architecture)| {
            let text = manifest.to_string();
            json!({
                "mediaType": manifest["mediaType"],
                "digest": minato_image::digest::of(text.as_bytes()),
                "size": text.len(),
                "platform": { "os": "linux", "architecture": architecture },
            })
        })
        .collect();
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
    server.put_manifest("shop/web", tag, &index).await.check(201);
    minato_image::digest::of(index.to_string().as_bytes())
}

#[tokio::test]
async fn an_index_means_the_image_for_this_machine() {
    let server = Server::start().await;
    let ours = server.push_image("shop/web", "ours", &config(&here(), "8080/tcp")).await;
    let other = server.push_image("shop/web", "other", &config("s390x", "9090/tcp")).await;
    let digest = push_index(&server, "v1", &[(&other, "s390x"), (&ours, &here())]).await;
    let resolved = resolve(&server, "shop/web:v1").await.unwrap();
    assert_eq!(resolved.ports, [8080]);
    assert_eq!(resolved.digest, digest, "the index is what is pinned");

    push_index(&server, "v2", &[(&other, "s390x")]).await;
    check_refused(&server, "shop/web:v2", Code::ImagePlatform, "linux/s390x").await;
    check_refused(&server, "shop/web:other", Code::ImagePlatform, "linux/s390x").await;
}

#[tokio::test]
async fn what_is_missing_is_said_with_what_is_near() {
    let server = Server::start().await;
    check_refused(&server, "shop/web", Code::ImageMissing, "no image has been pushed yet").await;
    server.push_image("shop/web", "v1.4", &config(&here(), "8080/tcp")).await;
    check_refused(&server, "shop/wep", Code::ImageMissing, "`shop/web`").await;
    check_refused(&server, "shop/web:v1.5", Code::ImageMissing, "`v1.4`").await;
    check_refused(&server, "shop/web:v1.5", Code::ImageMissing, "docker://127.0.0.1:7070/shop/web:v1.5")
        .await;
    let absent = format!("shop/web@{}", minato_image::digest::of(b"absent"));
    check_refused(&server, &absent, Code::ImageMissing, "no such digest").await;
    check_refused(
        &server,
        "quay.example/shop/web:v1",
        Code::NotSupported,
        "docker://quay.example/shop/web:v1",
    )
    .await;
    check_refused(&server, "localhost:7070/shop/web:v1", Code::NotSupported, "write it without the host")
        .await;
}

#[tokio::test]
async fn what_is_no_image_or_was_changed_is_refused() {
    let server = Server::start().await;
    server.push_image("a", "artifact", &json!({ "some": "thing" })).await;
    check_refused(&server, "a:artifact", Code::ImageRefused, "no image configuration").await;

    let manifest = server.push_image("a", "v1", &config(&here(), "8080/tcp")).await;
    let blobs = server.root().join("blobs");
    let hex = manifest["layers"][0]["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    let layer = files(&blobs).into_iter().find(|path| path.ends_with(&hex)).unwrap();
    std::fs::write(blobs.join(&layer), "shorter").unwrap();
    check_refused(&server, "a:v1", Code::ImageDigest, "the disk has changed it").await;
    std::fs::remove_file(blobs.join(&layer)).unwrap();
    check_refused(&server, "a:v1", Code::ImageMissing, &hex).await;
    let hex = manifest["config"]["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    let config = files(&blobs).into_iter().find(|path| path.ends_with(&hex)).unwrap();
    std::fs::write(blobs.join(config), "{}").unwrap();
    check_refused(&server, "a:v1", Code::ImageDigest, &hex).await;
    assert_eq!(manifest["mediaType"], OCI_MANIFEST);
}
