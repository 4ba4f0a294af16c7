//! Manifests, tags and referrers by plain requests.

use axum::body::Body;
use minato_image::digest::{self, Hasher};
use minato_model::digest::Algorithm;
use serde_json::{Value, json};

use crate::server::{OCI_INDEX, OCI_MANIFEST, Server};

fn config() -> Value {
    json!({ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": [] } })
}

#[tokio::test]
async fn kept_byte_by_byte_and_found_by_tag_and_digest() {
    let server = Server::start().await;
    let manifest = server.image("shop/web", &config()).await;
    // Spaces and order are part of what the digest is of.
    let text = format!(" {:#}\n", manifest);
    let fields = [("content-type", OCI_MANIFEST)];
    let put = server.send("PUT", "/v2/shop/web/manifests/v1", &fields, text.clone()).await;
    let digest = digest::of(text.as_bytes());
    assert_eq!(put.check(201).header("docker-content-digest"), digest.as_str());
    assert_eq!(put.header("location"), format!("/v2/shop/web/manifests/{digest}"));
    for name in ["v1", digest.as_str()] {
        let path = format!("/v2/shop/web/manifests/{name}");
        let got = server.send("GET", &path, &[], Body::empty()).await;
        assert_eq!(got.check(200).bytes, text);
        assert_eq!(got.header("content-type"), OCI_MANIFEST);
        let head = server.send("HEAD", &path, &[], Body::empty()).await;
        assert_eq!(head.check(200).header("content-length"), text.len().to_string());
        assert_eq!(head.header("docker-content-digest"), digest.as_str());
        assert!(head.bytes.is_empty());
    }
    assert_eq!(server.library.tag("shop/web", "v1").unwrap(), Some(digest.clone()));
    let (bytes, media_type) = server.library.manifest("shop/web", &digest).unwrap().unwrap();
    assert_eq!((bytes.as_slice(), media_type.as_str()), (text.as_bytes(), OCI_MANIFEST));
    assert_eq!(server.library.manifest("shop/other", &digest).unwrap(), None);
    assert_eq!(server.library.tag("../shop", "../v1").unwrap(), None);

    let server = server.restart().await;
    server.send("GET", "/v2/shop/web/manifests/v1", &[], Body::empty()).await.check(200);
}

#[tokio::test]
async fn what_is_wrong_is_refused_and_leaves_nothing() {
    let server = Server::start().await;
    let good = server.image("a", &config()).await;
    let mut incomplete = good.clone();
    incomplete["layers"][0]["digest"] = json!(digest::of(b"never pushed"));
    let refused = server.put_manifest("a", "v1", &incomplete).await;
    refused.refused(400, "MANIFEST_BLOB_UNKNOWN");
    let missing = refused.json();
    assert_eq!(missing["errors"][0]["detail"]["missing"][0], incomplete["layers"][0]["digest"]);
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [
        { "mediaType": OCI_MANIFEST, "digest": digest::of(b"never pushed"), "size": 1 },
    ]});
    server.put_manifest("a", "v1", &index).await.refused(400, "MANIFEST_BLOB_UNKNOWN");
    // In another repository the blobs aren't.
    server.put_manifest("b", "v1", &good).await.refused(400, "MANIFEST_BLOB_UNKNOWN");

    let elsewhere = digest::of(b"another");
    server.put_manifest("a", elsewhere.as_str(), &good).await.refused(400, "DIGEST_INVALID");
    server.put_manifest("a", "sha256:abc", &good).await.refused(400, "DIGEST_INVALID");
    for tag in ["-a", ".a", "a%2Fb", "a b".replace(' ', "%20").as_str(), &"a".repeat(129)] {
        let refused = server.put_manifest("a", tag, &good).await;
        assert!(refused.status.is_client_error(), "{tag}: {refused:?}");
    }
    for (media_type, body) in [
        (OCI_MANIFEST, "not json".to_owned()),
        (OCI_MANIFEST, "{}".to_owned()),
        (OCI_MANIFEST, "[".repeat(100_000)),
        (OCI_INDEX, good.to_string()),
        ("application/json", good.to_string()),
        ("application/vnd.docker.distribution.manifest.v1+json", good.to_string()),
    ] {
        let fields = [("content-type", media_type)];
        let refused = server.send("PUT", "/v2/a/manifests/v1", &fields, body).await;
        refused.refused(400, "MANIFEST_INVALID");
    }
    let fields = [("content-type", OCI_MANIFEST), ("expect", "100-continue")];
    let large = server.send("PUT", "/v2/a/manifests/v1", &fields, " ".repeat(5 << 20)).await;
    large.refused(413, "SIZE_INVALID");
    server.send("GET", "/v2/a/tags/list", &[], Body::empty()).await.refused(404, "NAME_UNKNOWN");
    server.send("GET", "/v2/a/manifests/v1", &[], Body::empty()).await.refused(404, "MANIFEST_UNKNOWN");
    assert_eq!(server.library.repositories().unwrap(), [""; 0]);
}

#[tokio::test]
async fn tags_move_and_go_and_what_is_pinned_stays() {
    let server = Server::start().await;
    let old = server.push_image("a", "latest", &config()).await.to_string();
    let old = digest::of(old.as_bytes());
    let mut newer = config();
    newer["author"] = json!("another");
    let new = digest::of(server.push_image("a", "latest", &newer).await.to_string().as_bytes());
    server.put_manifest("a", "v2", &server.image("a", &newer).await).await.check(201);
    assert_eq!(server.library.tag("a", "latest").unwrap(), Some(new.clone()));
    assert!(server.library.manifest("a", &old).unwrap().is_some());

    server.send("DELETE", "/v2/a/manifests/latest", &[], Body::empty()).await.check(202);
    server
        .send("DELETE", "/v2/a/manifests/latest", &[], Body::empty())
        .await
        .refused(404, "MANIFEST_UNKNOWN");
    assert_eq!(server.library.tags("a").unwrap(), ["v2"]);
    let path = format!("/v2/a/manifests/{new}");
    server.send("DELETE", &path, &[], Body::empty()).await.check(202);
    server.send("DELETE", &path, &[], Body::empty()).await.refused(404, "MANIFEST_UNKNOWN");
    server.send("GET", "/v2/a/manifests/v2", &[], Body::empty()).await.refused(404, "MANIFEST_UNKNOWN");
    assert_eq!(server.library.tags("a").unwrap(), [""; 0]);
    let (_, media_type) = server.library.manifest_by_digest(&new).unwrap().unwrap();
    assert_eq!(media_type, OCI_MANIFEST);
}

#[tokio::test]
async fn lists_come_in_pages() {
    let server = Server::start().await;
    let manifest = server.push_image("a", "b", &config()).await;
    for tag in ["d", "a", "C", "c"] {
        server.put_manifest("a", tag, &manifest).await.check(201);
    }
    let all = server.send("GET", "/v2/a/tags/list", &[], Body::empty()).await;
    assert_eq!(all.check(200).json(), json!({ "name": "a", "tags": ["C", "a", "b", "c", "d"] }));
    assert_eq!(all.header("link"), "");
    let mut next = "/v2/a/tags/list?n=2".to_owned();
    let mut seen = Vec::new();
    while !next.is_empty() {
        let page = server.send("GET", &next, &[], Body::empty()).await;
        seen.extend(page.check(200).json()["tags"].as_array().unwrap().clone());
        let link = page.header("link");
        next = link.strip_prefix('<').and_then(|link| link.split('>').next()).unwrap_or_default().to_owned();
    }
    assert_eq!(seen, ["C", "a", "b", "c", "d"]);
    let none = server.send("GET", "/v2/a/tags/list?n=0", &[], Body::empty()).await;
    assert_eq!(none.check(200).json()["tags"], json!([]));
    server.send("GET", "/v2/a/tags/list?n=x", &[], Body::empty()).await.check(400);
    let catalogue = server.send("GET", "/v2/_catalog", &[], Body::empty()).await;
    assert_eq!(catalogue.check(200).json(), json!({ "repositories": ["a"] }));
}

#[tokio::test]
async fn referrers_are_found_by_their_subject() {
    let server = Server::start().await;
    let image = server.push_image("a", "v1", &config()).await.to_string();
    let subject = digest::of(image.as_bytes());
    let path = format!("/v2/a/referrers/{subject}");
    let none = server.send("GET", &path, &[], Body::empty()).await;
    assert_eq!(none.check(200).json()["manifests"], json!([]));
    assert_eq!(none.header("content-type"), OCI_INDEX);

    let mut digests = Vec::new();
    for kind in ["application/vnd.test.one", "application/vnd.test.two"] {
        let mut artifact = server.image("a", &json!({})).await;
        artifact["artifactType"] = json!(kind);
        artifact["annotations"] = json!({ "kind": kind });
        artifact["subject"] = json!({ "mediaType": OCI_MANIFEST, "digest": subject, "size": image.len() });
        let digest = digest::of(artifact.to_string().as_bytes());
        let put = server.put_manifest("a", digest.as_str(), &artifact).await;
        assert_eq!(put.check(201).header("oci-subject"), subject.as_str());
        digests.push(digest);
    }
    let all = server.send("GET", &path, &[], Body::empty()).await;
    assert_eq!(all.json()["manifests"].as_array().unwrap().len(), 2);
    assert_eq!(all.header("oci-filters-applied"), "");
    let filtered = format!("{path}?artifactType=application%2Fvnd.test.two");
    let filtered = server.send("GET", &filtered, &[], Body::empty()).await;
    assert_eq!(filtered.header("oci-filters-applied"), "artifactType");
    let found = filtered.json()["manifests"].clone();
    assert_eq!(found.as_array().unwrap().len(), 1);
    assert_eq!(found[0]["digest"], digests[1].as_str());
    assert_eq!(found[0]["artifactType"], "application/vnd.test.two");
    assert_eq!(found[0]["annotations"]["kind"], "application/vnd.test.two");

    let gone = format!("/v2/a/manifests/{}", digests[1]);
    server.send("DELETE", &gone, &[], Body::empty()).await.check(202);
    let left = server.send("GET", &path, &[], Body::empty()).await;
    assert_eq!(left.json()["manifests"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn by_sha512_and_with_several_tags() {
    let server = Server::start().await;
    let manifest = server.image("a", &config()).await;
    let mut hasher = Hasher::new(Algorithm::Sha512);
    hasher.update(manifest.to_string().as_bytes());
    let digest = hasher.finish();
    let put = server.put_manifest("a", &format!("{digest}?tag=x&tag=y"), &manifest).await;
    assert_eq!(put.check(201).header("docker-content-digest"), digest.as_str());
    assert_eq!(put.headers.get_all("oci-tag").iter().count(), 2);
    assert_eq!(server.library.tag("a", "y").unwrap(), Some(digest));
    server.put_manifest("a", &format!("{}?tag=..", digest::of(b"")), &manifest).await.check(400);
}
